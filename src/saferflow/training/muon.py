"""Muon for the matrices of a model's layers, AdamW for everything else.

Momentum whose update of a matrix is made nearly orthogonal, so that rare directions (a sign that few rows show, a word that few
questions hold) learn as fast as frequent ones. Source: Jordan et al. 2024 (momentum, Newton-Schulz coefficients), arXiv
2502.16982 (scale of the update, with which AdamW's learning rates stay usable). Ours, beside `torch.optim.Muon`: float32 and
one batched product per shape, because torch's works in bfloat16 and matrix by matrix, which a CPU without bfloat16 does slowly.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
MOMENTUM = 0.95
SCALE = 0.2
"""Root mean square of an update, as AdamW's typically has it."""
LAYERS = (".layers.", ".blocks.")
"""Name parts of the matrices that Muon updates; embeddings, heads, patches and mergers are AdamW's."""


class Muon(torch.optim.Optimizer):
    """An optimiser with one learning rate for both kinds of parameters.

    Args:
        model: its parameters that require gradients are trained; matrices of layers by Muon, all others by AdamW.
        betas: AdamW's.
        weight_decay: decoupled, for parameters of two dimensions and more.
    """

    def __init__(
        self, model: nn.Module, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float = 1e-8
    ):
        trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
        matrices = [value for name, value in trained if is_layer_matrix(name, value)]
        others = [value for name, value in trained if not is_layer_matrix(name, value)]
        groups = [
            {"params": matrices, "matrices": True, "weight_decay": weight_decay},
            {"params": [value for value in others if value.ndim > 1], "matrices": False, "weight_decay": weight_decay},
            {"params": [value for value in others if value.ndim < 2], "matrices": False, "weight_decay": 0.0},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            update = self._update_matrices if group["matrices"] else self._update_others
            update(group, [value for value in group["params"] if value.grad is not None])
        return loss

    def _update_matrices(self, group: dict[str, Any], parameters: Iterable[nn.Parameter]) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            by_shape[parameter.shape].append(parameter)
        for shape, same_shape in by_shape.items():
            momenta = torch.stack([self._momentum(parameter) for parameter in same_shape])  # (matrices, rows, columns)
            size = group["lr"] * SCALE * math.sqrt(max(shape))
            for parameter, direction in zip(same_shape, orthogonalize(momenta), strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(direction, alpha=size)

    def _momentum(self, parameter: nn.Parameter) -> torch.Tensor:
        """Nesterov's momentum of a parameter's gradient."""
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
        return parameter.grad.lerp(state["momentum"], MOMENTUM)

    def _update_others(self, group: dict[str, Any], parameters: Iterable[nn.Parameter]) -> None:
        first_decay, second_decay = group["betas"]
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state.update(
                    step=torch.zeros(()), first=torch.zeros_like(parameter), second=torch.zeros_like(parameter)
                )
            state["step"] += 1
            step = state["step"].item()
            state["first"].lerp_(parameter.grad, 1 - first_decay)
            state["second"].mul_(second_decay).addcmul_(parameter.grad, parameter.grad, value=1 - second_decay)
            deviation = (state["second"] / (1 - second_decay**step)).sqrt_().add_(group["eps"])
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.addcdiv_(state["first"], deviation, value=-group["lr"] / (1 - first_decay**step))


def is_layer_matrix(name: str, parameter: torch.Tensor) -> bool:
    """Whether Muon updates a parameter."""
    return parameter.ndim == 2 and any(part in name for part in LAYERS)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Matrices of the same singular vectors with singular values near 1 (0.7 to 1.2), by Newton-Schulz iterations.

    Args:
        matrices: `(matrices, rows, columns)`.

    Returns:
        The same shape; a matrix of zeros stays zero.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    wide = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = wide @ wide.mT
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.mT if tall else wide
