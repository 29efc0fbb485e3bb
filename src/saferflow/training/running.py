"""A trainer from its start, or its last whole checkpoint, to the policy on disk."""

import shutil
from collections.abc import Callable
from statistics import fmean

from transformers import PrinterCallback, Trainer

from saferflow.errors import TrainingError
from saferflow.training.arguments import Job
from saferflow.training.checkpoints import StopWhenAsked, latest
from saferflow.training.launch import leads
from saferflow.training.policy import save_policy
from saferflow.training.progress import Progress


def train(stage: str, trainer: Trainer, job: Job, last: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Train with our progress in place of the trainer's printing, and save the policy.

    Args:
        last: called in the leading process when the policy is saved, before the checkpoints go.

    Returns:
        The trainer's final metrics: `train_loss` (the mean over all steps), `train_runtime` in seconds, ...

    Raises:
        TrainingError: the loss is no longer a number, or SIGTERM came; its message says what to do.
    """
    stop = StopWhenAsked()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress(stage, job.log))
    trainer.add_callback(stop)
    whole = latest(job.checkpoints)
    if whole and leads():
        print(f"{stage}  goes on from {whole}", flush=True)
    metrics = trainer.train(resume_from_checkpoint=str(whole) if whole else None).metrics
    state = trainer.state
    if stop.asked and state.global_step < state.max_steps:
        raise TrainingError(
            f"{stage}: stopped by SIGTERM after step {state.global_step} of {state.max_steps}; run again to go on from there"
        )
    shared = job.launch.strategy.startswith("zero3")
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if shared else None
    if leads():
        save_policy(job.out, trainer.model, trainer.processing_class, weights)
        last()
        shutil.rmtree(job.checkpoints)
    trainer.accelerator.wait_for_everyone()
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    return {name: float(value) for name, value in metrics.items()} | {"train_loss": fmean(losses)}
