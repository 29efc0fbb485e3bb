"""Direct preference optimisation by TRL; the reference policy is the starting policy."""

import shutil
from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration
from trl import DPOConfig, DPOTrainer

from saferflow.data.rows import DPORow
from saferflow.params import DPOParams, PolicyParams
from saferflow.training.arguments import lora, shared_arguments
from saferflow.training.checkpoints import Checkpointed
from saferflow.training.examples import dpo_dataset
from saferflow.training.policy import Qwen2_5_VLProcessor, save_policy
from saferflow.training.progress import Log, train


class Trainer(Checkpointed, DPOTrainer):
    """TRL's trainer with checkpoints that can be trusted."""


def train_dpo(
    model: Qwen2_5_VLForConditionalGeneration,
    reference: Qwen2_5_VLForConditionalGeneration | None,
    processor: Qwen2_5_VLProcessor,
    rows: list[DPORow],
    params: DPOParams,
    policy: PolicyParams,
    seed: int,
    out: Path,
    checkpoints: Path,
    log: Log,
) -> dict[str, float]:
    """Train on (prompt, chosen, rejected) and save the policy to `out`.

    Args:
        reference: the policy to stay close to; None with LoRA, where the model without its adapter serves.

    What is whole in `checkpoints` is gone on from; when the policy is saved they go.

    Returns:
        The trainer's final metrics.
    """
    losses, weights = ["sigmoid"], [1.0]
    if params.sft_weight:
        losses, weights = [*losses, "sft"], [*weights, params.sft_weight]
    trainer = Trainer(
        model=model,
        ref_model=None if policy.lora else reference,
        args=DPOConfig(
            **shared_arguments(checkpoints, params, policy, seed),
            beta=params.beta,
            loss_type=losses,
            loss_weights=weights,
            max_length=None,
        ),
        train_dataset=dpo_dataset(rows),
        processing_class=processor,
        peft_config=lora(policy),
    )
    metrics = train("dpo", trainer, log)
    save_policy(out, trainer.model, processor)
    shutil.rmtree(checkpoints)
    return metrics
