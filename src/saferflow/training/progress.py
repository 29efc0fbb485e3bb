"""What a person sees of a training run, and what goes to the tracker while it runs."""

import math
import time
from collections.abc import Callable
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from saferflow.errors import TrainingError

Log = Callable[[dict[str, float], int], None]
"""Takes metrics and their step; a stage passes the tracker's."""

SHOWN = ("loss", "reward", "rewards/accuracies", "kl")
"""Metrics that the line on the terminal holds, where the trainer logs them."""


WARM_UP = 5
"""Steps from the first report on, before the time left is told: the first ones take longer and say little."""


class Progress(TrainerCallback):
    """A line on the terminal every few seconds, and every logged metric to the tracker."""

    def __init__(self, stage: str, log: Log, every: float = 5.0):
        self._stage = stage
        self._log = log
        self._every = every
        self._last = 0.0
        self._first = (math.inf, 0.0)
        """Step and time of the first report."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin to count, as one of TRL's callbacks."""
        self._last, self._first = 0.0, (math.inf, 0.0)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Print a line, as one of TRL's callbacks."""
        if not state.is_world_process_zero:
            return
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self._log(numbers, state.global_step)
        if not math.isfinite(numbers.get("loss", 0.0)):
            raise TrainingError(
                f"{self._stage}: the loss is {numbers['loss']} at step {state.global_step}; the checkpoints before it are in "
                f"{args.output_dir}. Lower {self._stage}.learning_rate and run again"
            )
        shown = [f"{name} {numbers[name]:.3g}" for name in SHOWN if name in numbers]
        now = time.monotonic()
        if not shown or (now - self._last < self._every and state.global_step < state.max_steps):
            return
        self._last = now
        step, steps = state.global_step, state.max_steps
        done = step - self._first[0]
        if done < 0:
            self._first = (step, now)
        elif done >= WARM_UP:
            shown.append(f"{(now - self._first[1]) / done * (steps - step):.0f} s left")
        print("  ".join([f"{self._stage}  step {step}/{steps}", *shown]), flush=True)
