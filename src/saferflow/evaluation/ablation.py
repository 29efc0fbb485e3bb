"""Measures the worth of each part of the recipe: the same pipeline without it, on the same held-out rows.

Source: ours; [K] reports such a table for its layers, its reward terms, and SFT + GRPO without DPO.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml
from pydantic import ValidationError

from saferflow.data.rows import Answered
from saferflow.errors import ParamsError, problems
from saferflow.evaluation.intervals import Paired, paired, unmatched
from saferflow.evaluation.measures import scores
from saferflow.params import Params

TERMS = ("format", "depth", "semantic")
"""The terms of `grpo.term_weights`."""
TERMED = ("toolkit", "protocol")
"""Rewards that consist of the terms."""
OTHER_ROWS = "other held-out rows, so no differences"
THRESHOLD = 0.5
"""Threshold of the safety-aware rollout for params that leave it out."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One change of the params."""

    name: str
    what: str
    changes: Mapping[str, Any] = field(hash=False)
    """Dotted name -> value."""


def variants(params: Params) -> dict[str, Variant]:
    """One variant per part of these params, without that part; and one with the safety-aware rollout switched."""
    parts = []
    if params.dpo is not None:
        parts.append(Variant("no-dpo", "without DPO", {"dpo": None}))
    if set(params.grpo.rewards) & set(TERMED):
        for place, term in enumerate(TERMS):
            rest = sum(params.grpo.term_weights) - params.grpo.term_weights[place]
            if rest > 0 and params.grpo.term_weights[place] > 0:
                weights = [0.0 if i == place else weight / rest for i, weight in enumerate(params.grpo.term_weights)]
                parts.append(Variant(f"no-{term}", f"reward without {term}", {"grpo.term_weights": weights}))
    if len(params.grpo.rewards) > 1:
        for name in params.grpo.rewards:
            rest = 1 - params.grpo.rewards[name]
            weights = {other: weight / rest for other, weight in params.grpo.rewards.items() if other != name}
            parts.append(Variant(f"no-{_plain(name)}", f"without reward {name}", {"grpo.rewards": weights}))
    if params.grpo.reflection is None:
        threshold = {"threshold": THRESHOLD}
        parts.append(Variant("correction", "with rollout correction", {"grpo.reflection": threshold}))
    else:
        parts.append(Variant("no-correction", "without rollout correction", {"grpo.reflection": None}))
    if params.plan.topologies:
        parts.append(Variant("no-topologies", "every plan linear", {"plan.topologies": False}))
    return {variant.name: variant for variant in parts}


def chosen(params: Params, names: Sequence[str]) -> list[Variant]:
    """The variants of these names; `all` stands for every variant.

    Raises:
        ParamsError: a name is unknown; the message lists the known ones.
    """
    known = variants(params)
    if "all" in names:
        return list(known.values())
    if strangers := [name for name in names if name not in known]:
        raise ParamsError(f"no ablation {', '.join(strangers)}; there are {', '.join(known)}, and all")
    return [known[name] for name in names]


def custom(params: Params, settings: Sequence[str]) -> Variant:
    """A variant with the user's values.

    Raises:
        ParamsError: as `changed`.
    """
    return Variant("set", ", ".join(settings), changed(params, settings)[1])


def changed(params: Params, settings: Sequence[str]) -> tuple[Params, dict[str, Any]]:
    """Params with the user's values, each as `section.name=value`, the value in YAML; and dotted name -> value.

    OmegaConf's dot lists would read as much and need as many lines: they take `name` for `name=null`, and a value's `${` for
    a reference.

    Raises:
        ParamsError: a parameter does not exist, or may not have its value.
    """
    changes: dict[str, Any] = {}
    tree = params.model_dump(mode="json", by_alias=True)
    for setting in settings:
        name, equals, text = setting.partition("=")
        places = dict(_places(tree))
        if not equals or name not in places:
            near = difflib.get_close_matches(name, places, n=3)
            hint = f"; names like it: {', '.join(near)}" if near else ""
            raise ParamsError(f"{setting!r} is no parameter and value, as grpo.kl=0.05{hint}")
        section, key = places[name]
        try:
            changes[name] = section[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ParamsError(f"{setting!r}: {text!r} is no value of YAML") from None
    try:
        return Params.model_validate(tree), changes
    except ValidationError as error:
        raise ParamsError(f"{', '.join(settings)}: {'; '.join(problems(error.errors(), 'the params'))}") from None


def _places(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, tuple[dict[str, Any], str]]]:
    """Each dotted name, with the mapping and the key that it stands for."""
    for name, value in tree.items():
        yield f"{prefix}{name}", (tree, name)
        if isinstance(value, dict):
            yield from _places(value, f"{prefix}{name}.")


@dataclass(frozen=True, slots=True)
class Line:
    """One policy of the comparison."""

    what: str
    scores: Mapping[str, float]
    """Measure -> percent, for the measures that have rows."""
    gains: Mapping[str, Paired]
    """Gains over the whole recipe; empty for the recipe itself, and where the variant answered other rows."""
    other_rows: bool = False
    """True if its held-out rows differ from the whole recipe's, as with another seed: its scores stand alone."""


def compare(whole: Sequence[Answered], others: Mapping[str, Sequence[Answered]], params: Params) -> list[Line]:
    """The whole recipe first, then each variant with its paired differences.

    Args:
        whole: the answers of the policy trained with the params as they are.
        others: description of a variant -> its policy's answers. A variant that answered other rows has no differences.
    """
    options = {"resamples": params.evaluate.resamples, "level": params.gate.level, "seed": params.run.seed}
    lines = [Line("as it is", _measured(whole), {})]
    for what, answered in others.items():
        other_rows = bool(unmatched(answered, whole))
        gains = {} if other_rows else paired(answered, whole, **options)
        lines.append(Line(what, _measured(answered), gains, other_rows))
    return lines


def markdown(lines: Sequence[Line], rows: int) -> str:
    """A table with one line per variant and one column per measure: percent, difference and its interval."""
    names = list(lines[0].scores)
    table = [f"| {rows} held-out rows | {' | '.join(map(_spoken, names))} |", "|---" * (len(names) + 1) + "|"]
    for line in lines:
        what = f"{line.what} ({OTHER_ROWS})" if line.other_rows else line.what
        table.append(f"| {what} | {' | '.join(_cell(line, name) for name in names)} |")
    return "\n".join(table) + "\n"


def _cell(line: Line, name: str) -> str:
    if name not in line.gains:
        return f"{line.scores[name]:.1f}" if name in line.scores else "–"
    gain = line.gains[name]
    return f"{line.scores[name]:.1f} ({gain.difference:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}])"


def _measured(answered: Sequence[Answered]) -> dict[str, float]:
    return {name: value for name, value in scores(answered).to_dict().items() if value is not None}


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _plain(name: str) -> str:
    return name.replace(":", "-").replace(".", "-").replace("_", "-")
