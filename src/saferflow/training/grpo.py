"""Group-relative policy optimisation by TRL, on the rollouts of one policy."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration
from trl import GRPOConfig, GRPOTrainer

from saferflow.data.rows import PromptRow
from saferflow.params import GRPOParams, PolicyParams
from saferflow.rewards.judged import Reward
from saferflow.training.arguments import lora, shared_arguments
from saferflow.training.examples import grpo_dataset
from saferflow.training.policy import Qwen2_5_VLProcessor, save_policy
from saferflow.training.progress import Log, train


def train_grpo(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[PromptRow],
    reward: Reward,
    params: GRPOParams,
    policy: PolicyParams,
    seed: int,
    out: Path,
    log: Log,
    record: Callable[[str, str, float], None],
) -> dict[str, float]:
    """Train on prompts and save the policy to `out`.

    Args:
        record: takes (row id, completion, reward) of every rollout.

    Returns:
        The trainer's final metrics.
    """
    by_id = {row.id: row for row in rows}

    def rewards(completions: list[Any], row: list[str], **_: Any) -> list[float]:
        values = []
        for identifier, completion in zip(row, completions, strict=True):
            text = completion if isinstance(completion, str) else completion[0]["content"]
            values.append(reward(by_id[identifier], text))
            record(identifier, text, values[-1])
        return values

    rewards.__name__ = params.reward
    with TemporaryDirectory() as scratch:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=[rewards],
            args=GRPOConfig(
                **shared_arguments(Path(scratch), params, policy, seed),
                num_generations=params.group,
                max_completion_length=policy.max_completion_tokens,
                temperature=params.temperature,
                top_p=params.top_p,
                num_iterations=params.updates,
                beta=params.kl,
                epsilon=params.clip_low,
                epsilon_high=params.clip_high,
                scale_rewards=params.advantage,
                loss_type="grpo",
                disable_dropout=True,
            ),
            train_dataset=grpo_dataset(rows),
            processing_class=processor,
            peft_config=lora(policy),
        )
        metrics = train("grpo", trainer, log)
        save_policy(out, trainer.model, processor)
    return metrics
