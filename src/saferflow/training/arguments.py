"""The trainer arguments that all three stages share, from a stage's params."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer

from saferflow.params import LaunchParams, PolicyParams, TrainingParams
from saferflow.training.gauge import Gauge
from saferflow.training.launch import deepspeed_config, world
from saferflow.training.progress import Log


class Watcher(Protocol):
    """A callback of a trainer that looks at the policy while it trains (`watch.Watching`)."""

    keeps_best: bool
    """Whether the checkpoint of the best look is the policy in the end."""

    def take_best(self, checkpoints: Path) -> None:
        """Give the trained model the weights that are to be saved."""

    def summary(self) -> dict[str, float]:
        """Figures of the policy that is saved."""


@dataclass(frozen=True)
class Job:
    """Where and how a stage trains, apart from its own section of the params."""

    policy: PolicyParams
    launch: LaunchParams
    seed: int
    out: Path
    """The folder of the trained policy."""
    checkpoints: Path
    """What is whole in it is gone on from; it goes when the policy is saved (`homes.home`)."""
    log: Log
    """Takes the training curves."""
    watch: Callable[[str, Trainer, Log, Gauge], Watcher] | None = None
    """Begins to watch a stage's trainer; None: the policy is not asked anything while it trains."""


def shared_arguments(params: TrainingParams, job: Job) -> dict[str, Any]:
    """Keyword arguments of TRL's configs: optimiser, schedule, batches, seed, checkpoints."""
    on_cpu = not torch.cuda.is_available()
    return {
        "use_cpu": on_cpu,  # without it bfloat16 is refused
        "ddp_backend": "gloo" if on_cpu and world(job.launch) > 1 else None,
        "output_dir": str(job.checkpoints),
        "learning_rate": params.learning_rate,
        "num_train_epochs": params.epochs,
        "per_device_train_batch_size": params.micro_batch_size,
        "gradient_accumulation_steps": params.batch_size // (params.micro_batch_size * world(job.launch)),
        "lr_scheduler_type": params.schedule,
        "warmup_steps": params.warmup_share,  # a float under 1 is a share of all steps
        "adam_beta1": params.adam_betas[0],
        "adam_beta2": params.adam_betas[1],
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_grad_norm,
        "activation_checkpointing": job.policy.gradient_checkpointing,
        "bf16": job.policy.dtype == "bfloat16",
        "seed": job.seed,
        "data_seed": job.seed,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "steps",
        "save_steps": params.save_every,
        "disable_tqdm": True,
        "deepspeed": deepspeed_config(job.launch, job.policy),
        "dataloader_pin_memory": False,
    }
