"""A benchmark's report as tables: the same ones for the terminal and for a README. Source: ours."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.spread.figures import ORDER
from benchmarks.spread.runs import ATTACK

MEASURES = {
    "safety": "safety",
    "helpfulness": "helpfulness",
    "rigor": "rigor",
    "over_refusal_rate": "over-refusal",
    "attack_success_rate": "attack success",
    "validity": "protocol validity",
    "general": "general ability",
}
"""The measures that tables show, beside the successes of attacks, by the names that readers know them by."""
SPOKEN = {"base": "base", "sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: a title, headings, and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]


def terminal(sheet: Sheet) -> Table:
    table = Table(title=sheet.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, heading in enumerate(sheet.headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=number > 0 and " " not in heading)
    for row in sheet.rows:
        table.add_row(*row)
    return table


def markdown(sheet: Sheet) -> str:
    lines = [sheet.headings, ["---"] * len(sheet.headings), *sheet.rows]
    return f"{sheet.title}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def sheets(report: Mapping[str, Any]) -> Iterator[Sheet]:
    """Every table of a report, as `report.of` makes it: what variants differ in first, then each variant."""
    yield from _comparisons(report)
    for variant, figures in report["variants"].items():
        if not figures["runs"]:
            continue
        name = f"{variant}, " if len(report["variants"]) > 1 else ""
        runs = [run for run in report["runs"] if run["variant"] == variant]
        yield from _overview(name, figures, runs)
        yield from _steps(name, figures)
        for policy, measures in figures["measures"].items():
            for columns in _columns(measures):
                title = f"{name}{SPOKEN[policy]} by run" + ("" if columns[0] in MEASURES else ", successes of attacks")
                yield _by_run(title, policy, columns, measures, runs)
        yield from _seconds(name, figures["seconds"], (*report["stages"], ATTACK))


def _comparisons(report: Mapping[str, Any]) -> Iterator[Sheet]:
    """Variants as rows, measures as columns; a policy in which no variant differs from the first has no table."""
    first = next(iter(report["variants"]))
    for policy in ORDER:
        differences = {variant: policies.get(policy, {}) for variant, policies in report["differences"].items()}
        if not any(gain["mean"] for gains in differences.values() for gain in gains.values()):
            continue
        measures = report["variants"][first]["measures"].get(policy, {})
        for columns in _columns(measures):
            rows = []
            for variant, figures in report["variants"].items():
                means, gains = figures["measures"].get(policy, {}), differences.get(variant, {})
                cells = [
                    f"{means[name]['mean']:.1f}{_in_brackets(gains.get(name))}" if name in means else ""
                    for name in columns
                ]
                rows.append([variant, *cells])
            title = f"{SPOKEN[policy]}: mean, and the paired difference from {first} over seeds, with its t interval"
            yield Sheet(title, ("variant", *map(_spoken, columns)), rows)


def _overview(name: str, figures: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> Iterator[Sheet]:
    seeds, arithmetics = {run["seed"] for run in runs}, {run["arithmetic"] for run in runs}
    policies = list(figures["measures"])
    measures = {measure: None for policy in policies for measure in figures["measures"][policy]}
    rows = [
        [_spoken(measure), *(_range(figures["measures"][policy].get(measure)) for policy in policies)]
        for columns in _columns(measures)
        for measure in columns
    ]
    title = f"{name}percent: mean (lowest to highest) of {_count(len(runs), 'run')}, {_count(len(seeds), 'seed')}"
    title += f" under {_count(len(arithmetics), 'arithmetic')}"
    if rows:
        yield Sheet(title, ("", *(SPOKEN[policy] for policy in policies)), rows)


def _steps(name: str, figures: Mapping[str, Any]) -> Iterator[Sheet]:
    steps = {pair: gains for pair, gains in figures["steps"].items() if gains}
    measures = {measure: None for gains in steps.values() for measure in gains}
    rows = [
        [_spoken(measure), *(_signed(gains.get(measure)) for gains in steps.values())]
        for columns in _columns(measures)
        for measure in columns
    ]
    headings = [" − ".join(SPOKEN[policy] for policy in pair.split("-")) for pair in steps]
    if rows:
        yield Sheet(f"{name}points: paired differences over seeds, with their t intervals", ("", *headings), rows)


def _by_run(
    title: str, policy: str, columns: Sequence[str], measures: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]
) -> Sheet:
    rows = [
        [
            f"seed {run['seed']}, {run['arithmetic']}",
            *(_number(run["measures"].get(policy, {}).get(name)) for name in columns),
        ]
        for run in runs
    ]
    for figure in ("mean", "lowest", "highest", "spread", "within_seed"):
        if any(measures[name][figure] is not None for name in columns):
            heading = "spread within a seed" if figure == "within_seed" else figure
            rows.append([heading, *(_number(measures[name][figure]) for name in columns)])
    return Sheet(title, ("run", *map(_spoken, columns)), rows)


def _seconds(name: str, seconds: Mapping[str, Any], order: Sequence[str]) -> Iterator[Sheet]:
    stages = [stage for stage in order if stage in seconds]
    rows = [
        [
            stage,
            *(f"{seconds[stage][figure]:.0f}" for figure in ("mean", "lowest", "highest")),
            str(seconds[stage]["runs"]),
        ]
        for stage in stages
    ]
    if rows:
        rows.append(["in all", f"{seconds['all']:.0f}", "", "", ""])
        yield Sheet(f"{name}seconds of stages that ran whole", ("stage", "mean", "lowest", "highest", "runs"), rows)


def gate_line(figures: Mapping[str, Any]) -> str:
    """`gate: passed in 7 of 10 runs; failed checks: safety (2), validity (1)`."""
    gate = figures["gate"]
    failed = ", ".join(f"{name} ({count})" for name, count in gate["failed_checks"].items())
    return f"gate: passed in {gate['passed']} of {_count(gate['runs'], 'run')}" + (
        f"; failed checks: {failed}" if failed else ""
    )


def _columns(measures: Mapping[str, Any]) -> Iterator[list[str]]:
    """The measures of the pipeline, and apart from them those of attacks; neither where there are none."""
    for columns in (list(MEASURES), [name for name in measures if name.startswith(f"{ATTACK} ")]):
        if present := [name for name in columns if name in measures]:
            yield present


def _spoken(measure: str) -> str:
    return MEASURES.get(measure, measure.replace("_", " "))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _range(figure: Mapping[str, Any] | None) -> str:
    return f"{figure['mean']:.1f} ({figure['lowest']:.1f} to {figure['highest']:.1f})" if figure else ""


def _signed(difference: Mapping[str, Any] | None) -> str:
    if difference is None:
        return ""
    low, high = difference["low"], difference["high"]
    return _points(difference["mean"]) + ("" if low is None else f" [{_points(low)}, {_points(high)}]")


def _points(value: float) -> str:
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _in_brackets(difference: Mapping[str, Any] | None) -> str:
    return f" ({_signed(difference)})" if difference else ""
