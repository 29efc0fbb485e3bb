"""The trainer arguments that all three stages share, from a stage's params."""

from pathlib import Path
from typing import Any

from peft import LoraConfig

from saferflow.params import PolicyParams, TrainingParams
from saferflow.training.checkpoints import KEPT


def shared_arguments(checkpoints: Path, params: TrainingParams, policy: PolicyParams, seed: int) -> dict[str, Any]:
    """Keyword arguments of TRL's configs: optimiser, schedule, batches, seed, checkpoints.

    Args:
        checkpoints: the folder for them (`checkpoints.home`).
    """
    return {
        "output_dir": str(checkpoints),
        "learning_rate": params.learning_rate,
        "num_train_epochs": params.epochs,
        "per_device_train_batch_size": params.micro_batch_size,
        "gradient_accumulation_steps": params.batch_size // params.micro_batch_size,
        "lr_scheduler_type": params.schedule,
        "warmup_steps": params.warmup_share,  # a float under 1 is a share of all steps
        "adam_beta1": params.adam_betas[0],
        "adam_beta2": params.adam_betas[1],
        "weight_decay": params.weight_decay,
        "max_grad_norm": params.max_grad_norm,
        "activation_checkpointing": policy.gradient_checkpointing,
        "bf16": policy.dtype == "bfloat16",
        "seed": seed,
        "data_seed": seed,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "steps",
        "save_steps": params.save_every,
        "save_total_limit": KEPT,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def lora(policy: PolicyParams) -> LoraConfig | None:
    """The adapter of the params, or None for full fine-tuning."""
    if policy.lora is None:
        return None
    return LoraConfig(
        r=policy.lora.rank,
        lora_alpha=policy.lora.alpha,
        lora_dropout=policy.lora.dropout,
        target_modules=list(policy.lora.targets),
        task_type="CAUSAL_LM",
    )
