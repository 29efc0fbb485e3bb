"""The reward functions that a stage's params name, in TRL's form: functions of completions and dataset columns.

A user's own function, `package.module:function` in the params, takes keyword arguments (`prompts`, `completions`, the columns
`row`, `question`, `plan`, `labels`, `images`, each a list, and TRL's own) and returns one number per completion, or None
where it does not apply. It may be async. Our functions have the same form, so that all of them mix.
"""

import asyncio
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from saferflow.data.rows import Labels, PromptRow
from saferflow.errors import ParamsError
from saferflow.judge.rubrics import Item, Judge
from saferflow.params import GRPOParams
from saferflow.protocol.plan import Plan
from saferflow.rewards.protocol import protocol_reward
from saferflow.rewards.structured import structured_reward
from saferflow.rewards.toolkit import toolkit_reward

RewardFunction = Callable[..., Any]
"""Returns one number or None per completion, as a list or as an awaitable of it."""

OURS = ("toolkit", "structured", "protocol")


def reward_functions(params: GRPOParams, judge: Judge, rows: Sequence[PromptRow]) -> dict[str, RewardFunction]:
    """The functions of `params.rewards`, in its order; ours are in [0, 1].

    A judge that cannot be reached raises an error and never becomes a reward. Each completion is judged once, and a batch in
    one request round. Where the judge's answer cannot be read, the reward is None.

    Raises:
        ParamsError: a name is neither one of ours nor an importable function.
    """
    known = {row.id: row for row in rows}

    def item(row: str, text: str) -> Item:
        prompt = known[row]
        return Item(prompt.question, prompt.image, Labels.from_json(prompt.labels), text)

    marks = lru_cache(maxsize=4096)(lambda row, text: judge.marks(item(row, text)))
    structured = lru_cache(maxsize=4096)(lambda row, text: judge.structured(item(row, text)))

    def toolkit(row: str, text: str) -> float | None:
        item_marks = marks(row, text)
        return item_marks and toolkit_reward(text, item_marks, params.term_weights).overall

    def by_structure(row: str, text: str) -> float | None:
        item_marks = structured(row, text)
        return item_marks and structured_reward(item_marks).overall

    def protocol(row: str, text: str) -> float | None:
        item_marks = marks(row, text)
        return item_marks and protocol_reward(Plan.from_json(known[row].plan), text, item_marks, params.term_weights).overall

    def batch(name: str, what: str, reward: Callable[[str, str], float | None]) -> RewardFunction:
        def function(*, completions: Sequence[Any], row: Sequence[str], **_: Any) -> list[float | None]:
            pairs = [(row_id, said(completion)) for row_id, completion in zip(row, completions, strict=True)]
            judge.prepare(what, [item(*pair) for pair in dict.fromkeys(pairs)])
            return [reward(*pair) for pair in pairs]

        function.__name__ = name
        return function

    ours = {
        "toolkit": batch("toolkit", "marks", toolkit),
        "structured": batch("structured", "structured", by_structure),
        "protocol": batch("protocol", "marks", protocol),
    }
    return {name: ours[name] if name in ours else _imported(name) for name in params.rewards}


def judged_ahead(
    params: GRPOParams, judge: Judge, rows: Sequence[PromptRow], *, reflected: bool = True
) -> Callable[[Sequence[str], Sequence[str]], None]:
    """A function of row ids and completions that submits them to the judge before the rewards need its marks.

    Args:
        reflected: the completions may be reflected upon, if the params want it, which asks for the structured marks.
    """
    known = {row.id: row for row in rows}
    form_of = {"toolkit": "marks", "protocol": "marks", "structured": "structured"}
    forms = {form_of[name] for name in params.rewards if name in form_of}
    if reflected and params.reflection is not None:
        forms.add("structured")

    def ahead(row_ids: Sequence[str], texts: Sequence[str]) -> None:
        items = [
            Item(known[row].question, known[row].image, Labels.from_json(known[row].labels), text)
            for row, text in dict.fromkeys(zip(row_ids, texts, strict=True))
        ]
        for form in sorted(forms):
            judge.prepare(form, items)

    return ahead


def weighted(
    functions: Mapping[str, RewardFunction], weights: Mapping[str, float], **columns: Sequence[Any]
) -> list[float | None]:
    """The total reward of each completion: the weighted sum of its rewards. Waits for async functions.

    A user's function that does not apply (None) adds nothing. If one of ours is None, the judge's marks are unknown, and the
    total is None; so it is if all are None. A total of None is not a total of 0.
    """
    parts = {name: _numbers(function(**columns)) for name, function in functions.items()}
    rows = [{name: part[number] for name, part in parts.items()} for number in range(len(columns["completions"]))]
    return [total(rewards, weights) for rewards in rows]


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of one completion's rewards by name; None as in `weighted`."""
    known = {name: reward for name, reward in rewards.items() if reward is not None}
    if not known or any(name in OURS for name in rewards.keys() - known.keys()):
        return None
    return sum(weights[name] * reward for name, reward in known.items())


def said(completion: str | Sequence[Mapping[str, str]]) -> str:
    """The text of a completion: the completion itself, or the last turn of a conversation."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _imported(name: str) -> RewardFunction:
    module, _, function = name.partition(":")
    try:
        reward = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ParamsError(
            f"grpo.rewards names {name}, which cannot be imported ({error}); "
            f"known are {', '.join(OURS)}, or one's own as package.module:function, on PYTHONPATH"
        ) from None
    if not callable(reward):
        raise ParamsError(f"grpo.rewards names {name}, which is no function but a {type(reward).__name__}")
    return reward


def _numbers(answer: Any) -> list[float | None]:
    return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Any) -> list[float | None]:
    return await answer
