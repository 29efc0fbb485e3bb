"""A trainer from its start, or its last whole checkpoint, to the policy on disk."""

import shutil
from collections.abc import Callable
from statistics import fmean

import torch
from transformers import PrinterCallback, Trainer

from saferflow.errors import TrainingError
from saferflow.training.arguments import Job
from saferflow.training.checkpoints import StopWhenAsked, latest_of_all
from saferflow.training.gauge import Gauge
from saferflow.training.launch import is_main_process
from saferflow.training.policy import save_policy
from saferflow.training.progress import Progress


def train(stage: str, trainer: Trainer, job: Job, last: Callable[[], None] = lambda: None) -> dict[str, float]:
    """Train with our progress in place of the trainer's printing, and save the policy.

    Args:
        last: called in the leading process when the policy is saved, before the checkpoints go.

    Returns:
        The trainer's final metrics: `train_loss` (the mean over all steps), `train_runtime` in seconds, ...; and of a job that
        is watched `watch_step`, the step whose policy is saved, with its figures.

    Raises:
        TrainingError: the loss is no longer a number, SIGTERM came, or the best checkpoint is damaged; its message says what to
            do.
    """
    stop = StopWhenAsked()
    trainer.remove_callback(PrinterCallback)
    gauge = Gauge(trainer.model, getattr(trainer, "ref_model", None))
    trainer.add_callback(gauge)  # before the one that sends what is logged
    trainer.add_callback(Progress(stage, job.log))
    watcher = job.watch(stage, trainer, job.log, gauge) if job.watch is not None else None
    if watcher is not None:
        trainer.keeps_best = watcher.keeps_best
        trainer.add_callback(watcher)
    trainer.add_callback(stop)  # after all that may end the training
    whole = latest_of_all(job.checkpoints)
    if whole and is_main_process():
        print(f"{stage}  goes on from {whole}", flush=True)
    try:
        metrics = trainer.train(resume_from_checkpoint=str(whole) if whole else None).metrics
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise TrainingError(_what_to_change(stage, trainer, error)) from error
    state = trainer.state
    if stop.stopped:
        raise TrainingError(
            f"{stage}: stopped by SIGTERM after step {state.global_step} of {state.max_steps}; run again to go on from there"
        )
    if watcher is not None:
        watcher.take_best(job.checkpoints)
    shared = job.launch.strategy.startswith("zero3")
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped) if shared else None
    if is_main_process():
        save_policy(job.out, trainer.model, trainer.processing_class, weights, job.policy.dtype)
        last()
        shutil.rmtree(job.checkpoints)
    trainer.accelerator.wait_for_everyone()
    losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
    figures = {name: float(value) for name, value in metrics.items()} | {"train_loss": fmean(losses)} | gauge.summary()
    return figures | (watcher.summary() if watcher is not None else {})


def out_of_memory(error: Exception) -> bool:
    """Whether torch, on a GPU or a CPU, or Python itself found no memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error)


def _what_to_change(stage: str, trainer: Trainer, error: Exception) -> str:
    args = trainer.args
    longest = f" of up to {max(trainer.lengths):,} tokens" if getattr(trainer, "lengths", ()) else ""
    ways = [f"lower {stage}.micro_batch_size (batch_size stays as it is)", "lower policy.max_pixels"]
    if not args.activation_checkpointing:
        ways.append("set policy.gradient_checkpointing")
    first = "The longest rows go first, so that this shows at once"
    if stage == "grpo":
        first = "The longest prompts go first; completions may grow, so that a later step takes more"
        ways.append("lower policy.max_completion_tokens or curate.max_prompt_tokens")
    ways.append("share the weights over more GPUs (launch.strategy zero3, or zero3_offload)")
    return (
        f"{stage}: out of memory in step {trainer.state.global_step + 1} of {trainer.state.max_steps}, with "
        f"{args.per_device_train_batch_size} rows{longest} in a forward pass ({str(error).splitlines()[0]:.150}). "
        f"{first}. What helps: {'; '.join(ways)}"
    )
