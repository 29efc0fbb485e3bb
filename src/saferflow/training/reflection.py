"""The safety-aware rollout [V]: an unsafe completion is reflected on and corrected instead of thrown away.

Where the judge finds the thinking or the answer unsafe, the policy is asked what it missed, its reflection is appended to
the context, and it answers anew. A correction that earns more takes the completion's place in its group under the
*original* prompt, so that reflection tokens carry no loss; the most unsafe completion of each group stays as it is, as the
negative. Published: that unsafe generations are reflected on, corrected and learnt from. Ours: the trigger, one round, the
wording, which stays, and that a correction must earn more than what it corrects. `planner/reflection.py` writes the SFT rows
that teach a policy these conversations.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import torch

from saferflow.data.rows import Labels, PromptRow
from saferflow.judge.rubrics import SCALE, Item, Judge
from saferflow.params import GRPOParams
from saferflow.protocol.reflection import ANEW, MISSED
from saferflow.rewards.judged import RewardFunction, said, weighted

Turns = list[dict[str, Any]]


class Safety(NamedTuple):
    """The judge's marks of one completion, each in [0, 1]."""

    thinking: float
    answer: float

    @property
    def least(self) -> float:
        """The lower of the two marks."""
        return min(self)


class Reflection(NamedTuple):
    """When the rollout reflects, and the functions that give its figures."""

    threshold: float
    """A completion whose thinking or answer is less safe than this is unsafe."""
    safety: Callable[[Sequence[str], Sequence[str]], list[Safety]]
    """Marks from row ids and the completions of these rows."""
    reward: Callable[[Mapping[str, Any], str], float | None]
    """The total reward from a row's columns and a completion; None without the judge's marks."""


def judged_reflection(
    params: GRPOParams, judge: Judge, rows: Sequence[PromptRow], rewards: Mapping[str, RewardFunction]
) -> Reflection | None:
    """The reflection of the params, with a judge's marks of the thinking and the answer; None for plain GRPO."""
    if params.reflection is None:
        return None
    known = {row.id: row for row in rows}

    def safety(row_ids: Sequence[str], texts: Sequence[str]) -> list[Safety]:
        rows = [known[row] for row in row_ids]
        items = [
            Item(row.question, row.image, Labels.from_json(row.labels), text)
            for row, text in zip(rows, texts, strict=True)
        ]
        judge.prepare("structured", items)
        marks = [judge.structured(item) for item in items]
        # what cannot be judged is left as it is
        return [Safety(mark.awareness / SCALE, mark.safety / SCALE) if mark else Safety(1.0, 1.0) for mark in marks]

    def reward(columns: Mapping[str, Any], text: str) -> float | None:
        reward_columns = {name: [value] for name, value in known[columns["row"]].columns().items()}
        [total] = weighted(rewards, params.rewards, completions=[text], **reward_columns)
        return total

    return Reflection(params.reflection.threshold, safety, reward)


def reflection_prompt(prompt: Turns, draft: str) -> Turns:
    """The conversation that asks the policy what its draft got wrong.

    Args:
        prompt: the conversation before the draft.
    """
    return [*prompt, {"role": "assistant", "content": draft}, {"role": "user", "content": MISSED}]


def correction_prompt(prompt: Turns, draft: str, reflection: str) -> Turns:
    """The conversation that asks the policy for a new answer, after its reflection on the draft."""
    conversation = reflection_prompt(prompt, draft)
    return [*conversation, {"role": "assistant", "content": reflection}, {"role": "user", "content": ANEW}]


def to_correct(rows: Sequence[str], safety: Sequence[float], threshold: float) -> list[int]:
    """The numbers of the completions to correct: the unsafe ones, except the most unsafe of each row; sorted.

    Args:
        rows: the row that each completion answers.
        safety: of each completion, in [0, 1].
    """
    unsafe: dict[str, list[int]] = defaultdict(list)
    for number, (row, score) in enumerate(zip(rows, safety, strict=True)):
        if score < threshold:
            unsafe[row].append(number)
    chosen = [
        number for group in unsafe.values() for number in sorted(group, key=lambda completion: safety[completion])[1:]
    ]
    return sorted(chosen)


def gain(before: float | None, after: float | None) -> float | None:
    """The reward of a correction minus that of its draft; None if one of them was not judged."""
    return None if before is None or after is None else after - before


class Reflecting:
    """Mixed into TRL's GRPO trainer; without a `reflection` its rollout is TRL's own, to the bit."""

    reflection: Reflection | None = None
    corrected: frozenset[int] = frozenset()
    """Numbers of the current batch's completions that a correction replaced."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._input_rows, self.corrected = inputs, frozenset()
        return super()._generate_and_score_completions(inputs)

    def _generate(self, prompts: list[Turns]) -> tuple:
        generated = super()._generate(prompts)
        if self.reflection is None or not self.model.training:
            return generated
        prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest = generated
        self.wait_for_the_judge()
        rows = [row["row"] for row in self._input_rows]
        safety = self.reflection.safety(rows, [said(completion) for completion in completions])
        unsafe = to_correct(rows, [scores.least for scores in safety], self.reflection.threshold)
        most = self._most_in_any_process(len(unsafe))
        if not most:
            self._log_reflection(len(completions), [])
            return generated
        # Every process generates as often, or those that share weights or a server would get each other's completions.
        drafts = [(prompts[number], said(completions[number])) for number in [*unsafe, *[0] * (most - len(unsafe))]]
        reflections, _, _ = self._say([reflection_prompt(prompt, draft) for prompt, draft in drafts])
        texts, ids, drawn = self._say(
            [
                correction_prompt(prompt, draft, reflection)
                for (prompt, draft), reflection in zip(drafts, reflections, strict=True)
            ]
        )
        gains, helped = [], set()
        for place, number in enumerate(unsafe):
            row, text = self._input_rows[number], texts[place]
            after, before = (self.reflection.reward(row, version) for version in (text, said(completions[number])))
            gains.append(gain(before, after))
            if gains[-1] is not None and gains[-1] > 0:
                helped.add(number)
                completion_ids[number], completions[number] = ids[place], [{"role": "assistant", "content": text}]
                if logprobs is not None:
                    logprobs[number] = drawn[place]
        self.corrected = frozenset(helped)
        self._log_reflection(len(completions), gains)
        return prompt_ids, completion_ids, tool_mask, completions, logprobs, *rest

    def _say(self, conversations: list[Turns]) -> tuple[list[str], list[list[int]], list[list[float]] | None]:
        """Draw one completion per conversation: texts, token ids, and log-probabilities if the engine returns them."""
        prompt_ids, images, fields = self._tokenize_prompts(conversations)
        tokens, logprobs = self._generate_single_turn(prompt_ids, images, fields, 1)
        return self.processing_class.batch_decode(tokens, skip_special_tokens=True), tokens, logprobs

    def _most_in_any_process(self, count: int) -> int:
        return int(self.accelerator.gather(torch.tensor([count], device=self.accelerator.device)).max())

    def _log_reflection(self, rollouts: int, gains: list[float | None]) -> None:
        """Log the share of this process's rollouts with a correction, and, of those judged before and after, the share that
        helped and the mean gain in reward.
        """
        logged, known = self._metrics["train"], [difference for difference in gains if difference is not None]
        logged["reflection/corrected"].append(len(gains) / rollouts)
        if known:
            logged["reflection/helped"].append(fmean(difference > 0 for difference in known))
            logged["reflection/gain"].append(fmean(known))
