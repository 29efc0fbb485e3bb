"""From rows to the rows of the tables: each is planned, dealt, given a reference, and paired with perturbations of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from random import Random

from saferflow.data.images import canonical
from saferflow.data.incidents import SOURCE as INCIDENTS
from saferflow.data.rows import (
    THEIRS,
    WATCH,
    WRONG_ANSWER,
    BadRow,
    DPORow,
    Labels,
    PromptRow,
    Row,
    SFTRow,
    turns_to_json,
)
from saferflow.data.scenes.objects import OBJECTS
from saferflow.judge.rubrics import Grades, Item, Judge
from saferflow.judge.rules import RuleJudge
from saferflow.params import Params
from saferflow.planner.labels import completed
from saferflow.planner.operator import Case
from saferflow.planner.perturb import perturb
from saferflow.planner.reflection import lessons
from saferflow.planner.responses import (
    TRACED,
    contradiction,
    has_trace,
    holding,
    own_answer,
    own_rejected,
    rejected_side,
)
from saferflow.planner.tasks import Task, Writer
from saferflow.planner.writer import RULES
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import Response, parse, render
from saferflow.rng import rng

TableRow = SFTRow | DPORow | PromptRow
OTHERS = 20
"""Answers of which the most like the chosen one is a general pair's rejected side: a wrong colour teaches more than nonsense."""
BREAKS = "its response is in the protocol's form and breaks it (without the tags, a teacher would write the trace to its answer)"
SHOWN_REASON = 1000
"""Characters that quarantine keeps of a reason and of a question."""
QUARANTINE, UNLABELLED = "quarantine", "unlabelled"
SERVER, BROKEN, CONTRADICTION, UNJUDGED, GUESSED_HELD_OUT = "server", "broken", "contradiction", "unjudged", "guessed"
"""Why a row is in quarantine: the server gave nothing for it, its own response breaks the protocol, contradicts its label or
could not be judged, or it would be held out and its label is a guess."""


@dataclass(frozen=True, slots=True)
class Made:
    """What became of a row."""

    table: str
    """One of `TABLES`; `watch`; `quarantine`; or `unlabelled`, without rows, where nobody can give it a label."""
    rows: list[TableRow | BadRow]
    why: str = ""
    """Of a row in quarantine."""
    lessons: list[SFTRow] = field(default_factory=list)
    """Rows of the table sft beside them: an incident is always taught."""


@dataclass(slots=True)
class Planned:
    """A safety row with its plan, and in time its reference."""

    row: Row
    image: bytes | None
    plan: Plan
    labels: Labels
    table: str
    reference: Response | None = None
    completion: str = ""
    """The reference as text, as its writer wrote it."""
    writer: str = ""
    """Who wrote the reference."""
    rejected: Grades | None = None
    """The judge's grades of the worse response that the row's source brings, where it needs any."""

    @property
    def taught(self) -> bool:
        """Whether it needs a reference: for its table, or because an incident of the training split is taught besides."""
        return self.table in ("sft", "dpo") or (self.row.source == INCIDENTS and self.table == "grpo")

    @property
    def pair(self) -> str:
        """The worse response that the row's source brings, where it becomes a rejected side."""
        return own_rejected(self.row) if self.table == "dpo" else ""


def fill(rows: Sequence[Row], writer: Writer, params: Params, judge: Judge | None = None) -> list[Made]:
    """What becomes of each row, in their order.

    Args:
        judge: says whether a response that a source brings contradicts its label; None: by rules.
    """
    images = [canonical(row.image) if row.image is not None else None for row in rows]
    answers = _general_answers(rows)
    made: list[Made | Planned | None] = [
        _general(row, image, answers, params) if _is_general(row) else None for row, image in zip(rows, images, strict=True)
    ]
    asking = [number for number, row in enumerate(rows) if made[number] is None]
    labels = _labels(rows, images, asking, writer)
    plans = writer.plans([(rows[number].question, images[number]) for number in asking])
    for number, plan in zip(asking, plans, strict=True):
        made[number] = _planned(rows[number], images[number], plan, labels[number], params)
    taught = [n for n in asking if isinstance(made[n], Planned) and made[n].taught]
    problems = _refer([made[number] for number in taught], writer, judge or RuleJudge(), params)
    for number, problem in zip(taught, problems, strict=True):
        made[number] = problem or made[number]
    return [one if isinstance(one, Made) else _placed(one, params) for one in made]


def _labels(
    rows: Sequence[Row], images: Sequence[bytes | None], asking: Sequence[int], writer: Writer
) -> dict[int, Labels | str | None]:
    """The labels of the rows that are asked for, by their numbers: the source's, else the writer's."""
    missing = [number for number in asking if rows[number].labels is None]
    given = writer.labels([(rows[number].question, images[number]) for number in missing])
    return {number: rows[number].labels for number in asking} | dict(zip(missing, given, strict=True))


def _planned(
    row: Row, image: bytes | None, plan: Plan | str, labels: Labels | str | None, params: Params
) -> Made | Planned:
    if isinstance(plan, str):
        return _unwritten(row, "plan", plan)
    if isinstance(labels, str):
        return _unwritten(row, "label", labels)
    if labels is None and not params.plan.allow_guessed_labels:
        return Made(UNLABELLED, [])
    table = WATCH if labels is not None and watched(row, params) else deal(row, params)
    if labels is None and table == "evaluation":
        return _refused(row, GUESSED_HELD_OUT, "it would be held out, and its label is a guess of the rule planner")
    return Planned(row, image, plan if params.plan.topologies else plan.linear(), completed(labels, plan), table)


def _refer(taught: Sequence[Planned], writer: Writer, judge: Judge, params: Params) -> list[Made | None]:
    """Give each row its reference, the source's own or the writer's; what is wrong where it gets none."""
    problems = _own(taught, judge, params)
    asking = [n for n, one in enumerate(taught) if problems[n] is None and not one.completion]
    tasks = [_task(taught[n]) for n in asking]
    for number, reference in zip(asking, writer.references(tasks), strict=True):
        one = taught[number]
        if isinstance(reference, str):
            problems[number] = _unwritten(one.row, "reference", reference)
        else:
            one.reference, one.completion = reference, render(reference)
            one.writer = f"{TRACED}{writer.name}" if own_answer(one.row) else writer.name
    return problems


def _task(one: Planned) -> Task:
    return Task(one.row, one.image, one.plan, one.labels, own_answer(one.row))


def _own(taught: Sequence[Planned], judge: Judge, params: Params) -> list[Made | None]:
    """Take the responses that sources bring in the protocol's form; what is wrong with a source's response."""
    answers = {n: _item(one, own_answer(one.row)) for n, one in enumerate(taught) if own_answer(one.row)}
    worse = {
        n: _item(one, one.pair)
        for n, one in enumerate(taught)
        if params.plan.own_pairs != "none" and one.pair and not has_trace(one.pair)
    }
    judge.prepare("grade", [*answers.values(), *worse.values()])
    for number, item in worse.items():
        taught[number].rejected = judge.grade(item)
    return [_settled(one, judge.grade(answers[n]), params) if n in answers else None for n, one in enumerate(taught)]


def _item(one: Planned, text: str) -> Item:
    return Item(one.row.question, one.image, one.labels, text)


def _settled(one: Planned, grades: Grades, params: Params) -> Made | None:
    """A row with the response of its source as its reference where that is in the protocol's form; or what is wrong with it."""
    text = own_answer(one.row)
    if has_trace(text):
        one.plan, broken = holding(one.plan, text, topologies=params.plan.topologies)
        if broken:
            return _refused(one.row, BROKEN, f"{BREAKS}: {broken}")
        one.reference, one.completion, one.writer = parse(text), text, THEIRS
    if not grades.readable:
        return _refused(
            one.row, UNJUDGED, f"nobody can say whether its response does as its label says: {grades.reason}"
        )
    contrary = contradiction(one.labels, text, grades)
    return _refused(one.row, CONTRADICTION, f"its response contradicts its label: {contrary}") if contrary else None


def _refused(row: Row, why: str, reason: str) -> Made:
    bad = BadRow(row.source, 0, f"row {row.id}: {reason}"[:SHOWN_REASON], row.question[:SHOWN_REASON])
    return Made(QUARANTINE, [bad], why)


def _is_general(row: Row) -> bool:
    return row.labels is not None and row.labels.kind == "general"


def _unwritten(row: Row, what: str, why: str) -> Made:
    reason = f"row {row.id}: the server's {what} was not accepted: {why}"
    return Made(QUARANTINE, [BadRow(row.source, 0, reason, row.question)], SERVER)


def deal(row: Row, params: Params) -> str:
    """The table of a safety row: by its split, and by a draw addressed by its id."""
    if row.split != "train":
        return "evaluation"
    draw = rng(params.run.seed, "deal", row.id).random()
    if draw >= params.plan.sft_share + params.plan.dpo_share:
        return "grpo"
    return "sft" if draw < params.plan.sft_share else "dpo"


def watched(row: Row, params: Params) -> bool:
    """Whether a training row is set aside for policies to answer while they are trained; an incident is there to learn from."""
    if row.split != "train" or row.source == INCIDENTS:
        return False
    return rng(params.run.seed, WATCH, row.id).random() < params.watch.share


def _general_answers(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Question -> the different answers that general training rows have for it."""
    answers: dict[str, dict[str, None]] = {}
    for row in rows:
        if _is_general(row) and row.split == "train":
            answers.setdefault(row.question, {})[row.answer] = None
    return {question: list(distinct) for question, distinct in answers.items()}


def _general(row: Row, image: bytes | None, answers: Mapping[str, Sequence[str]], params: Params) -> Made:
    """A general row in its table.

    Args:
        answers: question -> answers of the general training rows; another one than the row's is the rejected side of its pair.
    """
    labels, earlier = row.labels.to_json(), turns_to_json(row.earlier)
    common = (row.id, row.source, "general", image, "", row.question)
    if row.split == "train" and not watched(row, params):
        writer = RULES if row.drawn else THEIRS
        random = rng(params.run.seed, WRONG_ANSWER, row.id)
        others = [answer for answer in answers[row.question] if answer != row.answer]
        if others and random.random() < params.plan.general_pairs:
            rejected = _most_alike(row.answer, random.sample(others, min(len(others), OTHERS)))
            sides = (row.answer, rejected, WRONG_ANSWER, "", labels, earlier, writer, writer)
            return Made("dpo", [DPORow(f"{row.id}.{WRONG_ANSWER}", row.source, image, "", row.question, *sides)])
        return Made("sft", [SFTRow(*common, row.answer, "", labels, earlier, writer)])
    return Made("evaluation" if row.split != "train" else WATCH, [PromptRow(*common, "", labels, earlier)])


def _most_alike(answer: str, others: Sequence[str]) -> str:
    return max(others, key=lambda other: SequenceMatcher(None, answer, other, autojunk=False).ratio())


def _placed(one: Planned, params: Params) -> Made:
    row, plan, labels, earlier = one.row, one.plan, one.labels, turns_to_json(one.row.earlier)
    common = (one.image, plan.system_prompt(params.plan.prompt_detail), row.question)
    if one.table == "sft":
        return Made("sft", taught_rows(one, common, params))
    also = taught_rows(one, common, params) if one.taught and row.source == INCIDENTS else []
    if one.table == "dpo":
        return Made("dpo", pairs(one, common, params), lessons=also)
    made = PromptRow(row.id, row.source, "safety", *common, plan.to_json(), labels.to_json(), earlier)
    return Made(one.table, [made], lessons=also)


def taught_rows(one: Planned, common: tuple, params: Params) -> list[SFTRow]:
    """The row of the table sft, and the two that teach reflection where `plan.reflection_share` draws it."""
    row, told = one.row, (one.completion, one.plan.to_json(), one.labels.to_json())
    made = SFTRow(row.id, row.source, "safety", *common, *told, turns_to_json(row.earlier), one.writer)
    random = rng(params.run.seed, "reflect", row.id)
    drawn = random.random() < params.plan.reflection_share
    return [made, *(lessons(made, case_of(one, random)) if drawn else ())]


def case_of(one: Planned, random: Random) -> Case:
    """What the perturbations of a row's reference may use."""
    others = tuple(name for name in OBJECTS if name not in one.labels.objects)
    # A source's own answer to a harmful request declines it: no perturbation may go along with the request in its words.
    answer = one.row.answer if one.row.drawn else "" if one.labels.harmful else one.reference.answer
    return Case(one.plan, one.row.question, one.labels, answer, one.reference, others, random)


def pairs(one: Planned, common: tuple, params: Params) -> list[DPORow]:
    """Pairs of the reference with the worse response of its source and with planted faults, as `plan.own_pairs` says."""
    own = own_pair(one, common, params) if one.pair and params.plan.own_pairs != "none" else None
    if own and params.plan.own_pairs == "instead":
        return [own]
    return [own, *planted(one, common, params)] if own else planted(one, common, params)


def own_pair(one: Planned, common: tuple, params: Params) -> DPORow | None:
    """The pair of a row's source; None where its sides say the same."""
    declines = one.rejected.refused if one.rejected else False
    case = case_of(one, rng(params.run.seed, THEIRS, one.row.id))
    rejected = rejected_side(case, one.pair, declines=declines)
    if not rejected or rejected == one.completion:
        return None
    writer = THEIRS if has_trace(one.pair) else f"{TRACED}{RULES}"
    return _pair(one, common, THEIRS, rejected, writer)


def planted(one: Planned, common: tuple, params: Params) -> list[DPORow]:
    """Pairs of the reference with perturbations of it, drawn by the weights of the params without repeating one."""
    random = rng(params.run.seed, "perturb", one.row.id)
    case = case_of(one, random)
    weights = dict(params.plan.perturbations)
    made: list[DPORow] = []
    while weights and len(made) < params.plan.pairs_per_prompt:
        [name] = random.choices(list(weights), list(weights.values()))
        del weights[name]
        rejected = perturb(name, case)
        if rejected is not None:
            made.append(_pair(one, common, name, rejected, RULES))
    return made


def _pair(one: Planned, common: tuple, name: str, rejected: str, rejected_writer: str) -> DPORow:
    row, plan, labels = one.row, one.plan.to_json(), one.labels.to_json()
    told = (one.completion, rejected, name, plan, labels, turns_to_json(row.earlier), one.writer, rejected_writer)
    return DPORow(f"{row.id}.{name}", row.source, *common, *told)
