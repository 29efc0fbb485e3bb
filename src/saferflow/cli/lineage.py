"""`saferflow lineage`: from a version back to a row, and from a row forward to every version that saw it."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.cli.data import TABLES, belongs
from saferflow.data.incidents import FOLDER, Incident, find_incident, read_incidents
from saferflow.data.origins import LABEL_SOURCES
from saferflow.data.rows import DPORow, Labels, PromptRow, SFTRow
from saferflow.data.tables import read_table
from saferflow.errors import DataError, PipelineError
from saferflow.params import Params
from saferflow.release import pipeline_runs, registry
from saferflow.release.verdict import answers_of
from saferflow.serving import store
from saferflow.tracking import lineage, runs
from saferflow.tracking.stored import stored

MEASURED = ("data/tables/evaluation.parquet", "data/tables/incidents.parquet")
"""Shown to every version, learned from by none."""
WORDS = {"writer": "written by", "rejected_writer": "rejected side written by"}
"""How the terminal calls a column."""
SHOWN = 400
"""Characters of a text on the terminal."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A version of a table that holds the row, and what came of it."""

    table: str
    digest: str
    stages: dict[str, list[str]]
    """Stage -> MLflow runs that read it."""
    versions: list[int]
    """Registered versions that were made from one of these runs."""
    learned: bool
    """Whether they were trained on it, and not only measured."""


@dataclass(frozen=True, slots=True)
class Who:
    """Every model that saw a row, as far as can be told."""

    row: str
    seen: list[Seen]
    unknown: list[tuple[str, str]]
    """(table, hash) of tables that runs have read and that neither cache nor remote has any more."""
    held: list[str] = field(default_factory=list)
    """Where an incident still lies, outside of the tables."""


def who(params: Params, row: str) -> Who:
    """Ask every table that any run has read, the ones of former data too.

    Args:
        row: a row's id; or a completion's that was reported as an incident.

    Raises:
        DataError: no run has read any table.
    """
    incident = find_incident(read_incidents(FOLDER), row)
    row = incident.id if incident else row
    read = pipeline_runs.versions_of(list(TABLES))
    if not read and not incident:
        raise DataError("no run has read a table yet; saferflow run makes the first")
    seen, unknown = [], []
    for (table, digest), stages in read.items():
        try:
            held = _rows(table, digest, row)
        except PipelineError:
            unknown.append((table, digest))
            continue
        if held:
            made = registry.versions_from_runs(params.gate.registered_model, {run for each in stages.values() for run in each})
            seen.append(Seen(table, digest, stages, made, table not in MEASURED))
    return Who(row, seen, unknown, places(incident) if incident else [])


def places(incident: Incident) -> list[str]:
    """Where an incident lies outside of the tables, in words: its source, and the server's store."""
    exchanges = [report.exchange for report in incident.reports if store.holds(store.FILE, report.exchange)]
    return [str(FOLDER), *(f"{store.FILE}: exchange {name}" for name in exchanges)]


def print_who(console: Console, params: Params, found: Who, *, as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps(asdict(found)))
        return
    if not found.seen:
        console.print(Text(f"no table that a run has read holds {found.row}"))
    for one in found.seen:
        console.print(Text(f"{one.table} ({one.digest[:10]})"))
        for stage, of_stage in one.stages.items():
            console.print(Text(f"  read by {stage} in {len(of_stage)} runs: {', '.join(of_stage)}"))
    for place in found.held:
        console.print(Text(f"{place} holds it"))
    if found.held:
        console.print(Text(f"to take it out there: saferflow incident remove {found.row}"))
    trained = sorted({number for one in found.seen if one.learned for number in one.versions})
    measured = sorted({number for one in found.seen if not one.learned for number in one.versions})
    model = params.gate.registered_model
    if trained:
        console.print(Text(f"trained on it: {_named(model, trained)}", "bold"))
    if measured:
        console.print(Text(f"evaluated on it: {_named(model, measured)}"))
    if trained:
        console.print(
            Text(
                "to take it out: remove it from its source, saferflow run, and promote; then delete what else holds it: "
                "these versions and runs in MLflow, and their tables in DVC (dvc gc --cloud)"
            )
        )
    for table, digest in found.unknown:
        console.print(
            Text(f"cannot be told: {table} ({digest[:10]}) is in neither cache nor remote any more", "yellow")
        )


def _named(model: str, numbers: Sequence[int]) -> str:
    versions = [registry.by_number(model, number) for number in numbers]
    return ", ".join(f"v{one.number}" + (f" ({', '.join(one.aliases)})" if one.aliases else "") for one in versions)


def why(console: Console, params: Params, asked: str, row: str, *, as_json: bool) -> None:
    """What a version was shown of a row in each stage, and what it answered where the row is a held-out one.

    Raises:
        DataError: the version has not seen the row.
        PipelineError: there is no such version, or a table is in neither cache nor remote.
    """
    version = registry.named(params.gate.registered_model, asked)
    found: list[dict] = []
    for stage in ("sft", "dpo", "curate", "grpo", "evaluate"):
        run = version.tags.get(f"{lineage.PREFIX}{stage}.run")
        tags = runs.client().get_run(run).data.tags if run else {}
        for table in TABLES:
            digest = tags.get(pipeline_runs.DEPENDENCY + table)
            found += [
                {"stage": stage, "run": run, "table": table, "md5": digest, **_told(one)}
                for one in (_rows(table, digest, row) if digest else ())
            ]
    if not found:
        raise DataError(f"version {version.number} was shown no row {row!r}; saferflow lineage who {row} looks further")
    answered = [asdict(one) for one in answers_of(version) if one.row == row]
    commit = version.tags.get(pipeline_runs.COMMIT, "unknown")
    if as_json:
        console.print_json(
            json.dumps({"version": version.number, "commit": commit, "shown": found, "answered": answered})
        )
        return
    console.print(Text(f"version {version.number}, made from commit {commit}"))
    for one in found:
        console.print(
            Text(f"\n{one['stage']} (run {one['run']}) read {one['table']} ({one['md5'][:10]}): {one['id']}", "bold")
        )
        for name in (
            "source",
            "question",
            "earlier",
            "plan",
            "chosen",
            "writer",
            "rejected",
            "rejected_writer",
            "labels",
        ):
            if one.get(name):
                console.print(Text(f"  {WORDS.get(name, name)}: {_cut(one[name])}"))
    for one in answered:
        console.print(Text("\nwhat it answers", "bold"))
        console.print(Text(f"  {_cut(one['completion'])}"))
        grades = ", ".join(f"{name} {one[name]}" for name in ("safety", "helpfulness", "rigor", "refused", "valid"))
        console.print(Text(f"  {grades}; {one['reason'] or 'no reason told'}"))


def _told(one: SFTRow | DPORow | PromptRow) -> dict:
    told = {"id": one.id, "source": one.source, "question": one.question, "plan": getattr(one, "plan", "")}
    told["earlier"] = getattr(one, "earlier", "")
    told["chosen"] = getattr(one, "answer", "") or getattr(one, "completion", "") or getattr(one, "chosen", "")
    for name in ("writer", "rejected", "rejected_writer"):
        told[name] = getattr(one, name, "")
    labels = Labels.from_json(one.labels) if one.labels else None
    return told | {"labels": _labels(labels) if labels else ""}


def _labels(labels: Labels) -> str:
    return (
        f"hazard {labels.hazard}, expected {labels.decision}, from {LABEL_SOURCES.get(labels.label_source, 'unknown')}"
    )


def _rows(table: str, digest: str, row: str) -> list:
    """The rows of a table's version that are this record."""
    with tempfile.TemporaryDirectory() as folder:
        file = stored(digest, Path(folder))
        return [one for one in read_table(file, TABLES[table]) if belongs(one, row)]


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"
