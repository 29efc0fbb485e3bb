"""`saferflow data trace`: the origin of a row, and the tables, runs and versions that used it."""

import difflib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.data.origins import LABEL_SOURCES
from saferflow.data.rows import DPORow, Labels, PromptRow, SFTRow
from saferflow.data.tables import read_table
from saferflow.errors import DataError
from saferflow.layout import EVALUATION, INCIDENTS, PROMPTS
from saferflow.params import Params
from saferflow.planner.reflection import SUFFIXES
from saferflow.release import registry
from saferflow.release.pipeline_runs import readers
from saferflow.tracking import graph

TABLES = {
    "data/tables/sft.parquet": SFTRow,
    "data/tables/dpo.parquet": DPORow,
    "data/tables/grpo.parquet": PromptRow,
    str(PROMPTS): PromptRow,
    "data/tables/watch.parquet": PromptRow,
    str(EVALUATION): PromptRow,
    str(INCIDENTS): PromptRow,
}


@dataclass(frozen=True, slots=True)
class Place:
    """A table that holds the row, and the runs that read this version of the table."""

    table: str
    rows: list[str]
    """Ids in the table: the row's own, or its pairs'."""
    writers: list[str]
    """The writer of each row's reference, and of its rejected side after a slash; empty without one."""
    digest: str
    """DVC's hash of the table; empty before a stage has read it."""
    runs: dict[str, list[str]] = field(default_factory=dict)
    """Stage -> ids of the MLflow runs that read this table."""
    versions: list[int] = field(default_factory=list)
    """Registered versions that come from one of these runs."""


@dataclass(frozen=True, slots=True)
class Trace:
    """The origin of a row, and every table that holds it."""

    row: str
    source: str
    question: str
    hazard: str
    expected: str
    label_source: str
    """One of `LABEL_SOURCES`."""
    places: list[Place]


def trace(root: Path, params: Params, row: str) -> Trace:
    """Follow a row through tables, runs and versions.

    Raises:
        DataError: no table holds it; the message names similar ids.
    """
    known: set[str] = set()
    first: SFTRow | DPORow | PromptRow | None = None
    places = []
    digests = _digests(root)
    for table, row_type in TABLES.items():
        if not (root / table).exists():
            continue
        held = read_table(root / table, row_type)
        matches = [held_row for held_row in held if belongs(held_row, row)]
        known |= {record(held_row) for held_row in held}
        if not matches:
            continue
        first = first or matches[0]
        digest = digests.get(table, "")
        stage_runs = readers(table, digest) if digest else {}
        versions = registry.versions_from_runs(
            params.gate.registered_model, {run for runs in stage_runs.values() for run in runs}
        )
        places.append(
            Place(
                table,
                [held_row.id for held_row in matches],
                [writers(held_row) for held_row in matches],
                digest,
                stage_runs,
                versions,
            )
        )
    if first is None:
        near = difflib.get_close_matches(row, known, n=3, cutoff=0.5)
        hint = (
            f"; ids like it are {', '.join(near)}"
            if near
            else "; run saferflow run to make the tables"
            if not known
            else ""
        )
        raise DataError(f"no table holds a row {row!r}{hint}")
    labels = Labels.from_json(first.labels)
    return Trace(row, first.source, first.question, labels.hazard, labels.decision, labels.label_source, places)


def writers(row: SFTRow | DPORow | PromptRow) -> str:
    """The writers of a table's row; for a pair both, as `theirs with a trace by rules / theirs`."""
    return " / ".join(name for name in (getattr(row, "writer", ""), getattr(row, "rejected_writer", "")) if name)


def print_trace(console: Console, row_trace: Trace, *, as_json: bool) -> None:
    """Print a trace as lines, or as JSON."""
    if as_json:
        console.print_json(json.dumps(asdict(row_trace)))
        return
    console.print(Text(f"{row_trace.row}: {row_trace.question}"))
    origin = LABEL_SOURCES.get(row_trace.label_source, "unknown")
    console.print(
        Text(
            f"source {row_trace.source}, hazard {row_trace.hazard}, expected {row_trace.expected}; label from {origin}"
        )
    )
    for place in row_trace.places:
        named = (f"{row} (by {by})" if by else row for row, by in zip(place.rows, place.writers, strict=True))
        console.print(Text(f"\n{place.table}: {', '.join(named)}"))
        for stage, runs in place.runs.items():
            console.print(Text(f"  read by {stage} in {len(runs)} MLflow runs: {', '.join(runs)}"))
        if place.versions:
            console.print(Text(f"  behind versions {', '.join(f'v{number}' for number in place.versions)}"))


def belongs(held: SFTRow | DPORow | PromptRow, row: str) -> bool:
    """Whether a table's row `held` has the id `row`, or comes from the record `row`."""
    return row in (held.id, record(held))


def record(row: SFTRow | DPORow | PromptRow) -> str:
    """The id of the record behind a table's row.

    A pair's id ends with its perturbation; the id of a row that teaches reflection ends with its turn.
    """
    if isinstance(row, DPORow):
        return row.id.removesuffix(f".{row.perturbation}")
    suffix = next((suffix for suffix in SUFFIXES if row.earlier and row.id.endswith(suffix)), "")
    return row.id.removesuffix(suffix)


def _digests(root: Path) -> dict[str, str]:
    """Path of each file that a stage reads -> DVC's hash."""
    entries = graph.lock_entries(root).values()
    return {item["path"]: item.get("md5", "") for entry in entries for item in entry.get("deps", ())}
