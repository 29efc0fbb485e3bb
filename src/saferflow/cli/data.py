"""`saferflow data`: where a row came from, and what it went into."""

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
from saferflow.params import Params
from saferflow.planner.reflection import SUFFIXES
from saferflow.release import registry
from saferflow.release.pipeline_runs import readers
from saferflow.tracking import graph

TABLES = {
    "data/tables/sft.parquet": SFTRow,
    "data/tables/dpo.parquet": DPORow,
    "data/tables/grpo.parquet": PromptRow,
    "data/curated.parquet": PromptRow,
    "data/tables/watch.parquet": PromptRow,
    "data/tables/evaluation.parquet": PromptRow,
    "data/tables/incidents.parquet": PromptRow,
}


@dataclass(frozen=True, slots=True)
class Place:
    """A table that holds the row, and who read that very table."""

    table: str
    rows: list[str]
    """Ids in the table: the row's own, or its pairs'."""
    writers: list[str]
    """Who wrote the reference of each of them, and the rejected side behind a stroke; empty where there is none."""
    digest: str
    """DVC's hash of the table; empty before a stage has read it."""
    runs: dict[str, list[str]] = field(default_factory=dict)
    """Stage -> ids of the MLflow runs that read this table."""
    versions: list[int] = field(default_factory=list)
    """Registered versions that were made from one of those runs."""


@dataclass(frozen=True, slots=True)
class Trace:
    """All that is known of a row."""

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
        DataError: no table holds it; ids like it are named.
    """
    known: set[str] = set()
    first: SFTRow | DPORow | PromptRow | None = None
    places = []
    digests = _digests(root)
    for table, row_type in TABLES.items():
        if not (root / table).exists():
            continue
        held = read_table(root / table, row_type)
        mine = [one for one in held if belongs(one, row)]
        known |= {record(one) for one in held}
        if not mine:
            continue
        first = first or mine[0]
        digest = digests.get(table, "")
        found = readers(table, digest) if digest else {}
        versions = registry.made_from(params.gate.registered_model, {run for runs in found.values() for run in runs})
        places.append(Place(table, [one.id for one in mine], [writers(one) for one in mine], digest, found, versions))
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


def writers(one: SFTRow | DPORow | PromptRow) -> str:
    """Who wrote a table's row: `theirs with a trace by rules / theirs` of a pair."""
    return " / ".join(name for name in (getattr(one, "writer", ""), getattr(one, "rejected_writer", "")) if name)


def print_trace(console: Console, found: Trace, *, as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps(asdict(found)))
        return
    console.print(Text(f"{found.row}: {found.question}"))
    origin = LABEL_SOURCES.get(found.label_source, "unknown")
    console.print(Text(f"source {found.source}, hazard {found.hazard}, expected {found.expected}; label from {origin}"))
    for place in found.places:
        named = (f"{row} (by {by})" if by else row for row, by in zip(place.rows, place.writers, strict=True))
        console.print(Text(f"\n{place.table}: {', '.join(named)}"))
        for stage, runs in place.runs.items():
            console.print(Text(f"  read by {stage} in {len(runs)} MLflow runs: {', '.join(runs)}"))
        if place.versions:
            console.print(Text(f"  behind versions {', '.join(f'v{number}' for number in place.versions)}"))


def belongs(one: SFTRow | DPORow | PromptRow, row: str) -> bool:
    """Whether a table's row is this one, or was made of this record."""
    return row in (one.id, record(one))


def record(one: SFTRow | DPORow | PromptRow) -> str:
    """The id of the record that a table's row was made of.

    A pair's id has the perturbation behind it; the id of a row that teaches reflection has the suffix of its turn.
    """
    if isinstance(one, DPORow):
        return one.id.removesuffix(f".{one.perturbation}")
    suffix = next((suffix for suffix in SUFFIXES if one.earlier and one.id.endswith(suffix)), "")
    return one.id.removesuffix(suffix)


def _digests(root: Path) -> dict[str, str]:
    """DVC's hash of every file that a stage reads."""
    entries = graph.lock_entries(root).values()
    return {item["path"]: item.get("md5", "") for entry in entries for item in entry.get("deps", ())}
