"""Stage `plan`: rows from the sources become plans, references, pairs and prompts.

Reads the configured sources. Writes data/tables/{sft,dpo,grpo,evaluation,quarantine}.parquet.

Simplifies the papers: the planner, the teacher and the perturbations are rules, not a large model.
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
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
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
    tables = Tables()
    for number, row in enumerate(rows, 1):
        place(row, tables, params)
        if number % 2000 == 0 or number == len(rows):
            print(f"plan  {number:,} of {len(rows):,} rows", flush=True)
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


def place(row: Row, tables: Tables, params: Params) -> None:
    """Put a row into the table it is dealt to: by its split, its kind, and a draw addressed by its id."""
    image = canonical(row.image) if row.image is not None else None
    if row.labels is not None and row.labels.kind == "general":
        labels = row.labels.to_json()
        if row.split == "train":
            tables.sft.append(SFTRow(row.id, row.source, "general", image, "", row.question, row.answer, "", labels))
        else:
            tables.evaluation.append(PromptRow(row.id, row.source, "general", image, "", row.question, "", labels))
        return
    plan = plan_for(row.question, image)
    labels = completed(row.labels, plan)
    system = plan.system_prompt(params.plan.prompt_detail)
    common = (image, system, row.question)
    prompt = PromptRow(row.id, row.source, "safety", *common, plan.to_json(), labels.to_json())
    if row.split != "train":
        tables.evaluation.append(prompt)
        return
    draw = rng(params.run.seed, "deal", row.id).random()
    if draw >= params.plan.sft_share + params.plan.dpo_share:
        tables.grpo.append(prompt)
        return
    reference = write(
        plan, row.question, labels, row.answer, rng(params.run.seed, "teach", row.id), params.plan.tool_coverage
    )
    if draw < params.plan.sft_share:
        text = render(reference)
        tables.sft.append(SFTRow(row.id, row.source, "safety", *common, text, plan.to_json(), labels.to_json()))
    else:
        tables.dpo += pairs(row, common, plan, labels, reference, params)


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
