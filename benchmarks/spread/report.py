"""A benchmark's figures as JSON and as Markdown, from the records of its runs. Source: ours."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from benchmarks.spread.arithmetics import NATIVE, Arithmetic
from benchmarks.spread.figures import LEVEL, against, of_variant
from benchmarks.spread.records import FAILED, Record
from benchmarks.spread.runs import Benchmark, Run
from benchmarks.spread.tables import gate_line, markdown, sheets


def of(
    benchmark: Benchmark, runs: Sequence[Run], arithmetics: Mapping[str, Arithmetic], about: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of the runs that are finished.

    Args:
        about: what else the report says of itself: date, command.

    Returns:
        `about`, `machines`, `arithmetics`, `runs` (each with its figures), `failures`, `unfinished` (names of runs), `variants`
        (name -> as `of_variant`) and `differences` (variant -> as `against`, from the first variant).
    """
    records = {run.name: Record(benchmark, run) for run in runs}
    finished = [run for run in runs if not records[run.name].left(benchmark.steps, benchmark.attacks)]
    outcomes = {run.name: records[run.name].outcome() for run in finished}
    by_variant = {run.variant: [] for run in runs}
    for run in finished:
        by_variant[run.variant].append(outcomes[run.name])
    first = next(iter(by_variant))
    changes = {run.variant: {name: value for name, value in run.changes.items() if name != "run.seed"} for run in runs}
    machines = [records[run.name].values["machine"] for run in finished]
    failures = {
        run.name: {
            step: state["reason"]
            for step, state in records[run.name].values["steps"].items()
            if state["state"] == FAILED
        }
        for run in runs
    }
    return _plain({
        **about,
        "commit": benchmark.commit,
        "profile": benchmark.profile,
        "stages": benchmark.stages,
        "attacks": benchmark.attacks,
        "level": LEVEL,
        "machines": [machine for number, machine in enumerate(machines) if machine not in machines[:number]],
        "arithmetics": {
            name: {
                "settings": arithmetic.settings,
                "digits": arithmetic.digits,
                "differs_from_native": arithmetic.differs_in(arithmetics[NATIVE]) if NATIVE in arithmetics else None,
            }
            for name, arithmetic in arithmetics.items()
        },
        "runs": [
            {**asdict(outcomes[run.name]), "digits": records[run.name].values["digits"],
             "steps": records[run.name].values["steps"], "machine": records[run.name].values["machine"]}
            for run in finished
        ],
        "failures": {name: reasons for name, reasons in failures.items() if reasons},
        "unfinished": [run.name for run in runs if run not in finished],
        "variants": {
            name: {"changes": changes[name], **of_variant(group)} for name, group in by_variant.items()
        },
        "differences": {name: against(group, by_variant[first]) for name, group in by_variant.items() if name != first},
    })  # fmt: skip


def page(report: Mapping[str, Any]) -> str:
    """The report in Markdown, ready for a README."""
    machines = "; ".join(
        f"{machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}" for machine in report["machines"]
    )
    lines = [
        f"`{report['command']}`, {report['date']}, commit {report['commit'][:8]}, {machines or 'no run finished'}.",
        "",
    ]
    lines += [markdown(sheet) for sheet in sheets(report)]
    for name, figures in report["variants"].items():
        lines.append(f"{f'{name}, ' if len(report['variants']) > 1 else ''}{gate_line(figures)}.\n")
    if report["unfinished"]:
        lines.append(f"Not finished: {', '.join(report['unfinished'])}.\n")
    return "\n".join(lines)


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, keys as text, tuples as lists: what JSON gives back."""
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
