"""Checkpoints of a stage that can be trusted, and going on from them.

transformers writes a checkpoint's files in place, one after the other. Here a folder carries `IN_PROGRESS` while it is
written and gets `MANIFEST.json`, the hash of each file, last. Only a folder without the one and with the other is read, and
only if every hash is right; a damaged one is named, and the one before it is used. Nothing that is read is a pickle:
weights are safetensors, states are loaded with `weights_only`, and the trainer's pickled arguments are not kept.

They live in `homes.home`. Source: ours.
"""

import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from peft import PeftModel
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from saferflow.errors import TrainingError
from saferflow.training.homes import files_in, hash_of
from saferflow.training.launch import from_leader, is_main_process
from saferflow.training.looks import best, looks
from saferflow.training.weights import read_model

IN_PROGRESS = "IN_PROGRESS"
MANIFEST = "MANIFEST.json"
KEPT = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""


class Checkpointed:
    """Mixed into a trainer of TRL: its checkpoints are marked while they are written, and hashed at the end."""

    keeps_best = False
    """Whether the checkpoint of the best look (`looks.best`) stays until training ends."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        try:
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / MANIFEST).unlink(missing_ok=True)
                (folder / IN_PROGRESS).touch()
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
                seal(folder)
                for old in superseded(_newest_first(folder.parent), self.state.log_history if self.keeps_best else ()):
                    shutil.rmtree(old)
        except (OSError, RuntimeError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            before = latest(folder.parent)
            raise TrainingError(
                f"the checkpoint of step {self.state.global_step} could not be written under {folder.parent} ({error}); "
                f"{f'{before.name} is kept' if before else 'there is none before it'}: make room and run again to go on"
            ) from error

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """transformers 5.23 looks for a Qwen2.5-VL's weights under other names than it saves them by, and warns only."""
        model = model or self.model
        if isinstance(model, PeftModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        model.load_state_dict(read_model(resume_from_checkpoint, model.dtype).state_dict())


def seal(folder: Path) -> None:
    """Write the manifest of a folder that is complete, then take its mark away."""
    sums = {
        str(path.relative_to(folder)): hash_of(path) for path in sorted(files_in([folder])) if path.name != IN_PROGRESS
    }
    manifest = folder / MANIFEST
    with manifest.open("w", encoding="utf-8") as file:
        json.dump(sums, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    (folder / IN_PROGRESS).unlink()


def latest(where: Path) -> Path | None:
    """The newest checkpoint that is whole; says which ones are not."""
    for folder in _newest_first(where):
        damage = damaged(folder)
        if not damage:
            return folder
        if is_main_process():
            print(f"{folder}: not used, {damage}", flush=True)
    return None


def latest_of_all(where: Path) -> Path | None:
    """`latest`, for all processes of a stage at once: the leading one alone reads the checkpoints."""
    name = from_leader(f"latest {where}", lambda: getattr(latest(where), "name", ""))
    return where / name if name else None


def superseded(newest_first: Sequence[Path], log: Sequence[Mapping[str, Any]]) -> list[Path]:
    """The checkpoints that go: all but the `KEPT` newest, and the best as each of these knows it.

    Args:
        log: the trainer's, whose looks say which is the best; empty where that one is not kept.
    """
    leading = (best(looks(log, until=_step(folder))) for folder in newest_first[:KEPT])
    kept = {look.step for look in leading if look}
    return [folder for folder in newest_first[KEPT:] if _step(folder) not in kept]


def _newest_first(where: Path) -> list[Path]:
    return sorted(where.glob("checkpoint-*"), key=_step, reverse=True)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def damaged(folder: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is."""
    if (folder / IN_PROGRESS).exists():
        return "it was not finished"
    try:
        sums = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return f"it has no readable {MANIFEST}"
    for name, expected in sums.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if hash_of(path) != expected:
            return f"{name} is not what was written"
    return ""


class StopWhenAsked(TrainerCallback):
    """On SIGTERM the step under way ends, a checkpoint is saved, and training stops."""

    def __init__(self) -> None:
        self.requested = False
        self.stopped = False
        """Training ends because of it."""
        self._former = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Save and stop after this step if any process got SIGTERM; training that ends here anyway ends by itself."""
        ends = control.should_training_stop or state.global_step >= state.max_steps
        if _any_process(self.requested) and not ends:
            self.requested = self.stopped = True
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore the former handler of SIGTERM."""
        signal.signal(signal.SIGTERM, self._former)


def _any_process(flag: bool) -> bool:
    """Whether it is true in any of the processes: all of them have to stop at the same step."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return flag
    flags = torch.tensor(float(flag), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(flags)
    return bool(flags)
