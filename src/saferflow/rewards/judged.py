"""The rewards that a stage's params name, as TRL's users know them: functions of completions and dataset columns.

One's own function, `package.module:function` in the params, takes keyword arguments (`prompts`, `completions`, the columns
`row`, `question`, `plan`, `labels`, `images`, each a list, and what TRL adds) and returns a number a completion; None where
it does not apply. It may be async. Ours are of the same kind, so that all of them mix.
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
"""Returns a list of numbers or None, one a completion, or promises it."""

OURS = ("toolkit", "structured", "protocol")


def reward_functions(params: GRPOParams, judge: Judge, rows: Sequence[PromptRow]) -> dict[str, RewardFunction]:
    """The functions of `params.rewards`, in its order; ours are in [0, 1].

    A judge that cannot be reached raises; it never becomes a reward. Its marks of a completion are asked for once, those of
    a batch at once; where it answered and could not be read, the reward is None.

    Raises:
        ParamsError: a name that is none of ours and no function that can be imported.
    """
    known = {row.id: row for row in rows}

    def item(row: str, text: str) -> Item:
        asked = known[row]
        return Item(asked.question, asked.image, Labels.from_json(asked.labels), text)

    marks = lru_cache(maxsize=4096)(lambda row, text: judge.marks(item(row, text)))
    structured = lru_cache(maxsize=4096)(lambda row, text: judge.structured(item(row, text)))

    def toolkit(row: str, text: str) -> float | None:
        found = marks(row, text)
        return found and toolkit_reward(text, found, params.term_weights).overall

    def by_structure(row: str, text: str) -> float | None:
        found = structured(row, text)
        return found and structured_reward(found).overall

    def protocol(row: str, text: str) -> float | None:
        found = marks(row, text)
        return found and protocol_reward(Plan.from_json(known[row].plan), text, found, params.term_weights).overall

    def batch(name: str, what: str, reward: Callable[[str, str], float | None]) -> RewardFunction:
        def function(*, completions: Sequence[Any], row: Sequence[str], **_: Any) -> list[float | None]:
            asked = [(one, said(completion)) for one, completion in zip(row, completions, strict=True)]
            judge.prepare(what, [item(*one) for one in dict.fromkeys(asked)])
            return [reward(*one) for one in asked]

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
    """A function of row ids and completions that has the judge say now what the rewards will ask for.

    Args:
        reflected: the completions may be reflected upon, if the params want it, which asks for the structured marks.
    """
    known = {row.id: row for row in rows}
    asked_for = {"toolkit": "marks", "protocol": "marks", "structured": "structured"}
    wanted = {asked_for[name] for name in params.rewards if name in asked_for}
    if reflected and params.reflection is not None:
        wanted.add("structured")

    def ahead(asked: Sequence[str], texts: Sequence[str]) -> None:
        items = [
            Item(known[row].question, known[row].image, Labels.from_json(known[row].labels), text)
            for row, text in dict.fromkeys(zip(asked, texts, strict=True))
        ]
        for what in sorted(wanted):
            judge.prepare(what, items)

    return ahead


def weighted(
    functions: Mapping[str, RewardFunction], weights: Mapping[str, float], **columns: Sequence[Any]
) -> list[float | None]:
    """The total reward of each completion: the weighted sum of its rewards. Waits for async functions.

    A function of one's own that does not apply (None) counts nothing. Where one of ours is None, the judge's marks are not
    known, or where all are, there is no total: None, which is not the same as a total of 0.
    """
    parts = {name: _told(function(**columns)) for name, function in functions.items()}
    rows = [{name: part[number] for name, part in parts.items()} for number in range(len(columns["completions"]))]
    return [total(rewards, weights) for rewards in rows]


def total(rewards: Mapping[str, float | None], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of one completion's rewards, by name; None as `weighted` says."""
    known = {name: reward for name, reward in rewards.items() if reward is not None}
    if not known or any(name in OURS for name in rewards.keys() - known.keys()):
        return None
    return sum(weights[name] * reward for name, reward in known.items())


def said(completion: str | Sequence[Mapping[str, str]]) -> str:
    """A completion's text, plain or as a conversation's last turn."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def _imported(name: str) -> RewardFunction:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ParamsError(
            f"grpo.rewards names {name}, which cannot be imported ({error}); "
            f"known are {', '.join(OURS)}, or one's own as package.module:function, on PYTHONPATH"
        ) from None
    if not callable(found):
        raise ParamsError(f"grpo.rewards names {name}, which is no function but a {type(found).__name__}")
    return found


def _told(answer: Any) -> list[float | None]:
    return asyncio.run(_awaited(answer)) if inspect.isawaitable(answer) else answer


async def _awaited(answer: Any) -> list[float | None]:
    return await answer
