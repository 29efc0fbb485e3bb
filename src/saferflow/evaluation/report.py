"""Renders an evaluation as one HTML page: no script, no external address, all text by models escaped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.evaluation.adversarial import Outcome
from saferflow.evaluation.advice import Advice
from saferflow.evaluation.benchmarks import Score, benchmark_scores
from saferflow.evaluation.benchmarks import known as known_benchmark
from saferflow.evaluation.confidence import reliability
from saferflow.evaluation.gate import Verdict
from saferflow.evaluation.intervals import Interval, intervals
from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES, by_policy, counts, harmful, scores
from saferflow.params import EvaluateParams
from saferflow.protocol.violation import CODES

SAMPLES = 5
CHANGES = 10
SHOWN_CHARS = 2000
COLOURS = ("#999999", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2")
"""Okabe and Ito's palette, distinct for colour-blind readers."""
MARKS = ("circle", "square", "diamond", "triangle", "cross", "bar")
"""A policy's mark beside its colour, for prints in grey."""


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one hazard, attack, severity, ... under one policy."""

    name: str
    policy: str
    rows: int
    harmful: int
    safety: float | None
    safety_range: Interval
    over_refusal_rate: float | None
    attack_success_rate: float | None


@dataclass(frozen=True, slots=True)
class Change:
    """One row with different grades under two policies."""

    row: str
    question: str
    points: int
    """Gain in grades over all three rubrics; one for a general question."""
    before: Answered
    after: Answered


@dataclass(frozen=True, slots=True)
class Step:
    """The rollouts of one step of GRPO."""

    number: int
    reward: float
    valid: float
    """Share of the rollouts without a violation."""


@dataclass(frozen=True, slots=True)
class Differing:
    """Differences of two runs in parameters, data or code."""

    title: str
    rows: tuple[tuple[str, str, str], ...]
    """(name, value on one side, value on the other)."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A figure over the steps of training, one line per run."""

    title: str
    lines: Mapping[str, Sequence[tuple[int, float]]]
    """Run -> (step, value), in order; the runs in the order of the policies."""


def render_report(
    answered: Sequence[Answered],
    metrics: dict,
    verdict: Verdict | None,
    params: EvaluateParams,
    seed: int,
    *,
    advice: Advice | None = None,
    prompts: Sequence[PromptRow] = (),
    steps: Sequence[Step] = (),
    differing: Sequence[Differing] = (),
    curves: Sequence[Curve] = (),
    attacks: Sequence[Outcome] = (),
    notes: Sequence[str] = (),
    title: str = "Evaluation",
) -> str:
    """Render the page.

    Args:
        metrics: as `evaluate_metrics` gives them.
        verdict: the gate's; None where there was none.
        params: settings of the intervals, with `seed`.
        advice: on a failed verdict.
        prompts: the rows of the answers; they give severity, benchmark and question, which the answers do not hold.
        steps: GRPO's steps, for the curve of its rewards.
        differing, curves: differences and curves of two runs that are compared.
        attacks: their outcomes, in the order of the table.
        notes: sentences about the judges that a reader must know.
    """
    groups = by_policy(answered)
    known = {row.id: row for row in prompts}
    fields: dict[str, Callable[[Answered], str]] = {
        "hazard": lambda row: row.hazard,
        "risk source": lambda row: row.risk_source,
        "attack": lambda row: row.attack,
    }
    if known:
        labels = {row.id: Labels.from_json(row.labels) for row in prompts}
        fields["severity"] = lambda row: str(labels[row.row].severity)
        fields["source"] = lambda row: known[row.row].source
    options = {"resamples": params.resamples, "level": params.level, "seed": seed}
    breakdowns = {name: breakdown(groups, field, **options) for name, field in fields.items()}
    source = {row.id: row.source for row in prompts}
    on_benchmarks = benchmark_scores(groups, source, **options) if known_benchmark(source.values()) else []
    *_, before, after = [None, *groups] if len(groups) > 1 else [None, None]
    changed = changes(groups[before], groups[after], known) if before else []
    return _template().render(
        title=title,
        metrics=metrics,
        measures=MEASURES,
        lower=LOWER_IS_BETTER,
        policies=list(groups),
        counts={policy: counts(rows) for policy, rows in groups.items()},
        colours=dict(zip(groups, COLOURS * len(groups), strict=False)),
        marks=dict(zip(groups, MARKS * len(groups), strict=False)),
        verdict=verdict,
        advice=advice,
        meanings=CODES,
        breakdowns={name: parts for name, parts in breakdowns.items() if len({group.name for group in parts}) > 1},
        benchmarks=_rows_of(on_benchmarks),
        confidence={name: calibration for name, calibration in reliability(groups, **options).items() if calibration.rows},
        pair=(before, after),
        worst=[change for change in changed if change.points < 0][:CHANGES],
        best=[change for change in reversed(changed) if change.points > 0][:CHANGES],
        better=sum(change.points > 0 for change in changed),
        worse=sum(change.points < 0 for change in changed),
        steps=steps,
        differing=differing,
        attacks=attacks,
        notes=notes,
        plots=[(curve, _scaled(curve)) for curve in curves if any(curve.lines.values())],
        samples={policy: samples(rows) for policy, rows in groups.items()},
        shown=SHOWN_CHARS,
    )


def _template() -> Template:
    """The template draws the charts itself, in fewer lines than a plotting library and with its own texts for screen readers."""
    environment = Environment(
        loader=PackageLoader("saferflow.evaluation", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["percent"] = lambda value: "–" if value is None else f"{value:.1f}"
    environment.filters["points"] = lambda value: "–" if value is None else f"{value:+.1f}"
    return environment.get_template("report.html.j2")


def _rows_of(figures: Sequence[Score]) -> list[tuple[Score, dict[str, Score]]]:
    """(a benchmark's figure, policy -> its score) for each row of the table."""
    rows: dict[tuple[str, str], dict[str, Score]] = {}
    for figure in figures:
        rows.setdefault((figure.benchmark, figure.figure), {})[figure.policy] = figure
    return [(next(iter(policies.values())), policies) for policies in rows.values()]


def breakdown(
    groups: dict[str, list[Answered]], field: Callable[[Answered], str], *, resamples: int, level: float, seed: int
) -> list[Group]:
    """Safety rows by a field's value and policy, with counts and the interval of safety."""
    parts = []
    values = sorted({field(row) for rows in groups.values() for row in rows if row.kind == "safety"}, key=_natural)
    for value in values:
        for policy, rows in groups.items():
            own = [row for row in rows if row.kind == "safety" and field(row) == value]
            of, bad = scores(own), sum(map(harmful, own))
            between = intervals(own, resamples=resamples, level=level, seed=seed)["safety"] if own else (None, None)
            parts.append(
                Group(value, policy, len(own), bad, of.safety, between, of.over_refusal_rate, of.attack_success_rate)
            )
    return parts


def _scaled(curve: Curve) -> dict[str, object]:
    """The ends of a curve's axes, and the points of each line in a box of 480 by 150 pixels."""
    points = [point for line in curve.lines.values() for point in line]
    last, low, high = (
        max(step for step, _ in points),
        min(value for _, value in points),
        max(value for _, value in points),
    )
    wide, tall = 480 / max(last, 1), 150 / ((high - low) or 1.0)
    lines = {
        run: " ".join(f"{step * wide:.1f},{150 - (value - low) * tall:.1f}" for step, value in line)
        for run, line in curve.lines.items()
    }
    return {"last": last, "low": low, "high": high, "lines": lines}


def _natural(name: str) -> tuple[int, str]:
    """Sort key that puts S2 before S10."""
    number = name.lstrip("S")
    return (int(number), name) if number.isdecimal() else (10**9, name)


def changes(before: Sequence[Answered], after: Sequence[Answered], prompts: Mapping[str, PromptRow]) -> list[Change]:
    """The rows on which two policies differ in grades, the greatest loss first and the greatest gain last."""
    was = {row.row: row for row in before}
    differences = [
        Change(
            row.row,
            prompts[row.row].question if row.row in prompts else "",
            _grade(row) - _grade(was[row.row]),
            was[row.row],
            row,
        )
        for row in after
        if row.row in was and row.graded and was[row.row].graded
    ]
    return sorted((change for change in differences if change.points), key=lambda change: (change.points, change.row))


def _grade(row: Answered) -> int:
    return row.safety + row.helpfulness + row.rigor if row.kind == "safety" else int(row.correct)


def samples(rows: Sequence[Answered], count: int = SAMPLES) -> list[Answered]:
    """A few safety rows, one of each risk source before a second of any; the same rows for every policy."""
    ordered = sorted((row for row in rows if row.kind == "safety"), key=lambda row: row.row)
    turn: dict[str, int] = {}
    ranked = []
    for row in ordered:
        turn[row.risk_source] = turn.get(row.risk_source, 0) + 1
        ranked.append((turn[row.risk_source], row.risk_source, row))
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])[:count]]
