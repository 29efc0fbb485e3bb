"""What each part of the recipe is worth: the same pipeline without it, on the same held-out rows.

Source: ours; [K] reports such a table for its layers, its reward terms, and SFT + GRPO without DPO.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from saferflow.data.rows import Answered
from saferflow.errors import ParamsError
from saferflow.evaluation.intervals import paired
from saferflow.evaluation.measures import MEASURES, scores
from saferflow.params import Params

TERMS = ("format", "depth", "semantic")
"""Of `grpo.term_weights`."""
TERMED = ("toolkit", "protocol")
"""Rewards that are made of the terms."""
THRESHOLD = 0.5
"""Of the safety-aware rollout, where the params leave it out."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One change of the params."""

    name: str
    what: str
    changes: Mapping[str, Any] = field(hash=False)
    """Dotted name -> value."""


def variants(params: Params) -> dict[str, Variant]:
    """Every part that these params have, left out; and the safety-aware rollout turned the other way."""
    found = []
    if params.dpo is not None:
        found.append(Variant("no-dpo", "without DPO", {"dpo": None}))
    if set(params.grpo.rewards) & set(TERMED):
        for place, term in enumerate(TERMS):
            rest = sum(params.grpo.term_weights) - params.grpo.term_weights[place]
            if rest > 0 and params.grpo.term_weights[place] > 0:
                weights = [0.0 if i == place else weight / rest for i, weight in enumerate(params.grpo.term_weights)]
                found.append(Variant(f"no-{term}", f"reward without {term}", {"grpo.term_weights": weights}))
    if len(params.grpo.rewards) > 1:
        for name in params.grpo.rewards:
            rest = 1 - params.grpo.rewards[name]
            weights = {other: weight / rest for other, weight in params.grpo.rewards.items() if other != name}
            found.append(Variant(f"no-{_plain(name)}", f"without reward {name}", {"grpo.rewards": weights}))
    if params.grpo.reflection is None:
        threshold = {"threshold": THRESHOLD}
        found.append(Variant("correction", "with rollout correction", {"grpo.reflection": threshold}))
    else:
        found.append(Variant("no-correction", "without rollout correction", {"grpo.reflection": None}))
    if params.plan.topologies:
        found.append(Variant("no-topologies", "every plan linear", {"plan.topologies": False}))
    return {variant.name: variant for variant in found}


def chosen(params: Params, names: Sequence[str]) -> list[Variant]:
    """The variants of these names; `all` is every one.

    Raises:
        ParamsError: a name that is none; the message says what there is.
    """
    known = variants(params)
    if "all" in names:
        return list(known.values())
    if strangers := [name for name in names if name not in known]:
        raise ParamsError(f"no ablation {', '.join(strangers)}; there are {', '.join(known)}, and all")
    return [known[name] for name in names]


def table(whole: Sequence[Answered], others: Mapping[str, Sequence[Answered]], params: Params) -> str:
    """Markdown: a line a variant, a column a measure, each with its paired difference from the whole recipe.

    Args:
        whole: one policy's answers, by the params as they are.
        others: what a variant is -> its policy's answers to the same rows.

    Raises:
        DataError: a variant answered other rows.
    """
    measured = scores(whole).to_dict()
    names = [name for name in MEASURES if measured.get(name) is not None]
    options = {"resamples": params.evaluate.resamples, "level": params.gate.level, "seed": params.run.seed}
    lines = [
        f"| {len(whole)} held-out rows | {' | '.join(name.replace('_', ' ') for name in names)} |",
        "|---" * (len(names) + 1) + "|",
        f"| as it is | {' | '.join(f'{measured[name]:.1f}' for name in names)} |",
    ]
    for what, answered in others.items():
        found, gains = scores(answered).to_dict(), paired(answered, whole, **options)
        cells = [
            f"{found[name]:.1f} ({gains[name].difference:+.1f} [{gains[name].low:+.1f}, {gains[name].high:+.1f}])"
            for name in names
        ]
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _plain(name: str) -> str:
    return name.replace(":", "-").replace(".", "-").replace("_", "-")
