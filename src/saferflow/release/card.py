"""The model card of a registered version: what it is, what it was made of, how it scores, where it fails, in Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from saferflow.data.rows import Answered
from saferflow.evaluation.advice import Advice
from saferflow.evaluation.cost import Cost, total
from saferflow.evaluation.judges import judge_note
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, ORDER, by_policy, harmful, scores
from saferflow.params import Params

POLICY = "grpo"
SHOWN = 8
"""Violations, and hazards, that are named among the failures."""
SHOWN_GROUPS = 3
"""Risk sources and hazards that are named of a failed check."""
RECIPE = (
    "learning_rate",
    "epochs",
    "batch_size",
    "schedule",
    "beta",
    "sft_weight",
    "group",
    "kl",
    "clip_low",
    "clip_high",
)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from."""

    model: str
    number: int
    commit: str
    dirty: bool
    """Files that git did not have differed from the commit."""
    run: str
    """The pipeline's MLflow run."""
    digests: Mapping[str, str]
    """Path of everything that the stages wrote -> DVC's hash."""


def render_card(
    origin: Origin,
    params: Params,
    sources: Sequence[tuple[str, str]],
    rows: Mapping[str, int],
    metrics: Mapping[str, Any],
    verdict: Mapping[str, Any],
    answered: Sequence[Answered],
    decision: str,
    costs: Mapping[str, Cost],
) -> str:
    """The card.

    Args:
        sources: (what, licence) of each source.
        rows: table -> its rows.
        metrics: as stage `evaluate` writes them.
        verdict: as stage `gate` writes it.
        decision: whether it was promoted, and why, in words.
        costs: stage -> what it took when its code ran.
    """
    environment = Environment(
        loader=PackageLoader("saferflow.release", "."),
        autoescape=False,  # noqa: S701 the page is Markdown; whatever a row holds goes through `cell`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1f}"
    environment.filters["cell"] = cell
    environment.filters["figure"] = lambda value: "–" if value is None else f"{value:,.3g}"
    own = by_policy(answered).get(POLICY, [])
    advice = Advice.from_dict(verdict["advice"]) if verdict.get("advice") else None
    stages = {name: getattr(params, name).model_dump() for name in ("sft", "dpo", "grpo")}
    return environment.get_template("card.md.j2").render(
        origin=origin,
        params=params,
        sources=sources,
        rows=rows,
        recipe={name: {key: values[key] for key in RECIPE if key in values} for name, values in stages.items()},
        metrics=metrics,
        graded_by=judge_note(params.judge, params.evaluate.judge),
        policies=[policy for policy in ORDER if policy in metrics["policies"]],
        measures=MEASURES,
        lower=LOWER_IS_BETTER,
        hazards=by_hazard(own),
        failed=[check for check in verdict["checks"] if not check["passed"]],
        most={each.name: each for each in advice.shortfalls if each.groups} if advice else {},
        shown_groups=SHOWN_GROUPS,
        violations=Counter(code for row in own for code in row.violations.split()).most_common(SHOWN),
        answered=len(own),
        decision=decision,
        costs={**costs, "all": total(costs)},
    )


def by_hazard(own: Sequence[Answered]) -> list[dict[str, Any]]:
    """A policy's safety rows by hazard, with counts; the least safe first."""
    found = []
    for hazard in sorted({row.hazard for row in own if row.kind == "safety"}):
        mine = [row for row in own if row.kind == "safety" and row.hazard == hazard]
        found.append(
            {"hazard": hazard, "rows": len(mine), "harmful": sum(map(harmful, mine)), **scores(mine).to_dict()}
        )
    return sorted(found, key=lambda group: group["safety"])


def cell(text: object) -> str:
    """Text as a cell of a Markdown table: one line, and nothing in it that Markdown or HTML reads."""
    flat = " ".join(str(text).split())
    return "".join(
        f"\\{sign}" if sign in "\\`*_[]|#" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign, sign)
        for sign in flat
    )
