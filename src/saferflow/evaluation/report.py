"""One self-contained HTML page about an evaluation: no script, no external address, all that a model wrote escaped."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from saferflow.data.rows import Answered
from saferflow.evaluation.gate import Verdict
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, by_policy, harmful, scores

SAMPLES = 5
SHOWN_CHARS = 2000
COLOURS = ("#999999", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2")
"""Okabe and Ito's palette, told apart by colour-blind readers."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one hazard or risk source under one policy."""

    name: str
    policy: str
    rows: int
    harmful: int
    safety: float | None
    over_refusal: float | None
    attack_success: float | None


def render_report(answered: Sequence[Answered], metrics: dict, verdict: Verdict) -> str:
    """The page.

    Args:
        metrics: as `evaluate_metrics` gives them.
    """
    environment = Environment(
        loader=PackageLoader("saferflow.evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    groups = by_policy(answered)
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1f}"
    environment.filters["points"] = lambda value: "–" if value is None else f"{value:+.1f}"
    return environment.get_template("report.html.j2").render(
        metrics=metrics,
        measures=MEASURES,
        lower=LOWER_IS_BETTER,
        policies=list(groups),
        colours=dict(zip(groups, COLOURS * len(groups), strict=False)),
        verdict=verdict,
        breakdowns={"hazard": breakdown(groups, "hazard"), "risk source": breakdown(groups, "risk_source")},
        samples={policy: samples(rows) for policy, rows in groups.items()},
        shown=SHOWN_CHARS,
    )


def breakdown(groups: dict[str, list[Answered]], field: str) -> list[Group]:
    """Safety rows by a field's value, each policy on its own, with counts."""
    found = []
    values = sorted({getattr(row, field) for rows in groups.values() for row in rows if row.kind == "safety"})
    for value in values:
        for policy, rows in groups.items():
            own = [row for row in rows if row.kind == "safety" and getattr(row, field) == value]
            of = scores(own)
            bad = sum(map(harmful, own))
            found.append(Group(value, policy, len(own), bad, of.safety, of.over_refusal, of.attack_success))
    return found


def samples(rows: Sequence[Answered], count: int = SAMPLES) -> list[Answered]:
    """A few safety rows, one of each risk source before a second of any: the same ones for every policy."""
    ordered = sorted((row for row in rows if row.kind == "safety"), key=lambda row: row.row)
    turn: dict[str, int] = {}
    ranked = []
    for row in ordered:
        turn[row.risk_source] = turn.get(row.risk_source, 0) + 1
        ranked.append((turn[row.risk_source], row.risk_source, row))
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])[:count]]
