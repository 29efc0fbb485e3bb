"""Numerical guards of the released GRPO code that TRL lacks: bounds of ratio and KL, epsilon, decay, and skipped steps.

Source: [K], the released code.
"""

import math
from typing import Any

import torch
from torch import nn
from trl.trainer.utils import nanstd

from saferflow.params import GuardParams


class Guarded:
    """Mixed into TRL's GRPO trainer, which computes the loss."""

    guards: GuardParams | None = None
    _bounded_inputs: dict[str, Any] | None = None

    def _compute_loss(self, model: nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's method, which reads `old_per_token_logps` and `ref_per_token_logps` after it has computed the policy's."""
        self._bounded_inputs = dict(inputs)
        try:
            return super()._compute_loss(model, self._bounded_inputs)
        finally:
            self._bounded_inputs = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple:
        logps, *rest = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        inputs, guards = self._bounded_inputs, self.guards
        if inputs is not None and guards is not None:
            old, reference = inputs.get("old_per_token_logps"), inputs.get("ref_per_token_logps")
            if guards.log_ratio is not None and old is not None:
                inputs["old_per_token_logps"] = bounded(old, logps, -guards.log_ratio, guards.log_ratio)
            if guards.kl is not None and reference is not None:
                inputs["ref_per_token_logps"] = bounded(reference, logps, *k3_bounds(guards.kl))
        return logps, *rest

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters with weight decay; transformers' choice leaves out biases and norms."""
        if self.guards is not None and self.guards.decay == "all":
            return [name for name, _ in model.named_parameters()]
        return super().get_decay_parameter_names(model)

    def _clip_grad_norm(self, model: nn.Module) -> torch.Tensor | float:
        """Clip, and return the norm before; if that is not finite, drop the gradient, so that the optimizer changes nothing.

        DeepSpeed has taken its step before; in bfloat16 it skips such steps by its own default.
        """
        norm = super()._clip_grad_norm(model)
        if self.guards is not None and self.guards.skip_steps and not self.is_deepspeed_enabled:
            skipped = not math.isfinite(float(norm))
            self._metrics["train"]["steps_skipped"].append(float(skipped))
            if skipped:
                model.zero_grad(set_to_none=True)
        return norm


def bounded(other: torch.Tensor, policy: torch.Tensor, least: float, most: float) -> torch.Tensor:
    """`other`, shifted so that `other - policy` lies in [least, most].

    Args:
        other: log-probabilities that do not depend on the weights, (completions, tokens).
        policy: the policy's, of the same shape.
        least: lower bound of the difference.
        most: upper bound of the difference; outside the bounds it has no gradient, inside `other` is the same to the bit.
    """
    difference = other - policy.detach()
    return torch.where((difference < least) | (difference > most), policy + difference.clamp(least, most), other)


def k3_bounds(most: float) -> tuple[float, float]:
    """The two x with exp(x) - x - 1 = `most`, by Newton's method; between them it is less, so k3 stays at most `most`."""
    roots = []
    for x in (-most - 1, math.log(most + 1) + 1):
        for _ in range(50):
            x -= (math.exp(x) - x - 1 - most) / (math.exp(x) - 1)
        roots.append(x)
    return roots[0], roots[1]


def scaled_advantages(rewards: torch.Tensor, group: int, epsilon: float) -> torch.Tensor:
    """Each group's rewards minus their mean, over their standard deviation (n - 1) plus `epsilon`; 0 without a reward.

    Args:
        rewards: (completions,), NaN where the judge gave no marks; each `group` in a row answer one prompt.
    """
    groups = rewards.view(-1, group)
    centred = groups - groups.nanmean(dim=1, keepdim=True)
    return torch.nan_to_num(centred / (nanstd(groups, dim=1, keepdim=True) + epsilon), nan=0.0).view(-1)
