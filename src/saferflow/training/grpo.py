"""Group-relative policy optimisation by TRL, on the rollouts of one policy."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel
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
        for each in filter(None, (trainer.model, trainer.ref_model)):
            _take_empty_images(each)
        metrics = train("grpo", trainer, log)
        save_policy(out, trainer.model, processor)
    return metrics


def _take_empty_images(model: torch.nn.Module) -> None:
    """Have the model read pixels of no image as no pixels.

    TRL cuts a batch of rows with and without an image into micro batches; one without any gets an empty tensor.
    """

    def drop(module: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        pixels = kwargs.get("pixel_values")
        if pixels is not None and len(pixels) == 0:
            kwargs = {**kwargs, "pixel_values": None, "image_grid_thw": None}
        return args, kwargs

    for module in model.modules():
        if isinstance(module, Qwen2_5_VLModel):
            module.register_forward_pre_hook(drop, with_kwargs=True)
