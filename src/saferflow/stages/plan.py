"""Stage `plan`: rows from the sources become plans, references, pairs and prompts.

Reads the configured sources. Writes data/tables/{sft,dpo,grpo,watch,evaluation,incidents,quarantine}.parquet.

Plans and references are written by rules or by a model behind a server (`plan.writer`); the perturbations are rules. The rule
planner knows the drawn corpus alone: rows of other sources without a label stop the stage, unless a server's planner labels them
or `plan.allow_guessed_labels` says otherwise. Responses and pairs that a source brings are used, once the judge has found that
they do as their label says. The table `incidents` holds what every row of source `incidents` asks, of whatever side: each
candidate is asked it again, and none is trained on it. Those of the training side are in `sft` besides the table that they
are dealt to. The rows stream through in parts: tables may be larger than the memory.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import chain

from saferflow.data.incidents import SOURCE as INCIDENTS
from saferflow.data.incidents import prompt_of
from saferflow.data.origins import SHOWN as SHOWN_UNLABELLED
from saferflow.data.origins import unlabelled_error
from saferflow.data.rows import TABLES as TYPES
from saferflow.data.rows import WATCH, BadRow, Labels, PromptRow, Row
from saferflow.data.sources import PART, SHOWN, Ids, Part, Placed, bad_rows_error, parts, refuse_licences, rows_of
from saferflow.data.tables import TableWriter, table_writer
from saferflow.errors import DataError, ParamsError
from saferflow.judge.choice import judge_of
from saferflow.judge.rubrics import Judge
from saferflow.layout import TABLES
from saferflow.parallel import mapped
from saferflow.params import EndpointParams, GuardJudgeParams, JudgeParams, Params, PlanParams, Section, load_params
from saferflow.planner.augmentation import augmented
from saferflow.planner.counts import Counts
from saferflow.planner.perturb import PERTURBATIONS, unknown
from saferflow.planner.responses import brings_response
from saferflow.planner.tables import BROKEN, QUARANTINE, SERVER, UNLABELLED, Made, fill
from saferflow.planner.tasks import Writer
from saferflow.planner.writer import writer_of
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_metrics

ASKED = 1024
"""Rows of a part that is sent to a server, so that the end of a part keeps few requests waiting."""
TOLD = 2000
"""Rows between two lines of progress."""

Outcome = tuple[Placed, Made | None]
"""A row and what became of it; None for one that could not be read."""


def main() -> None:
    """Run the stage."""
    params = load_params()
    if strangers := unknown(params.plan.perturbations):
        raise ParamsError(
            f"plan.perturbations: {', '.join(strangers)} unknown; the operators are {', '.join(PERTURBATIONS)}"
        )
    refuse_licences(params)
    writer.cache_clear()
    judge.cache_clear()
    before = tokens(params)
    for left in TABLES.glob(".*"):  # of a run that was killed
        left.unlink()
    with ExitStack() as files:
        kinds = {**TYPES, WATCH: PromptRow, INCIDENTS: PromptRow, QUARANTINE: BadRow}
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
                raise empty(name, tally)
    for line in tally.rows.lines():
        print(f"plan  {line}", flush=True)
    write_metrics("plan", tally.counts(tables) | {"tokens": tokens(params) - before})


def empty(name: str, tally: "Tally") -> DataError:
    """Why a table would be empty, and the way out."""
    if unwritten := tally.rows.why[SERVER]:
        reasons = "".join(f"\n  {reason}" for reason in tally.rows.unwritten)
        return DataError(
            f"plan: table {name} would be empty: for {unwritten:,} of {tally.read.total():,} rows the server's answers were not "
            f"accepted; the first:{reasons}\ntake a model that writes them (plan.writer.model), let it mend them more often "
            "(plan.writer.repairs), or give data.sources more rows"
        )
    left = tally.rows.figures()["guessed_left_out"]
    if name == "evaluation" and left:
        return DataError(
            f"plan: table evaluation would be empty: the labels of all {left:,} rows that would be held out are guesses of the "
            "rule planner, by which nothing is measured; add a source whose rows have labels, or have a planner behind a server "
            "label them (plan.writer)"
        )
    way = "data.sources more rows" if name == "evaluation" else f"data.sources more rows or change plan.{name}_share"
    return DataError(f"plan: table {name} would be empty; give {way}")


def outcomes(params: Params) -> Iterator[Outcome]:
    """All rows of all sources, in order, as they are planned."""
    size = ASKED if params.plan.writer.kind == "endpoint" else PART
    done = mapped(partial(part_planned, params=params), parts(params, size), params.run.workers)
    return chain.from_iterable(done)


def tokens(params: Params) -> int:
    """Tokens that were ever paid for from here; 0 where no server writes or judges."""
    if params.plan.writer.kind == params.judge.kind == "rules":
        return 0

    from saferflow.endpoint.store import Store

    return Store().tokens()


def part_planned(part: Part, params: Params) -> list[Outcome]:
    """Read and plan a part; runs in any process."""
    placed = rows_of(part, params)
    by = writer(params.plan.model_dump_json(), params.run.seed, params.run.workers)
    judges = any(isinstance(one.row, Row) and brings_response(one.row) for one in placed)
    return planned(placed, by, params, judge(params.judge, params.run.workers) if judges else None)


@cache
def writer(plan: str, seed: int, workers: int) -> Writer:
    """This process's writer; of a server's concurrency and token cap it has its share.

    Args:
        plan: the section of the params, as JSON.
    """
    params = PlanParams.model_validate_json(plan)
    return writer_of(share(params.writer, workers), seed, params.tool_coverage)


@cache
def judge(params: JudgeParams, workers: int) -> Judge:
    """This process's judge of the responses that sources bring, with its share as in `writer`."""
    return judge_of(share(params, workers))


def share(params: Section, workers: int) -> Section:
    """The params of a server with one process's share of its concurrency and its token cap; others as they are."""
    if not isinstance(params, EndpointParams):
        return params
    part = {"concurrency": max(1, params.concurrency // workers)}
    if params.token_cap is not None:
        part["token_cap"] = max(1, params.token_cap // workers)
    if isinstance(params, GuardJudgeParams):
        part["rest"] = share(params.rest, workers)
    return params.model_copy(update=part)


def planned(placed: list[Placed], by: Writer, params: Params, judge: Judge | None = None) -> list[Outcome]:
    """What becomes of rows that were read."""
    rows = [one.row for one in placed if not isinstance(one.row, BadRow)]
    rows = [row if row.source == INCIDENTS else augmented(row, params.plan.augmentation, params.run.seed) for row in rows]
    made = iter(fill(rows, by, params, judge))
    return [(one, None if isinstance(one.row, BadRow) else next(made)) for one in placed]


@dataclass
class Tally:
    """Puts rows into their tables, each id once, and counts them."""

    params: Params
    decisions: Counter = field(default_factory=Counter)
    repeated: int = 0
    read: Counter = field(default_factory=Counter)
    """Source -> rows that could be read."""
    bad: list[BadRow] = field(default_factory=list)
    """The first of those that could not."""
    bad_count: int = 0
    ids: Ids = field(default_factory=Ids)
    unused: Counter = field(default_factory=Counter)
    """(source, field) -> rows that hold something in it that nothing reads."""
    unlabelled: list[str] = field(default_factory=list)
    """The first rows that nobody can give a label, with their places."""
    unlabelled_count: int = 0

    def __post_init__(self) -> None:
        self.rows = Counts(self.params.plan.writer.kind)

    def add(self, placed: Placed, made: Made | None, tables: dict[str, TableWriter]) -> None:
        """Count a row, and write what became of it into the tables."""
        found = placed.row
        if made is not None:
            first = self.ids.first(placed, self.params.data.sources[placed.source])
            if first is False:
                self.repeated += 1
                return
            found, made = (first, None) if isinstance(first, BadRow) else (found, made)
        if made is None:
            self._bad(found)
            tables[QUARANTINE].add([found])
            return
        self.unused.update((placed.source, name) for name in placed.unused)
        self.read[placed.source] += 1
        if made.table == UNLABELLED:
            self.unlabelled_count += 1
            self.unlabelled += [f"{placed.where}: {found.id}"][: SHOWN_UNLABELLED - len(self.unlabelled)]
            return
        rows = self._in_place(made, placed.where)
        tables[made.table].add(rows)
        tables["sft"].add(made.lessons)
        if found.source == INCIDENTS and made.table in TYPES:
            tables[INCIDENTS].add([prompt_of(found.id, [*rows, *made.lessons][0])])
        self.rows.add(found, made)
        if made.why == BROKEN:
            self._bad(rows[0])
        if made.table == "evaluation":
            self._held_out(rows)

    def _bad(self, row: BadRow) -> None:
        self.bad_count += 1
        self.bad += [row][: SHOWN - len(self.bad)]

    def _in_place(self, made: Made, where: str) -> list:
        """The rows; those that are in quarantine for what their source says name its file and line."""
        if made.table != QUARANTINE or made.why == SERVER:
            return made.rows
        file, _, line = where.rpartition(":")
        return [replace(row, file=file, line=int(line)) for row in made.rows]

    def _held_out(self, rows: Iterable) -> None:
        for labels in (Labels.from_json(row.labels) for row in rows):
            if labels.kind == "safety":
                self.decisions[f"evaluation_{labels.decision}"] += 1

    def refuse_bad(self) -> None:
        """Stop where rows have no label, where rows could not be read and the params forbid it, or where a source gave none.

        Raises:
            DataError: naming the rows, or the source.
        """
        problems = []
        if self.bad and self.params.data.on_bad_row == "fail":
            problems.append(str(bad_rows_error(self.bad, self.bad_count)))
        if self.unlabelled:
            problems.append(str(unlabelled_error(self.unlabelled, self.unlabelled_count)))
        if problems:
            raise DataError("\n".join(problems))
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
        """The metrics of the stage."""
        return {
            **{name: tables[name].rows for name in TYPES},
            "watch": tables[WATCH].rows,
            "incidents": tables[INCIDENTS].rows,
            "quarantined": tables[QUARANTINE].rows,
            "repeated": self.repeated,
            **self.rows.figures(),
            **self.decisions,
        }


if __name__ == "__main__":
    run_stage(main)
