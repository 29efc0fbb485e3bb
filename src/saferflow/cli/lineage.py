"""`saferflow lineage`: the rows that a version saw, and the versions that saw a row."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.cli.data import TABLES, belongs
from saferflow.cli.show import cut
from saferflow.data.incidents import FOLDER, Incident, find_incident, read_incidents
from saferflow.data.origins import LABEL_SOURCES
from saferflow.data.rows import DPORow, Labels, PromptRow, SFTRow
from saferflow.data.tables import read_table
from saferflow.errors import DataError, PipelineError
from saferflow.layout import EVALUATION, INCIDENTS
from saferflow.params import Params
from saferflow.release import pipeline_runs, registry
from saferflow.release.verdict import answers_of
from saferflow.serving import store
from saferflow.tracking import lineage, runs
from saferflow.tracking.stored import stored

MEASURED = (str(EVALUATION), str(INCIDENTS))
"""Tables that measure versions and train none."""
WORDS = {"writer": "written by", "rejected_writer": "rejected side written by"}
"""Column -> its name on the terminal."""
SHOWN = 400
"""The most characters of a text on the terminal."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A version of a table that holds the row, with its readers."""

    table: str
    digest: str
    stages: dict[str, list[str]]
    """Stage -> MLflow runs that read it."""
    versions: list[int]
    """Registered versions that come from one of these runs."""
    learned: bool
    """Whether the table trains versions; otherwise it only measures them."""


@dataclass(frozen=True, slots=True)
class Who:
    """Every known model that saw a row."""

    row: str
    seen: list[Seen]
    unknown: list[tuple[str, str]]
    """(table, hash) of tables that runs have read and that neither cache nor remote still holds."""
    held: list[str] = field(default_factory=list)
    """Places outside of the tables that still hold an incident."""


def who(params: Params, row: str) -> Who:
    """Search every table that any run has read, including tables of former data.

    Args:
        row: the id of a row, or of a completion that was reported as an incident.

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
            numbers = registry.versions_from_runs(
                params.gate.registered_model, {run for stage_runs in stages.values() for run in stage_runs}
            )
            seen.append(Seen(table, digest, stages, numbers, table not in MEASURED))
    return Who(row, seen, unknown, places(incident) if incident else [])


def places(incident: Incident) -> list[str]:
    """The places of an incident outside of the tables, in words: its source, and the server's store."""
    exchanges = [report.exchange for report in incident.reports if store.holds(store.FILE, report.exchange)]
    return [str(FOLDER), *(f"{store.FILE}: exchange {name}" for name in exchanges)]


def print_who(console: Console, params: Params, trail: Who, *, as_json: bool) -> None:
    """Print the models that saw a row as lines, or as JSON."""
    if as_json:
        console.print_json(json.dumps(asdict(trail)))
        return
    if not trail.seen:
        console.print(Text(f"no table that a run has read holds {trail.row}"))
    for entry in trail.seen:
        console.print(Text(f"{entry.table} ({entry.digest[:10]})"))
        for stage, of_stage in entry.stages.items():
            console.print(Text(f"  read by {stage} in {len(of_stage)} runs: {', '.join(of_stage)}"))
    for place in trail.held:
        console.print(Text(f"{place} holds it"))
    if trail.held:
        console.print(Text(f"to take it out there: saferflow incident remove {trail.row}"))
    trained = sorted({number for entry in trail.seen if entry.learned for number in entry.versions})
    measured = sorted({number for entry in trail.seen if not entry.learned for number in entry.versions})
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
    for table, digest in trail.unknown:
        console.print(
            Text(f"cannot be told: {table} ({digest[:10]}) is in neither cache nor remote any more", "yellow")
        )


def _named(model: str, numbers: Sequence[int]) -> str:
    versions = [registry.by_number(model, number) for number in numbers]
    return ", ".join(
        f"v{version.number}" + (f" ({', '.join(version.aliases)})" if version.aliases else "") for version in versions
    )


def why(console: Console, params: Params, reference: str, row: str, *, as_json: bool) -> None:
    """Print what each stage showed a version of a row, and the version's answer if the row is held out.

    Raises:
        DataError: the version has not seen the row.
        PipelineError: there is no such version, or a table is in neither cache nor remote.
    """
    version = registry.named(params.gate.registered_model, reference)
    shown: list[dict] = []
    for stage in registry.SHAPING:
        run = version.tags.get(f"{lineage.PREFIX}{stage}.run")
        tags = runs.client().get_run(run).data.tags if run else {}
        for table in TABLES:
            digest = tags.get(pipeline_runs.DEPENDENCY + table)
            shown += [
                {"stage": stage, "run": run, "table": table, "md5": digest, **_shown_fields(shown_row)}
                for shown_row in (_rows(table, digest, row) if digest else ())
            ]
    if not shown:
        raise DataError(f"version {version.number} was shown no row {row!r}; saferflow lineage who {row} looks further")
    answered = [asdict(answer) for answer in answers_of(version) if answer.row == row]
    commit = version.tags.get(pipeline_runs.COMMIT, "unknown")
    if as_json:
        console.print_json(
            json.dumps({"version": version.number, "commit": commit, "shown": shown, "answered": answered})
        )
        return
    console.print(Text(f"version {version.number}, made from commit {commit}"))
    for entry in shown:
        console.print(
            Text(
                f"\n{entry['stage']} (run {entry['run']}) read {entry['table']} ({entry['md5'][:10]}): {entry['id']}",
                "bold",
            )
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
            if entry.get(name):
                console.print(Text(f"  {WORDS.get(name, name)}: {cut(entry[name], SHOWN)}"))
    for answer in answered:
        console.print(Text("\nwhat it answers", "bold"))
        console.print(Text(f"  {cut(answer['completion'], SHOWN)}"))
        grades = ", ".join(f"{name} {answer[name]}" for name in ("safety", "helpfulness", "rigor", "refused", "valid"))
        console.print(Text(f"  {grades}; {answer['reason'] or 'no reason told'}"))


def _shown_fields(row: SFTRow | DPORow | PromptRow) -> dict:
    fields = {"id": row.id, "source": row.source, "question": row.question, "plan": getattr(row, "plan", "")}
    fields["earlier"] = getattr(row, "earlier", "")
    fields["chosen"] = getattr(row, "answer", "") or getattr(row, "completion", "") or getattr(row, "chosen", "")
    for name in ("writer", "rejected", "rejected_writer"):
        fields[name] = getattr(row, name, "")
    labels = Labels.from_json(row.labels) if row.labels else None
    return fields | {"labels": _labels(labels) if labels else ""}


def _labels(labels: Labels) -> str:
    return (
        f"hazard {labels.hazard}, expected {labels.decision}, from {LABEL_SOURCES.get(labels.label_source, 'unknown')}"
    )


def _rows(table: str, digest: str, row: str) -> list:
    """The rows of a table's version that come from this record."""
    with tempfile.TemporaryDirectory() as folder:
        file = stored(digest, Path(folder))
        return [held_row for held_row in read_table(file, TABLES[table]) if belongs(held_row, row)]
