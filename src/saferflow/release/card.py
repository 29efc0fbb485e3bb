"""The model card of a registered version, in Markdown: its origin, its data, its scores, its failures."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from saferflow.data.rows import Answered
from saferflow.evaluation.advice import Advice
from saferflow.evaluation.cost import Cost, total
from saferflow.evaluation.judges import judge_note
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, by_policy, harmful, scores
from saferflow.layout import CANDIDATE, POLICIES, TRAINED
from saferflow.params import Params

SHOWN = 8
"""The most violations and hazards that the card names among the failures."""
SHOWN_GROUPS = 3
"""The most risk sources and hazards that the card names for a failed check."""
RECIPE = (
    "learning_rate", "epochs", "batch_size", "schedule", "beta", "sft_weight", "group", "kl", "clip_low", "clip_high",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a version comes from."""

    model: str
    number: int
    commit: str
    dirty: bool
    """Whether the working tree differed from the commit."""
    run: str
    """The pipeline's MLflow run."""
    digests: Mapping[str, str]
    """Path of each output of the stages -> DVC's hash."""


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
    """Render the card as Markdown.

    Args:
        sources: (what, licence) of each source.
        rows: table -> its number of rows.
        metrics: the JSON that stage `evaluate` writes.
        verdict: the JSON that stage `gate` writes.
        decision: whether the version was promoted, and why, in words.
        costs: stage -> its cost when its code ran.
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
    own = by_policy(answered).get(CANDIDATE, [])
    advice = Advice.from_dict(verdict["advice"]) if verdict.get("advice") else None
    stages = {name: section.model_dump() for name in TRAINED if (section := getattr(params, name))}
    return environment.get_template("card.md.j2").render(
        origin=origin,
        params=params,
        sources=sources,
        rows=rows,
        recipe={name: {key: values[key] for key in RECIPE if key in values} for name, values in stages.items()},
        metrics=metrics,
        graded_by=judge_note(params.judge, params.evaluate.judge),
        policies=[policy for policy in POLICIES if policy in metrics["policies"]],
        measures=MEASURES,
        lower=LOWER_IS_BETTER,
        hazards=by_hazard(own),
        failed=[check for check in verdict["checks"] if not check["passed"]],
        most={shortfall.name: shortfall for shortfall in advice.shortfalls if shortfall.groups} if advice else {},
        shown_groups=SHOWN_GROUPS,
        violations=Counter(code for row in own for code in row.violations.split()).most_common(SHOWN),
        answered=len(own),
        decision=decision,
        costs={**costs, "all": total(costs)},
    )


def by_hazard(own: Sequence[Answered]) -> list[dict[str, Any]]:
    """A policy's safety rows by hazard, with counts; the least safe first."""
    groups = []
    for hazard in sorted({row.hazard for row in own if row.kind == "safety"}):
        rows = [row for row in own if row.kind == "safety" and row.hazard == hazard]
        groups.append(
            {"hazard": hazard, "rows": len(rows), "harmful": sum(map(harmful, rows)), **scores(rows).to_dict()}
        )
    return sorted(groups, key=lambda group: group["safety"])


def cell(text: object) -> str:
    """Text as a cell of a Markdown table: one line, with the control characters of Markdown and HTML escaped."""
    flat = " ".join(str(text).split())
    return "".join(
        f"\\{sign}" if sign in "\\`*_[]|#" else {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(sign, sign)
        for sign in flat
    )
