"""From rows to the rows of the tables: each is planned, dealt, given a reference, and paired with perturbations of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from saferflow.data.images import canonical
from saferflow.data.rows import BadRow, DPORow, Labels, PromptRow, Row, SFTRow, turns_to_json
from saferflow.data.scenes.objects import OBJECTS
from saferflow.params import Params
from saferflow.planner.labels import completed
from saferflow.planner.operator import Case
from saferflow.planner.perturb import perturb
from saferflow.planner.reflection import lessons
from saferflow.planner.writer import Task, Writer
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response, render
from saferflow.rng import rng

TableRow = SFTRow | DPORow | PromptRow


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a row."""

    table: str
    """One of `TABLES`, or `quarantine` where the writer had no plan or no reference for it."""
    rows: list[TableRow | BadRow]


@dataclass(slots=True)
class Planned:
    """A safety row with its plan, and in time its reference."""

    row: Row
    image: bytes | None
    plan: Plan
    labels: Labels
    table: str
    reference: Response | None = None


def fill(rows: Sequence[Row], writer: Writer, params: Params) -> list[Made]:
    """What becomes of each row, in their order."""
    images = [canonical(row.image) if row.image is not None else None for row in rows]
    made: list[Made | Planned | None] = [
        _general(row, image) if _is_general(row) else None for row, image in zip(rows, images, strict=True)
    ]
    asking = [number for number, row in enumerate(rows) if made[number] is None]
    plans = writer.plans([(rows[number].question, images[number]) for number in asking])
    for number, plan in zip(asking, plans, strict=True):
        row = rows[number]
        made[number] = (
            _unwritten(row, "plan", plan)
            if isinstance(plan, str)
            else Planned(
                row,
                images[number],
                plan if params.plan.topologies else plan.linear(),
                completed(row.labels, plan),
                deal(row, params),
            )
        )
    taught = [n for n in asking if isinstance(made[n], Planned) and made[n].table in ("sft", "dpo")]
    tasks = [Task(made[n].row, made[n].image, made[n].plan, made[n].labels) for n in taught]
    for number, reference in zip(taught, writer.references(tasks), strict=True):
        if isinstance(reference, str):
            made[number] = _unwritten(rows[number], "reference", reference)
        else:
            made[number].reference = reference
    return [one if isinstance(one, Made) else _placed(one, params) for one in made]


def _is_general(row: Row) -> bool:
    return row.labels is not None and row.labels.kind == "general"


def _unwritten(row: Row, what: str, why: str) -> Made:
    reason = f"row {row.id}: the server's {what} was not accepted: {why}"
    return Made("quarantine", [BadRow(row.source, 0, reason, row.question)])


def deal(row: Row, params: Params) -> str:
    """The table of a safety row: by its split, and by a draw addressed by its id."""
    if row.split != "train":
        return "evaluation"
    draw = rng(params.run.seed, "deal", row.id).random()
    if draw >= params.plan.sft_share + params.plan.dpo_share:
        return "grpo"
    return "sft" if draw < params.plan.sft_share else "dpo"


def _general(row: Row, image: bytes | None) -> Made:
    labels, earlier = row.labels.to_json(), turns_to_json(row.earlier)
    common = (row.id, row.source, "general", image, "", row.question)
    if row.split == "train":
        return Made("sft", [SFTRow(*common, row.answer, "", labels, earlier)])
    return Made("evaluation", [PromptRow(*common, "", labels, earlier)])


def _placed(one: Planned, params: Params) -> Made:
    row, plan, labels, earlier = one.row, one.plan, one.labels, turns_to_json(one.row.earlier)
    common = (one.image, plan.system_prompt(params.plan.prompt_detail), row.question)
    if one.table == "sft":
        text = render(one.reference)
        made = SFTRow(row.id, row.source, "safety", *common, text, plan.to_json(), labels.to_json(), earlier)
        random = rng(params.run.seed, "reflect", row.id)
        drawn = random.random() < params.plan.reflection_share
        return Made("sft", [made, *(lessons(made, case_of(one, random)) if drawn else ())])
    if one.table == "dpo":
        return Made("dpo", pairs(one, common, params))
    made = PromptRow(row.id, row.source, "safety", *common, plan.to_json(), labels.to_json(), earlier)
    return Made(one.table, [made])


def case_of(one: Planned, random: Random) -> Case:
    """What the perturbations of a row's reference may use."""
    others = tuple(name for name in OBJECTS if name not in one.labels.objects)
    return Case(one.plan, one.row.question, one.labels, one.row.answer, one.reference, others, random)


def pairs(one: Planned, common: tuple, params: Params) -> list[DPORow]:
    """Pairs of the reference with perturbations of it, drawn by the weights of the params without repeating one."""
    row = one.row
    random = rng(params.run.seed, "perturb", row.id)
    case = case_of(one, random)
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
                f"{row.id}.{name}", row.source, *common, render(one.reference), rejected, name,
                one.plan.to_json(), one.labels.to_json(), turns_to_json(row.earlier),
            )
        )  # fmt: skip
    return made
