"""Supervised fine-tuning by TRL: the loss is on the completion only."""

import shutil
from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration
from trl import SFTConfig, SFTTrainer

from saferflow.data.rows import SFTRow
from saferflow.params import PolicyParams, TrainingParams
from saferflow.training.arguments import lora, shared_arguments
from saferflow.training.checkpoints import Checkpointed
from saferflow.training.examples import sft_dataset
from saferflow.training.policy import Qwen2_5_VLProcessor, save_policy
from saferflow.training.progress import Log, train


class Trainer(Checkpointed, SFTTrainer):
    """TRL's trainer with checkpoints that can be trusted."""


def train_sft(
    name: str,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[SFTRow],
    params: TrainingParams,
    policy: PolicyParams,
    seed: int,
    out: Path,
    checkpoints: Path,
    log: Log,
) -> dict[str, float]:
    """Train on rows of (prompt, completion) and save the policy to `out`.

    What is whole in `checkpoints` is gone on from; when the policy is saved they go.

    Returns:
        The trainer's final metrics (`train_loss`, `train_runtime` in seconds, ...).
    """
    trainer = Trainer(
        model=model,
        args=SFTConfig(
            **shared_arguments(checkpoints, params, policy, seed),
            max_length=None,
            completion_only_loss=True,
        ),
        train_dataset=sft_dataset(rows),
        processing_class=processor,
        peft_config=lora(policy),
    )
    metrics = train(name, trainer, log)
    save_policy(out, trainer.model, processor)
    shutil.rmtree(checkpoints)
    return metrics
