"""Group-relative policy optimisation by TRL, on the rollouts of one policy."""

import json
import logging
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import (
    Qwen2_5_VLForConditionalGeneration,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import (
    RepeatSampler,
    split_pixel_values_by_grid,
    split_tensor_dict,
    strip_images_from_messages,
    unsplit_pixel_values_by_grid,
)

from saferflow.data.rows import PromptRow
from saferflow.data.tables import atomic
from saferflow.errors import TrainingError
from saferflow.params import ColocatedVLLM, GroupFilterParams, GRPOParams, TransformersEngine, VLLMServer
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.rewards.judged import OURS, RewardFunction, said
from saferflow.training.adapters import lora
from saferflow.training.arguments import Job, shared_arguments
from saferflow.training.branching import image_token_ids
from saferflow.training.checkpoints import Checkpointed
from saferflow.training.conversation import spoken
from saferflow.training.examples import encoded, grpo_dataset
from saferflow.training.guards import Guarded, scaled_advantages
from saferflow.training.launch import world
from saferflow.training.models import prepare
from saferflow.training.order import Ordered, lengths
from saferflow.training.pictures import Pictures, decoded
from saferflow.training.processor import Qwen2_5_VLProcessor
from saferflow.training.reflection import Reflecting, Reflection
from saferflow.training.rollouts import Ahead, InParts
from saferflow.training.running import train

STRETCHED = (
    "completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps", "sampling_per_token_logps",
    "mm_token_type_ids",
)  # fmt: skip
"""Of TRL's tensors, those with a column for each token of the completions."""
WARNING = 300
"""Characters of a warning of TRL's about a completion without a reward."""
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
    ahead: Ahead | None = None,
) -> dict[str, float]:
    """Train on prompts; save the policy, and every rollout with its reward to `rollouts` (JSON Lines).

    Args:
        rewards: the functions that `params.rewards` weighs, by the same names.
        reflection: of the safety-aware rollout [V]; None is plain GRPO.
        ahead: has rollouts judged while the next are drawn; None leaves it to the rewards.

    Returns:
        The trainer's final metrics.

    Raises:
        TrainingError: fewer prompts than one rollout batch wants.
    """
    fill_a_batch(len(rows), params)
    trainer = grpo_trainer(model, processor, rows, rewards, params, job)
    trainer.reflection, trainer.ahead = reflection, ahead
    trainer.add_callback(StopOnCollapse(params))
    return train("grpo", trainer, job, last=lambda: trainer.keep_rollouts(rollouts))


def fill_a_batch(prompts: int, params: GRPOParams) -> None:
    """Check that the prompts are enough for one rollout batch; of what is left over TRL draws nothing.

    Raises:
        TrainingError: they are not.
    """
    wanted = params.rollout_batch // params.group
    if prompts < wanted:
        raise TrainingError(
            f"grpo: there are {prompts:,} curated prompts, and one rollout batch wants {wanted:,} (grpo.rollout_batch "
            f"{params.rollout_batch} by grpo.group {params.group}). Lower grpo.rollout_batch to at most {prompts * params.group}"
            ", a multiple of grpo.batch_size, which may have to be lowered with it; or let stage curate keep more: raise "
            "curate.keep, widen curate.quality, or lower curate.min_instability"
        )


def grpo_trainer(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    rows: list[PromptRow],
    rewards: Mapping[str, RewardFunction],
    params: GRPOParams,
    job: Job,
) -> "RecordingTrainer":
    """TRL's trainer with the recipe of the params [K].

    Raises:
        TrainingError: the engine is vLLM and it is not installed.
    """
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
            # A correction counts as drawn under the original prompt; the sampler knows only what it was drawn under.
            vllm_importance_sampling_correction=params.guards.vllm_correction and params.reflection is None,
            log_multimodal=False,  # a process whose rows have no image would not take part, and the others would wait
            **engine(params.engine, image_token_ids(model.config)),
        ),
        train_dataset=encoded(grpo_dataset(rows)),
        processing_class=processor,
        peft_config=lora(job.policy, model),
    )
    trainer.pictures = Pictures() if "image_grid_thw" in processor.model_input_names else None
    trainer.lengths = lengths(processor, [spoken(row) for row in rows], [row.image for row in rows])
    prepare(trainer, job.policy)
    if job.policy.packed:
        trainer.branching = isinstance(params.engine, TransformersEngine)
    trainer.rollout_micro_batch = params.rollout_micro_batch
    trainer.group_filter, trainer.guards = params.group_filter, params.guards
    trainer.judged = [name in OURS for name in params.rewards]
    return trainer


def engine(params: TransformersEngine | ColocatedVLLM | VLLMServer, unsaid: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of TRL's config for what draws the rollouts.

    Args:
        unsaid: tokens that are never drawn.

    Raises:
        TrainingError: vLLM is asked for and not installed.
    """
    if isinstance(params, TransformersEngine):
        return {"generation_kwargs": {"suppress_tokens": list(unsaid)}}
    if find_spec("vllm") is None:
        raise TrainingError(
            f"grpo.engine is {params.kind}, and vLLM is not installed in this environment (docs/training.md, Rollouts by vLLM); "
            "install it, or set grpo.engine to {kind: transformers}"
        )
    never = {"generation_kwargs": {"logit_bias": dict.fromkeys(unsaid, -100.0)}}
    if isinstance(params, VLLMServer):
        return never | {
            "use_vllm": True,
            "vllm_mode": "server",
            "vllm_server_base_url": params.base_url.rstrip("/"),
            "vllm_server_timeout": params.timeout,
            "vllm_group_port": params.weights_port,
        }
    return never | {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": params.gpu_memory,
        "vllm_tensor_parallel_size": params.tensor_parallel,
        "vllm_enable_sleep_mode": params.sleep,
    }


class RecordingTrainer(Reflecting, InParts, Guarded, Ordered, Checkpointed, GRPOTrainer):
    """TRL's trainer, which also keeps every rollout with its reward, and logs the share that keeps the protocol."""

    group_filter: GroupFilterParams | None = None
    pictures: Pictures | None = None
    """Of the rollout under way; None has TRL keep the pixels of every completion."""
    judged: Sequence[bool] = ()
    """Which reward functions are ours: where one of them is None, the judge gave no marks."""

    def _order(self, epoch: int) -> Iterable[int]:
        """TRL's, which holds each prompt as often as its group is large, for an epoch."""
        args = self.args
        return RepeatSampler(
            self.train_dataset,
            mini_repeat_count=self.num_generations,
            batch_size=args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * args.steps_per_generation,
            shuffle=self.shuffle_dataset,
            seed=args.seed + epoch,
        )

    def _rows_of_a_step(self) -> int:
        return self.args.generation_batch_size // self.num_generations

    def _micro_batches_of_a_step(self) -> int:
        return 1  # what the prompts of a rollout become is dealt when it is drawn

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's, but it deals whole groups to the micro batches, for what a group shares is computed once in each."""
        if not self.model.training:
            return super()._prepare_inputs(generation_batch)
        size = self.args.steps_per_generation
        drawn = self._step % (size * self.num_iterations) == 0 or self._buffered_inputs is None
        if drawn and self.branching:
            made = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            parts = split_tensor_dict(shuffled(made, self.num_generations), size)
            self._buffered_inputs = [unsplit_pixel_values_by_grid(part) for part in parts]
        inputs = (
            self._buffered_inputs[self._step % size] if self.branching else super()._prepare_inputs(generation_batch)
        )
        if drawn:
            self._count_tokens_of_updates()
        return inputs

    def _count_tokens_of_updates(self) -> None:
        """Set what TRL divides by to the tokens of each update, of all processes: TRL has the mean of all updates' [K]."""
        window, micro = self.args.gradient_accumulation_steps, self._buffered_inputs
        if self.loss_type != LOSS["token"] or window >= len(micro):
            return
        counted = torch.stack([(part["completion_mask"] * part.get("tool_mask", 1)).sum() for part in micro])
        updates = self.accelerator.reduce(counted.view(-1, window).sum(dim=1), reduction="sum")  # (updates,)
        for number, part in enumerate(micro):
            part["num_items_in_batch"] = updates[number // window] * (len(micro) // window)  # TRL divides by the same

    def _generate_and_score_completions(self, inputs: list) -> dict[str, Any]:
        if self.pictures is not None and self.model.training:
            self.pictures.clear()  # those of the updates before
        with nullcontext() if self.pictures is None else self.pictures.numbered(self.processing_class):
            made = super()._generate_and_score_completions(decoded(inputs))
        if not self.model.training:
            return made
        if self.scale_rewards == "group":
            advantages = scaled_advantages(self._totals, self.num_generations, self.guards.advantage_epsilon)
            made["advantages"] = advantages[self._slice(len(made["advantages"]))]
        if self.state.global_step == 0:
            stretch(made, self.max_completion_length, self._tokenizer.pad_token_id)
        made["kept"] = torch.ones((), device=made["advantages"].device)
        if self.group_filter is not None:
            self._leave_out(made)
        return made

    def _leave_out(self, made: dict[str, Any]) -> None:
        """Take the groups that the filter does not let through out of the loss; where none gets through, all stay."""
        means = self._totals.view(-1, self.num_generations).nanmean(
            dim=1
        )  # NaN, which lets nothing through, if none is judged
        kept = (means > self.group_filter.low) & (means < self.group_filter.high)
        self._log_metric("groups_filtered", 1 - kept.float().mean().item())
        if not kept.any():
            return
        mine = kept.repeat_interleave(self.num_generations)[self._slice(len(made["advantages"]))]
        made["tool_mask"] = mine.unsqueeze(1).expand_as(made["completion_mask"]).to(made["completion_mask"].dtype)
        counted = (made["tool_mask"] * made["completion_mask"]).sum()
        made["num_items_in_batch"] = self.accelerator.gather(counted).sum()
        made["kept"] = kept.float().mean()

    def _compute_loss(self, model: torch.nn.Module, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's; where completions weigh the same, it divides by all of them, and by those that are left here."""
        loss = super()._compute_loss(model, inputs)
        return loss / inputs["kept"] if self.loss_type == LOSS["sequence"] and "kept" in inputs else loss

    def _slice(self, rows: int) -> slice:
        """This process's part of what was gathered from all."""
        return slice(self.accelerator.process_index * rows, (self.accelerator.process_index + 1) * rows)

    def _rollouts(self, process: int) -> Path:
        return Path(self.args.output_dir) / f"rollouts-{process}.jsonl"

    def _calculate_rewards(self, inputs: list, prompts: list, completions: list, completion_ids: list) -> torch.Tensor:
        self.wait_for_the_judge()
        with bounded_warnings():
            rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids)
        prompts[:] = map(strip_images_from_messages, prompts)  # TRL logs them: sent to every process, and kept
        parts, self._totals = totals(rewards, self.reward_weights, self.judged)
        mine, told = (each[self._slice(len(inputs))].tolist() for each in (self._totals, rewards))
        valid = 0
        mine_alone = self._rollouts(self.accelerator.process_index)
        mine_alone.parent.mkdir(parents=True, exist_ok=True)
        with mine_alone.open("a", encoding="utf-8") as file:
            for number, (asked, completion, reward) in enumerate(zip(inputs, completions, mine, strict=True)):
                text = said(completion)
                found = check(Plan.from_json(asked["plan"]), text) if asked["plan"] else None
                valid += found is not None and not found
                line = {
                    "step": self.state.global_step,
                    "row": asked["row"],
                    "reward": _rounded(reward),
                    "rewards": dict(zip(self.reward_func_names, map(_rounded, told[number]), strict=True)),
                    "violations": None if found is None else [each.code for each in found],
                    "corrected": number in self.corrected,
                    "completion": text,
                }
                file.write(json.dumps(line) + "\n")
        self._log_metric("validity", valid / len(inputs))
        self._log_metric("unjudged", sum(map(math.isnan, mine)) / len(inputs))
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


def totals(parts: torch.Tensor, weights: torch.Tensor, judged: Sequence[bool]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weighted sum of each completion's rewards, and the rewards without those of a completion that was not judged.

    Args:
        parts: (completions, functions), NaN where a function says None.
        weights: (functions,).
        judged: which functions are ours, as `rewards.judged.total` has it.

    Returns:
        The rewards, a row of NaN for each completion without a total, which TRL then leaves out of its group's mean and gives
        no advantage; and the totals, (completions,), NaN likewise.
    """
    missing = parts.isnan()
    ours = torch.tensor(judged, dtype=torch.bool, device=parts.device)
    unjudged = missing.all(dim=1) | (missing & ours).any(dim=1)
    sums = (parts * weights.to(parts.device)).nansum(dim=1)
    return parts.masked_fill(unjudged.unsqueeze(1), math.nan), sums.masked_fill(unjudged, math.nan)


@contextmanager
def bounded_warnings() -> Iterator[None]:
    """Cut what TRL's logger says of a completion without a reward: it repeats the whole row, its image included."""

    def cut(record: logging.LogRecord) -> bool:
        record.msg = str(record.msg)[:WARNING]
        return True

    logger = logging.getLogger("trl.trainer.grpo_trainer")
    logger.addFilter(cut)
    try:
        yield
    finally:
        logger.removeFilter(cut)


def _rounded(reward: float) -> float | None:
    return None if math.isnan(reward) else round(reward, 6)


def shuffled(made: dict[str, Any], group: int) -> dict[str, Any]:
    """Rollouts in another order: the groups at random, each whole."""
    rows = len(made["advantages"])
    order = [
        row for number in torch.randperm(rows // group).tolist() for row in range(number * group, (number + 1) * group)
    ]
    order += range(rows // group * group, rows)  # of a group that is spread over processes
    return {
        name: [value[row] for row in order]
        if isinstance(value, list)
        else value[order]
        if isinstance(value, torch.Tensor) and value.dim()
        else value
        for name, value in made.items()
    }


def stretch(made: dict[str, Any], length: int, padding: int) -> None:
    """Pad a batch of completions to the longest that there can be: its memory is then the most that an update takes.

    A packed row leaves padding out, and takes as much as was drawn.

    Args:
        made: TRL's tensors of rollouts, (rows, tokens); padding is masked and changes no loss.
    """
    rows, drawn = made["completion_ids"].shape
    for name, value in made.items():
        if isinstance(value, torch.Tensor) and value.dim() == 2 and len(value) == rows and name in STRETCHED:
            made[name] = F.pad(value, (0, length - drawn), value=padding if name == "completion_ids" else 0)


class StopOnCollapse(TrainerCallback):
    """Stops where no group has had a signal, or too few rollouts have kept the protocol, for a whole window of steps."""

    def __init__(self, params: GRPOParams):
        self._floor = params.min_validity
        self._flat: deque[float] = deque(maxlen=params.collapse_window)
        self._validity: deque[float] = deque(maxlen=params.collapse_window)
        self._unjudged: deque[float] = deque(maxlen=params.collapse_window)

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
        self._unjudged.append(logs.get("unjudged", 0.0))
        if len(self._flat) < self._flat.maxlen:
            return
        where = f"grpo: at step {state.global_step}, for {len(self._flat)} steps,"
        kept = f"; the checkpoints are in {args.output_dir}"
        if min(self._unjudged) == 1:
            raise TrainingError(
                f"{where} the judge gave no marks to any rollout, so nothing was learnt{kept}. See whether its answers can be "
                "read (saferflow judge), or choose another judge"
            )
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
