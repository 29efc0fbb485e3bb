"""Stage `plan`: rows from the sources become plans, references, pairs and prompts.

Reads the configured sources. Writes data/tables/{sft,dpo,grpo,evaluation,quarantine}.parquet.

Plans and references are written by rules or by a model behind a server (`plan.writer`); the perturbations are rules. The
rows stream through in parts: the tables may be larger than the memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import chain
from pathlib import Path

from saferflow.data.rows import TABLES as TYPES
from saferflow.data.rows import BadRow, Labels
from saferflow.data.sources import PART, SHOWN, Ids, Part, Placed, bad_rows_error, parts, refuse_licences, rows_of
from saferflow.data.tables import TableWriter, table_writer
from saferflow.errors import DataError, ParamsError
from saferflow.parallel import mapped
from saferflow.params import Params, PlanParams, load_params
from saferflow.planner.augmentation import augmented
from saferflow.planner.perturb import PERTURBATIONS, unknown
from saferflow.planner.tables import Made, fill
from saferflow.planner.writer import Writer, writer_of
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_metrics

TABLES = Path("data/tables")
QUARANTINE = "quarantine"
ASKED = 1024
"""Rows of a part that is sent to a server, so that the end of a part keeps few requests waiting."""
TOLD = 2000
"""Rows between two lines of progress."""

Outcome = tuple[Placed, Made | None]
"""A row and what became of it; None for one that could not be read."""


def main() -> None:
    params = load_params()
    if strangers := unknown(params.plan.perturbations):
        raise ParamsError(
            f"plan.perturbations: {', '.join(strangers)} unknown; the operators are {', '.join(PERTURBATIONS)}"
        )
    refuse_licences(params)
    writer.cache_clear()
    before = tokens(params)
    for left in TABLES.glob(".*"):  # of a run that was killed
        left.unlink()
    with ExitStack() as files:
        kinds = {**TYPES, QUARANTINE: BadRow}
        tables = {
            name: files.enter_context(table_writer(TABLES / f"{name}.parquet", kind)) for name, kind in kinds.items()
        }
        tally = Tally(params)
        for number, outcome in enumerate(outcomes(params), 1):
            tally.add(*outcome, tables)
            if number % TOLD == 0:
                print(f"plan  {number:,} rows", flush=True)
        tally.refuse_bad()
        tally.name_unused()
        for name in TYPES:
            if not tables[name].rows:
                raise DataError(
                    f"plan: table {name} would be empty; give data.sources more rows or change plan.{name}_share"
                )
    write_metrics("plan", tally.counts(tables) | {"tokens": tokens(params) - before})


def outcomes(params: Params) -> Iterator[Outcome]:
    """All rows of all sources, in order, as they are planned."""
    size = ASKED if params.plan.writer.kind == "endpoint" else PART
    done = mapped(partial(part_planned, params=params), parts(params, size), params.run.workers)
    return chain.from_iterable(done)


def tokens(params: Params) -> int:
    """Tokens that were ever paid for from here; 0 where no server writes."""
    if params.plan.writer.kind == "rules":
        return 0

    from saferflow.endpoint.store import Store

    return Store().tokens()


def part_planned(part: Part, params: Params) -> list[Outcome]:
    """Read and plan a part; runs in any process."""
    return planned(
        rows_of(part, params), writer(params.plan.model_dump_json(), params.run.seed, params.run.workers), params
    )


@cache
def writer(plan: str, seed: int, workers: int) -> Writer:
    """This process's writer; of a server's concurrency and token cap it has its share.

    Args:
        plan: the section of the params, as JSON.
    """
    params = PlanParams.model_validate_json(plan)
    asked = params.writer
    if asked.kind == "endpoint":
        share = {"concurrency": max(1, asked.concurrency // workers)}
        if asked.token_cap is not None:
            share["token_cap"] = max(1, asked.token_cap // workers)
        asked = asked.model_copy(update=share)
    return writer_of(asked, seed, params.tool_coverage)


def planned(placed: list[Placed], by: Writer, params: Params) -> list[Outcome]:
    """What becomes of rows that were read."""
    rows = [one.found for one in placed if not isinstance(one.found, BadRow)]
    made = iter(fill([augmented(row, params.plan.augmentation, params.run.seed) for row in rows], by, params))
    return [(one, None if isinstance(one.found, BadRow) else next(made)) for one in placed]


@dataclass
class Tally:
    """Puts rows into their tables, each id once, and counts them."""

    params: Params
    decisions: Counter = field(default_factory=Counter)
    by_planner: int = 0
    repeated: int = 0
    read: Counter = field(default_factory=Counter)
    """Source -> rows that could be read."""
    bad: list[BadRow] = field(default_factory=list)
    """The first of those that could not."""
    bad_count: int = 0
    ids: Ids = field(default_factory=Ids)
    unused: Counter = field(default_factory=Counter)
    """(source, field) -> rows that hold something in it that nothing reads."""

    def add(self, placed: Placed, made: Made | None, tables: dict[str, TableWriter]) -> None:
        found = placed.found
        if made is not None:
            first = self.ids.first(placed, self.params.data.sources[placed.source])
            if first is False:
                self.repeated += 1
                return
            found, made = (first, None) if isinstance(first, BadRow) else (found, made)
        if made is None:
            self.bad_count += 1
            self.bad += [found][: SHOWN - len(self.bad)]
            tables[QUARANTINE].add([found])
            return
        self.unused.update((placed.source, name) for name in placed.unused)
        self.read[placed.source] += 1
        tables[made.table].add(made.rows)
        if made.table == "evaluation":
            self._held_out(made.rows)

    def _held_out(self, rows: Iterable) -> None:
        for labels in (Labels.from_json(row.labels) for row in rows):
            self.by_planner += labels.label_source == "planner"
            if labels.kind == "safety":
                self.decisions[f"evaluation_{labels.decision}"] += 1

    def refuse_bad(self) -> None:
        """Stop where rows could not be read and the params forbid it, or where a source gave none that could.

        Raises:
            DataError: naming the rows, or the source.
        """
        if self.bad and self.params.data.on_bad_row == "fail":
            raise bad_rows_error(self.bad, self.bad_count)
        for number, source in enumerate(self.params.data.sources):
            if not self.read[number]:
                path = getattr(source, "path", "the scenes")
                told = f"no row is readable\n{bad_rows_error(self.bad, self.bad_count)}" if self.bad else "holds no row"
                raise DataError(f"{path}: {told}; put rows into it, or change data.sources")

    def name_unused(self) -> None:
        """Print the fields of the sources that nothing reads."""
        for (number, name), rows in sorted(self.unused.items())[:SHOWN]:
            source = self.params.data.sources[number]
            print(f"plan  {getattr(source, 'path', '')}: field {name[:80]} of {rows:,} rows is not used", flush=True)

    def counts(self, tables: dict[str, TableWriter]) -> dict[str, float]:
        return {
            **{name: tables[name].rows for name in TYPES},
            "quarantined": tables[QUARANTINE].rows,
            "repeated": self.repeated,
            "labelled_by_planner": self.by_planner,
            **self.decisions,
        }


if __name__ == "__main__":
    run_stage(main)
