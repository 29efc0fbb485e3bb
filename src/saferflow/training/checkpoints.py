"""Checkpoints of a stage that can be trusted, and going on from them.

transformers writes a checkpoint's files in place, one after the other. Here a folder carries `IN_PROGRESS` while it is
written and gets `MANIFEST.json`, the hash of each file, last. Only a folder without the one and with the other is read, and
only if every hash is right; a damaged one is named, and the one before it is used. Nothing that is read is a pickle:
weights are safetensors, states are loaded with `weights_only`, and the trainer's pickled arguments are not kept.

They live in `checkpoints/<stage>/<key>/`, outside the outputs that DVC deletes before a stage runs. The key is a digest of
everything that the stage trains from, so that other parameters, rows or code never go on from them. Source: ours.
"""

import hashlib
import json
import os
import shutil
import signal
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from peft import PeftModel
from torch import distributed
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINING_ARGS_NAME

from saferflow.errors import TrainingError
from saferflow.params import Section
from saferflow.training.launch import leads
from saferflow.training.weights import read_model

ROOT = Path("checkpoints")
IN_PROGRESS = "IN_PROGRESS"
MANIFEST = "MANIFEST.json"
KEPT = 2
"""Checkpoints kept: the newest, and the one before it in case the newest is damaged."""
LIBRARIES = ("torch", "transformers", "trl", "peft")


def home(stage: str, inputs: Iterable[Path], sections: Iterable[Section], seed: int, root: Path = ROOT) -> Path:
    """The folder for the checkpoints of a stage with just these inputs; those of other inputs are deleted.

    Args:
        inputs: files, and folders with all that is in them, that the stage trains from.
    """
    digest = hashlib.sha256(json.dumps([seed, *(section.model_dump(mode="json") for section in sections)]).encode())
    digest.update(" ".join(version(name) for name in LIBRARIES).encode())
    for path in sorted(_files([*inputs, Path(__file__).parent])):
        digest.update(path.name.encode() + _hash(path).encode())
    mine = root / stage / digest.hexdigest()[:16]
    if leads() and (root / stage).is_dir():
        for other in (root / stage).iterdir():
            if other != mine:
                shutil.rmtree(other)
    return mine


class Checkpointed:
    """Mixed into a trainer of TRL: its checkpoints are marked while they are written, and hashed at the end."""

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
                for old in _newest_first(folder.parent)[KEPT:]:
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
    sums = {str(path.relative_to(folder)): _hash(path) for path in sorted(_files([folder])) if path.name != IN_PROGRESS}
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
        if leads():
            print(f"{folder}: not used, {damage}", flush=True)
    return None


def _newest_first(where: Path) -> list[Path]:
    return sorted(where.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


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
        if _hash(path) != expected:
            return f"{name} is not what was written"
    return ""


class StopWhenAsked(TrainerCallback):
    """On SIGTERM the step under way ends, a checkpoint is saved, and training stops."""

    def __init__(self) -> None:
        self.asked = False
        self._former = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        if _any_process(self.asked) and state.global_step < state.max_steps:
            self.asked = True
            control.should_save = control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        signal.signal(signal.SIGTERM, self._former)


def _any_process(flag: bool) -> bool:
    """Whether it is true in any of the processes: all of them have to stop at the same step."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return flag
    found = torch.tensor(float(flag), device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    distributed.all_reduce(found)
    return bool(found)


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = path.rglob("*") if path.is_dir() else [path]
        found += [each for each in inside if each.is_file() and "__pycache__" not in each.parts]
    return found


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
