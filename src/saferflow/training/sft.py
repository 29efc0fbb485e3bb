"""Supervised fine-tuning by TRL: the loss is on the completion only."""

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import Qwen2_5_VLForConditionalGeneration
from trl import SFTConfig, SFTTrainer

from saferflow.data.rows import SFTRow
from saferflow.params import PolicyParams, TrainingParams
from saferflow.training.arguments import lora, shared_arguments
from saferflow.training.examples import sft_dataset
from saferflow.training.policy import Qwen2_5_VLProcessor, save_policy
from saferflow.training.progress import Log, train


def train_sft(
    name: str,
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[SFTRow],
    params: TrainingParams,
    policy: PolicyParams,
    seed: int,
    out: Path,
    log: Log,
) -> dict[str, float]:
    """Train on rows of (prompt, completion) and save the policy to `out`.

    Returns:
        The trainer's final metrics (`train_loss`, `train_runtime` in seconds, ...).
    """
    with TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                **shared_arguments(Path(scratch), params, policy, seed),
                max_length=None,
                completion_only_loss=True,
            ),
            train_dataset=sft_dataset(rows),
            processing_class=processor,
            peft_config=lora(policy),
        )
        metrics = train(name, trainer, log)
        save_policy(out, trainer.model, processor)
    return metrics
