"""Group-relative policy optimisation by TRL, on the rollouts of one policy."""

import json
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLModel,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer

from saferflow.data.rows import PromptRow
from saferflow.data.tables import atomic
from saferflow.errors import TrainingError
from saferflow.params import GRPOParams
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.rewards.judged import RewardFunction, said
from saferflow.training.arguments import Job, lora, shared_arguments
from saferflow.training.checkpoints import Checkpointed
from saferflow.training.examples import grpo_dataset
from saferflow.training.launch import world
from saferflow.training.policy import Qwen2_5_VLProcessor
from saferflow.training.reflection import Reflecting, Reflection
from saferflow.training.running import train

LOSS = {"token": "dapo", "sequence": "grpo"}
"""`loss_mean` as TRL calls it; `dapo` is the mean over all tokens of an update, whatever their completion."""


def train_grpo(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[PromptRow],
    rewards: Mapping[str, RewardFunction],
    params: GRPOParams,
    job: Job,
    rollouts: Path,
    reflection: Reflection | None = None,
) -> dict[str, float]:
    """Train on prompts; save the policy, and every rollout with its reward to `rollouts` (JSON Lines).

    Args:
        rewards: the functions that `params.rewards` weighs, by the same names.
        reflection: of the safety-aware rollout [V]; None is plain GRPO.

    Returns:
        The trainer's final metrics.
    """
    trainer = grpo_trainer(model, processor, rows, rewards, params, job)
    trainer.reflection = reflection
    trainer.add_callback(StopOnCollapse(params))
    return train("grpo", trainer, job, last=lambda: trainer.keep_rollouts(rollouts))


def grpo_trainer(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[PromptRow],
    rewards: Mapping[str, RewardFunction],
    params: GRPOParams,
    job: Job,
) -> "RecordingTrainer":
    """TRL's trainer with the recipe of the params [K]."""
    trainer = RecordingTrainer(
        model=model,
        reward_funcs=[rewards[name] for name in params.rewards],
        args=GRPOConfig(
            **shared_arguments(params, job),
            num_generations=params.group,
            steps_per_generation=params.rollout_batch // (params.micro_batch_size * world(job.launch)),
            reward_weights=list(params.rewards.values()),
            max_completion_length=job.policy.max_completion_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            num_iterations=params.updates,
            beta=params.kl,
            epsilon=params.clip_low,
            epsilon_high=params.clip_high,
            use_bias_correction_kl=False,  # [K] has plain k3
            delta=params.dual_clip,
            scale_rewards=params.advantage,
            loss_type=LOSS[params.loss_mean],
            disable_dropout=True,
        ),
        train_dataset=grpo_dataset(rows),
        processing_class=processor,
        peft_config=lora(job.policy),
    )
    for each in filter(None, (trainer.model, trainer.ref_model)):
        _take_empty_images(each)
    return trainer


class RecordingTrainer(Reflecting, Checkpointed, GRPOTrainer):
    """TRL's trainer, which also keeps every rollout with its reward, and logs the share that keeps the protocol."""

    def _rollouts(self, process: int) -> Path:
        return Path(self.args.output_dir) / f"rollouts-{process}.jsonl"

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids: list) -> torch.Tensor:
        parts = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        totals = (parts * self.reward_weights.to(parts.device)).nansum(dim=1)
        mine = totals[self.accelerator.process_index * len(inputs) :][: len(inputs)].tolist()
        valid = 0
        mine_alone = self._rollouts(self.accelerator.process_index)
        mine_alone.parent.mkdir(parents=True, exist_ok=True)
        with mine_alone.open("a", encoding="utf-8") as file:
            for number, (asked, completion, reward) in enumerate(zip(inputs, completions, mine, strict=True)):
                text = said(completion)
                valid += asked["plan"] != "" and not check(Plan.from_json(asked["plan"]), text)
                line = {"step": self.state.global_step, "row": asked["row"], "reward": round(reward, 6)}
                corrected = {"corrected": True} if number in self.corrected else {}
                file.write(json.dumps({**line, **corrected, "completion": text}) + "\n")
        self._log_metric("validity", valid / len(inputs))
        return parts

    def keep_rollouts(self, path: Path) -> None:
        """Write the rollouts of all processes."""
        parts = [self._rollouts(process) for process in range(self.accelerator.num_processes)]
        with atomic(path) as partial:
            partial.write_text("".join(part.read_text(encoding="utf-8") for part in parts), encoding="utf-8")

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As TRL's; of the rollouts so far, those that a resumed run draws again are forgotten first."""
        step = int(resume_from_checkpoint.rpartition("-")[2]) if resume_from_checkpoint else 0
        mine = self._rollouts(self.accelerator.process_index)
        if mine.exists():
            lines = mine.read_text(encoding="utf-8").splitlines(keepends=True)
            whole = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] < step]
            with atomic(mine) as partial:
                partial.write_text("".join(whole), encoding="utf-8")
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)


class StopOnCollapse(TrainerCallback):
    """Stops where no group has had a signal, or too few rollouts have kept the protocol, for a whole window of steps."""

    def __init__(self, params: GRPOParams):
        self._floor = params.min_validity
        self._flat: deque[float] = deque(maxlen=params.collapse_window)
        self._validity: deque[float] = deque(maxlen=params.collapse_window)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Raises TrainingError, which names the last checkpoint."""
        if "validity" not in (logs or {}):
            return
        self._flat.append(logs["frac_reward_zero_std"])
        self._validity.append(logs["validity"])
        if len(self._flat) < self._flat.maxlen:
            return
        where = f"grpo: at step {state.global_step}, for {len(self._flat)} steps,"
        kept = f"; the checkpoints are in {args.output_dir}"
        if min(self._flat) == 1:
            raise TrainingError(
                f"{where} all rewards of each group were equal, so nothing was learnt{kept}. "
                "Widen curate.quality, raise grpo.temperature or grpo.group, or lower grpo.learning_rate"
            )
        if max(self._validity) < self._floor:
            raise TrainingError(
                f"{where} at most {max(self._validity):.0%} of the rollouts kept the protocol, fewer than "
                f"grpo.min_validity {self._floor:.0%}{kept}. Lower grpo.learning_rate, or train sft longer"
            )


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
