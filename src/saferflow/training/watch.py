"""A policy answers a few rows while it trains: curves of what it has learnt, which checkpoint is kept, and when it is enough.

The rows are set aside from the training rows by stage `plan`, and are not those that the gate judges: a checkpoint that was
chosen by the gate's rows would be measured too well by them. Source: ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations.deepspeed import deepspeed_load_checkpoint
from trl.models.utils import unwrap_model_for_generation

from saferflow.data.rows import Answered, PromptRow
from saferflow.errors import TrainingError
from saferflow.params import StageWatchParams
from saferflow.training.checkpoints import damaged
from saferflow.training.gauge import Gauge
from saferflow.training.generate import Prompt, complete
from saferflow.training.launch import from_leader
from saferflow.training.looks import SCORE, Look, best, looks, since_best
from saferflow.training.progress import Log

SHOWN = (SCORE, "watch_safety", "watch_over_refusal_rate", "watch_attack_success_rate")
"""Figures that the line on the terminal holds."""


@dataclass(frozen=True)
class Watch:
    """What a policy is asked while it trains, and how its answers are measured."""

    rows: Sequence[PromptRow]
    params: StageWatchParams
    batch_size: int
    """Prompts that are read together."""
    max_tokens: int
    """Of a completion."""
    grade: Callable[[Sequence[PromptRow], Sequence[str]], list[Answered]]
    """Of rows and their completions."""
    figures: Callable[[Sequence[Answered]], dict[str, float]]
    """What goes onto the curves, in percent; `SCORE` is among them where anything was graded."""


class Watching(TrainerCallback):
    """Looks at the policy every `every` steps and after the last one; all processes do, each at its share of the rows.

    It neither draws from the random numbers of the training nor leaves a trace in the model: a run that is watched and keeps
    its last policy ends with the weights of one that is not.
    """

    def __init__(self, watch: Watch, stage: str, trainer: Trainer, log: Log, gauge: Gauge):
        self._stage, self._trainer, self._watch, self._log, self._gauge = stage, trainer, watch, log, gauge
        self.keeps_best = watch.params.keep == "best"
        self.stopped = False
        """Training ends because no look was better for as long as `patience` says."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Look every `watch.every` steps and after the last; save the best, and stop after `patience` looks without a better."""
        step, params = state.global_step, self._watch.params
        if step % params.every and step < state.max_steps:
            return control
        figures = self._look()
        state.log_history.append({"step": step, **figures})
        seen = looks(state.log_history)
        leading = best(seen)
        improved = leading is not None and leading.step == step
        if state.is_world_process_zero:
            self._log(figures, step)
            shown = [f"{name.removeprefix('watch_')} {figures[name]:.1f}" for name in SHOWN if name in figures]
            note = ["the best so far"] if improved else []
            print("  ".join([f"{self._stage}  watch after step {step}", *(shown or ["no grades"]), *note]), flush=True)
        if improved and self.keeps_best:
            control.should_save = True
        if params.patience is not None and since_best(seen) >= params.patience and step < state.max_steps:
            self.stopped = True
            control.should_training_stop = True
            # A run that went on from a checkpoint of this step would take one step more before it could end.
            control.should_save = False
            if state.is_world_process_zero:
                print(f"{self._stage}  stops after step {step}: {since_best(seen)} looks were not better", flush=True)
        return control

    def _look(self) -> dict[str, float]:
        """The figures of all rows, the same in each process."""
        accelerator, watch = self._trainer.accelerator, self._watch
        rows = watch.rows[accelerator.process_index :: accelerator.num_processes]
        with self._gauge.paused(), undisturbed(self._trainer) as model:
            drawn = complete(
                model,
                self._trainer.processing_class,
                [Prompt.of(row) for row in rows],
                batch_size=watch.batch_size,
                max_tokens=watch.max_tokens,
            )
            texts = [text for [text] in drawn]
        return watch.figures(gather_object(watch.grade(rows, texts)))

    def chosen(self) -> Look | None:
        """The look whose policy is kept; None where nothing was graded at it."""
        state = self._trainer.state
        seen = looks(state.log_history)
        if self.keeps_best:
            return best(seen)
        return next((look for look in seen if look.step == state.global_step), None)

    def take_best(self, checkpoints: Path) -> None:
        """Give the model the weights of the checkpoint that is kept, where they are not those that it has.

        Raises:
            TrainingError: the checkpoint is not whole.
        """
        look = self.chosen()
        if look is None or look.step == self._trainer.state.global_step:
            return
        folder = checkpoints / f"checkpoint-{look.step}"
        if wrong := from_leader(f"damage {folder}", lambda: damaged(folder)):
            raise TrainingError(
                f"{self._stage}: the checkpoint of step {look.step}, the best, cannot be used: {wrong}. Delete {checkpoints} and "
                f"run again to train anew, or set watch.{self._stage}.keep to last"
            )
        restore(self._trainer, folder)

    def summary(self) -> dict[str, float]:
        """Which step's policy is kept, its figures, and how many looks there were."""
        state, look = self._trainer.state, self.chosen()
        named = {"watch_step": look.step if look else state.global_step, "watch_looks": len(looks(state.log_history))}
        return named | {"watch_stopped_early": float(self.stopped)} | (dict(look.figures) if look else {})


@contextmanager
def undisturbed(trainer: Trainer) -> Iterator[torch.nn.Module]:
    """A trainer's policy to generate with; random numbers and each module's mode are afterwards what they were before."""
    modes = [(module, module.training) for module in trainer.model.modules()]
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    recomputed = getattr(trainer.args, "gradient_checkpointing_kwargs", None)
    with (
        torch.random.fork_rng(devices=devices),
        unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gradient_checkpointing_kwargs=recomputed
        ) as model,
    ):
        yield model
    for module, training in modes:
        module.training = training


def restore(trainer: Trainer, folder: Path) -> None:
    """Give a trainer's model the weights of a whole checkpoint."""
    if trainer.is_deepspeed_enabled:
        whole = not isinstance(trainer.model, PeftModel)  # of an adapter's model its own weights alone are there
        deepspeed_load_checkpoint(trainer.model_wrapped, str(folder), load_module_strict=whole)
    else:
        trainer._load_from_checkpoint(str(folder))
