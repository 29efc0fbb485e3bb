"""What training costs, beside its curves: tokens a second, peak memory, and how much of a GPU's arithmetic is put to use.

Tokens are those of prompts and responses, without padding, as EasyR1 counts them. A forward pass takes two operations a
parameter and token, a backward pass four; with the vision tower, its own parameters count for each patch. Recomputed
activations do not count (model FLOPs, not hardware FLOPs). Attention's own products are left out. Source: ours.
"""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Qwen2_5_VLModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

PEAKS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "H800": 989e12, "GH200": 989e12,
    "A100": 312e12, "A800": 312e12, "L40S": 362e12, "L4": 121e12, "RTX 4090": 165e12,
}  # fmt: skip
"""Operations a second in bfloat16 without sparsity, as NVIDIA's data sheets give them."""


class Gauge(TrainerCallback):
    """Adds `tokens_per_second`, `peak_memory_gb`, and on a GPU that is known `mfu` and `mfu_with_vision` to what is logged.

    Each is of one process: of one GPU. `tokens_per_second` counts what was trained on (a GRPO step that draws rollouts is
    slow, the others of its batch are fast); operations count everything: rollouts, reference, update.
    """

    def __init__(self, *models: nn.Module | None):
        self._device = torch.device("cpu")
        self._tokens = self._operations = self._vision = torch.zeros(())
        self._all_tokens = self._seconds = 0.0
        self._since: float | None = None
        for model in filter(None, models):
            for module in model.modules():
                if isinstance(module, Qwen2_5_VLModel):
                    self._watch(module)

    def _watch(self, model: Qwen2_5_VLModel) -> None:
        head = model.config.text_config.hidden_size * model.config.text_config.vocab_size
        language = _parameters(model.language_model.layers) + head
        vision = _parameters(model.visual)

        def count(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            ids, mask, pixels = (kwargs.get(name) for name in ("input_ids", "attention_mask", "pixel_values"))
            if ids is None:
                return
            learning = torch.is_grad_enabled() and module.training
            packed = kwargs.get("packed")
            whole = isinstance(mask, torch.Tensor) and mask.shape == ids.shape
            tokens = mask.sum() if whole else torch.tensor(ids.numel())
            share = 6 if learning else 2
            tokens = tokens.to(self._tokens.device)
            if learning:
                self._tokens = self._tokens + (packed.unpadded_tokens if packed is not None else tokens)
            self._operations = self._operations + share * language * tokens.float()
            if pixels is not None:
                self._vision = self._vision + share * vision * float(len(pixels))

        model.register_forward_pre_hook(count, with_kwargs=True)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the counters, on the trainer's device."""
        self._tokens, self._operations, self._vision = (torch.zeros((), device=args.device) for _ in range(3))
        self._since = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the figures since the last log to `logs`, where they hold a loss."""
        if logs is None or "loss" not in logs or self._since is None:
            return
        tokens, operations, vision = self._tokens.item(), self._operations.item(), self._vision.item()
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        self._all_tokens += tokens
        self._seconds += seconds
        self._tokens, self._operations, self._vision = (torch.zeros_like(counter) for counter in (self._tokens,) * 3)
        logs["tokens_per_second"] = tokens / seconds
        logs["peak_memory_gb"] = peak_memory() / 1e9
        if (peak := peak_operations()) is not None:
            logs["mfu"] = operations / seconds / peak
            logs["mfu_with_vision"] = (operations + vision) / seconds / peak

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out what the models do within it, and the time that it takes."""
        counted, before = (self._tokens, self._operations, self._vision), time.perf_counter()
        try:
            yield
        finally:
            self._tokens, self._operations, self._vision = counted
            if self._since is not None:
                self._since += time.perf_counter() - before

    def summary(self) -> dict[str, float]:
        """Of all steps of this process together."""
        return {"tokens_per_second": self._all_tokens / max(self._seconds, 1e-9), "peak_memory_gb": peak_memory() / 1e9}


def _parameters(module: nn.Module) -> int:
    """Of the whole module, also where this process holds a part of each (ZeRO-3)."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in module.parameters())


def peak_memory() -> int:
    """Bytes, at most, so far: on the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_operations() -> float | None:
    """Of this process's GPU; None where there is none, or its figure is not known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((figure for known, figure in PEAKS.items() if known in name), None)
