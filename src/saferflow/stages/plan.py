"""Stage `plan`: rows from the sources become plans, references, pairs and prompts.

Reads the configured sources. Writes data/tables/{sft,dpo,grpo,evaluation,quarantine}.parquet.

Plans and references are written by rules or by a model behind a server (`plan.writer`); the perturbations are rules.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from saferflow.data.images import canonical
from saferflow.data.jsonl import bad_rows_error, read_jsonl_source
from saferflow.data.rows import BadRow, DPORow, Labels, PromptRow, Row, SFTRow
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.scenes.objects import OBJECTS
from saferflow.data.tables import write_table
from saferflow.errors import DataError, ParamsError
from saferflow.params import Params, load_params
from saferflow.planner.labels import completed
from saferflow.planner.operator import Case
from saferflow.planner.perturb import PERTURBATIONS, perturb, unknown
from saferflow.planner.writer import Task, Writer, writer_of
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response, render
from saferflow.rng import rng
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_metrics

TABLES = Path("data/tables")


@dataclass
class Tables:
    """The rows of each table, as they fill."""

    sft: list[SFTRow] = field(default_factory=list)
    dpo: list[DPORow] = field(default_factory=list)
    grpo: list[PromptRow] = field(default_factory=list)
    evaluation: list[PromptRow] = field(default_factory=list)


def main() -> None:
    params = load_params()
    if strangers := unknown(params.plan.perturbations):
        raise ParamsError(
            f"plan.perturbations: {', '.join(strangers)} unknown; the operators are {', '.join(PERTURBATIONS)}"
        )
    rows, bad = read_sources(params)
    if bad and params.data.on_bad_row == "fail":
        raise bad_rows_error(bad)
    writer = writer_of(params.plan.writer, params.run.seed, params.plan.tool_coverage)
    tables, unwritten = fill(rows, writer, params)
    bad += unwritten
    for name, row_type in (("sft", SFTRow), ("dpo", DPORow), ("grpo", PromptRow), ("evaluation", PromptRow)):
        table = getattr(tables, name)
        if not table:
            raise DataError(
                f"plan: table {name} would be empty; give data.sources more rows or change plan.{name}_share"
            )
        write_table(TABLES / f"{name}.parquet", table, row_type)
    write_table(TABLES / "quarantine.parquet", bad, BadRow)
    write_metrics("plan", counts(tables, bad))


def read_sources(params: Params) -> tuple[list[Row], list[BadRow]]:
    """All rows of all sources, and the rows that could not be read."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    for source in params.data.sources:
        if source.kind == "scenes":
            seed = params.run.seed
            rows += safety_rows(source.train, seed, "train")
            rows += general_rows(source.general_train, seed, "train")
            rows += safety_rows(source.evaluation, seed, "evaluation")
            rows += general_rows(source.general_evaluation, seed, "evaluation")
        else:
            good, unreadable = read_jsonl_source(source, params.data, params.run.seed)
            rows += good
            bad += unreadable
    return rows, bad


@dataclass(slots=True)
class Planned:
    """A safety row with its plan, and in time its reference."""

    row: Row
    image: bytes | None
    plan: Plan
    labels: Labels
    table: str
    """`sft`, `dpo`, `grpo` or `evaluation`."""
    reference: Response | None = None


def fill(rows: list[Row], writer: Writer, params: Params) -> tuple[Tables, list[BadRow]]:
    """The tables, in the order of the rows, and the rows for which the writer had no plan or no reference."""
    images = [canonical(row.image) if row.image is not None else None for row in rows]
    print(f"plan  {len(rows):,} rows read", flush=True)
    asking = [number for number, row in enumerate(rows) if not _general(row)]
    plans = writer.plans([(rows[number].question, images[number]) for number in asking])
    bad = [_unwritten(rows[n], "plan", plan) for n, plan in zip(asking, plans, strict=True) if isinstance(plan, str)]
    planned = {
        number: Planned(
            rows[number], images[number], plan, completed(rows[number].labels, plan), deal(rows[number], params)
        )
        for number, plan in zip(asking, plans, strict=True)
        if not isinstance(plan, str)
    }
    print(f"plan  {len(planned):,} plans", flush=True)
    taught = [one for one in planned.values() if one.table in ("sft", "dpo")]
    references = writer.references([Task(one.row, one.image, one.plan, one.labels) for one in taught])
    for one, reference in zip(taught, references, strict=True):
        if isinstance(reference, str):
            bad.append(_unwritten(one.row, "reference", reference))
        else:
            one.reference = reference
    print(f"plan  {len(taught):,} references", flush=True)
    tables = Tables()
    for number, row in enumerate(rows):
        if number in planned:
            place(planned[number], tables, params)
        elif _general(row):
            place_general(row, images[number], tables)
    return tables, bad


def _general(row: Row) -> bool:
    return row.labels is not None and row.labels.kind == "general"


def _unwritten(row: Row, what: str, why: str) -> BadRow:
    return BadRow(row.source, 0, f"row {row.id}: the server's {what} was not accepted: {why}", row.question)


def deal(row: Row, params: Params) -> str:
    """The table of a safety row: by its split, and by a draw addressed by its id."""
    if row.split != "train":
        return "evaluation"
    draw = rng(params.run.seed, "deal", row.id).random()
    if draw >= params.plan.sft_share + params.plan.dpo_share:
        return "grpo"
    return "sft" if draw < params.plan.sft_share else "dpo"


def place_general(row: Row, image: bytes | None, tables: Tables) -> None:
    labels = row.labels.to_json()
    if row.split == "train":
        tables.sft.append(SFTRow(row.id, row.source, "general", image, "", row.question, row.answer, "", labels))
    else:
        tables.evaluation.append(PromptRow(row.id, row.source, "general", image, "", row.question, "", labels))


def place(one: Planned, tables: Tables, params: Params) -> None:
    """Put a planned row into its table; one that wants a reference and has none goes nowhere."""
    row, plan, labels = one.row, one.plan, one.labels
    common = (one.image, plan.system_prompt(params.plan.prompt_detail), row.question)
    if one.table in ("grpo", "evaluation"):
        prompt = PromptRow(row.id, row.source, "safety", *common, plan.to_json(), labels.to_json())
        getattr(tables, one.table).append(prompt)
    elif one.reference is not None and one.table == "sft":
        text = render(one.reference)
        tables.sft.append(SFTRow(row.id, row.source, "safety", *common, text, plan.to_json(), labels.to_json()))
    elif one.reference is not None:
        tables.dpo += pairs(row, common, plan, labels, one.reference, params)


def pairs(row: Row, common: tuple, plan: Plan, labels: Labels, reference: Response, params: Params) -> list[DPORow]:
    """Pairs of the reference with perturbations of it, drawn by the weights of the params without repeating one."""
    random = rng(params.run.seed, "perturb", row.id)
    others = tuple(name for name in OBJECTS if name not in labels.objects)
    case = Case(plan, row.question, labels, row.answer, reference, others, random)
    weights = dict(params.plan.perturbations)
    made: list[DPORow] = []
    while weights and len(made) < params.plan.pairs_per_prompt:
        [name] = random.choices(list(weights), list(weights.values()))
        del weights[name]
        rejected = perturb(name, case)
        if rejected is None:
            continue
        made.append(
            DPORow(
                f"{row.id}.{name}", row.source, *common, render(reference), rejected, name,
                plan.to_json(), labels.to_json(),
            )
        )  # fmt: skip
    return made


def counts(tables: Tables, bad: list[BadRow]) -> dict[str, float]:
    labels = [Labels.from_json(row.labels) for row in tables.evaluation]
    decisions = Counter(f"evaluation_{label.decision}" for label in labels if label.kind == "safety")
    return {
        "sft": len(tables.sft),
        "dpo": len(tables.dpo),
        "grpo": len(tables.grpo),
        "evaluation": len(tables.evaluation),
        "quarantined": len(bad),
        "labelled_by_planner": sum(label.label_source == "planner" for label in labels),
        **decisions,
    }


if __name__ == "__main__":
    run_stage(main)
