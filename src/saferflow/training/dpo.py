"""Direct preference optimisation by TRL; the reference policy is the starting policy."""

from transformers import Qwen2_5_VLForConditionalGeneration
from trl import DPOConfig, DPOTrainer

from saferflow.data.rows import DPORow
from saferflow.params import DPOParams
from saferflow.training.adapters import lora
from saferflow.training.arguments import Job, shared_arguments
from saferflow.training.checkpoints import Checkpointed
from saferflow.training.conversation import spoken
from saferflow.training.examples import dpo_dataset
from saferflow.training.models import prepare
from saferflow.training.order import Ordered, lengths
from saferflow.training.processor import Qwen2_5_VLProcessor
from saferflow.training.running import train


class Trainer(Ordered, Checkpointed, DPOTrainer):
    """TRL's trainer, the longest rows first, with checkpoints that can be trusted."""


def train_dpo(
    model: Qwen2_5_VLForConditionalGeneration,
    reference: Qwen2_5_VLForConditionalGeneration | None,
    processor: Qwen2_5_VLProcessor,
    rows: list[DPORow],
    params: DPOParams,
    job: Job,
) -> dict[str, float]:
    """Train on (prompt, chosen, rejected) and save the policy.

    Args:
        reference: the policy to stay close to; None with LoRA, where the model without its adapter serves.

    Returns:
        The trainer's final metrics.
    """
    losses, weights = ["sigmoid"], [1.0]
    if params.sft_weight:
        losses, weights = [*losses, "sft"], [*weights, params.sft_weight]
    trainer = Trainer(
        model=model,
        ref_model=None if job.policy.lora else reference,
        args=DPOConfig(
            **shared_arguments(params, job),
            beta=params.beta,
            loss_type=losses,
            loss_weights=weights,
            max_length=None,
        ),
        train_dataset=dpo_dataset(rows),
        processing_class=processor,
        peft_config=lora(job.policy, model),
    )
    prepare(trainer, job.policy, fixed_rows=True)
    texts = [(*spoken(row), row.chosen, row.rejected) for row in rows]
    trainer.lengths = lengths(processor, texts, [row.image for row in rows])
    return train("dpo", trainer, job)
