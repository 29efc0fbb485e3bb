"""Supervised fine-tuning by TRL: the loss is on the completion only."""

from collections.abc import Callable
from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration
from trl import SFTConfig, SFTTrainer

from saferflow.data.rows import SFTRow
from saferflow.params import SupervisedParams
from saferflow.training.adapters import lora
from saferflow.training.arguments import Job, shared_arguments
from saferflow.training.checkpoints import Checkpointed
from saferflow.training.conversation import spoken
from saferflow.training.examples import sft_dataset
from saferflow.training.models import prepare
from saferflow.training.muon import Muon
from saferflow.training.order import Ordered, lengths
from saferflow.training.processor import Qwen2_5_VLProcessor
from saferflow.training.running import train


class Trainer(Ordered, Checkpointed, SFTTrainer):
    """TRL's trainer, the longest rows first, with checkpoints that can be trusted."""


def optimizer(params: SupervisedParams) -> tuple[Callable[[], type[Muon]], dict[str, Any]] | None:
    """What the trainer makes the optimiser by; None is its own AdamW."""
    if params.optimizer == "adamw":
        return None
    settings = {"lr": params.learning_rate, "betas": params.adam_betas, "weight_decay": params.weight_decay}
    return lambda: Muon, settings


def train_sft(
    name: str,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[SFTRow],
    params: SupervisedParams,
    job: Job,
) -> dict[str, float]:
    """Train on rows of (prompt, completion) and save the policy.

    Returns:
        The trainer's final metrics (`train_loss`, `train_runtime` in seconds, ...).
    """
    trainer = Trainer(
        model=model,
        args=SFTConfig(
            **shared_arguments(params, job),
            max_length=None,
            completion_only_loss=True,
        ),
        train_dataset=sft_dataset(rows),
        processing_class=processor,
        peft_config=lora(job.policy, model),
        optimizer_cls_and_kwargs=optimizer(params),
    )
    prepare(trainer, job.policy)
    texts = [(*spoken(row), row.completion) for row in rows]
    trainer.lengths = lengths(processor, texts, [row.image for row in rows])
    return train(name, trainer, job)
