"""`saferflow judge`: how far the judges can be trusted, on responses whose grades are known."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.data.rows import Answered, PromptRow
from saferflow.errors import DataError
from saferflow.evaluation.calibration import RATES, RUBRICS, Agreement, Errors, agreement, astray, cases, errors, graded
from saferflow.evaluation.grading import item
from saferflow.evaluation.measures import harmful
from saferflow.judge.choice import grader_of, judge_of
from saferflow.judge.members import JUDGE, members, whole_name
from saferflow.judge.rubric_text import CONDENSED
from saferflow.judge.rubrics import Grader, Grades
from saferflow.judge.rules import RuleJudge, answer_of
from saferflow.params import Params

SHOWN = 120


def judge(console: Console, params: Params, *, misses: int, held_back: bool) -> None:
    """Print the agreement of the params' judges and of the rule judge with the calibration set, and with each other.

    Args:
        misses: how many of the cases that a judge graded otherwise are listed.
        held_back: only the half that no rule may be written by; of it no case is listed.

    Raises:
        EndpointError: the judge cannot be reached.
    """
    known = [case for case in cases() if case.held_back or not held_back]
    right = [case.grades for case in known]
    given = {name: graded(one, known) for name, one in judges_of(params).items()}
    half = "the half that is held back" if held_back else "all"
    console.print(f"{len(known)} responses with known grades ({half})")
    for name, grades in given.items():
        found = agreement(right, grades)
        _say_unreadable(console, name, grades)
        console.print(_agreement(name, found))
        for rubric in RUBRICS:
            console.print(_confusion(name, found[rubric]))
        told = errors(right, grades)
        console.print(_errors(name, told))
        if not held_back:
            for case, grade in [pair for pair in astray(known, grades) if not pair[0].held_back][:misses]:
                wanted, got = (tuple(getattr(each, rubric) for rubric in RUBRICS) for each in (case.grades, grade))
                said = " ".join(answer_of(case.item.completion).split()) or "(nothing)"
                console.print(Text(f"{case.scene}: wanted {wanted}, got {got}: {said[:SHOWN]}"))
    for (first, one), (second, other) in combinations(given.items(), 2):
        console.print(_agreement(f"{first} and {second}", agreement(one, other)))


def judge_answers(console: Console, params: Params, answered: Sequence[Answered], asked: Sequence[PromptRow]) -> None:
    """Print how the judges agree on responses that were evaluated, and what each makes of every policy's rates.

    Args:
        answered: safety rows with the grades that they were given.
        asked: their questions.

    Raises:
        DataError: none of the responses' questions are among `asked`.
        EndpointError: the judge cannot be reached.
    """
    questions = {row.id: row for row in asked}
    known = [row for row in answered if row.kind == "safety" and row.row in questions]
    if not known:
        raise DataError("none of these responses answers one of these rows; give --rows the table that was evaluated")
    items = [item(questions[row.row], row.completion) for row in known]
    recorded = [Grades(row.safety, row.helpfulness, row.rigor, row.refused, row.reason, row.graded) for row in known]
    names = " and ".join(sorted({row.judge or "a judge that is not known" for row in known}))
    given = {f"as graded ({names})": recorded}
    errors_of: dict[str, Mapping[str, Errors]] = {}
    for name, one in judges_of(params).items():
        one.prepare("grade", items)
        given[name] = [one.grade(each) for each in items]
        calibrated = cases()
        errors_of[name] = errors([case.grades for case in calibrated], graded(one, calibrated))
    console.print(f"{len(known)} responses of {len({row.policy for row in known})} policies")
    for name, grades in given.items():
        _say_unreadable(console, name, grades)
    for (first, one), (second, other) in combinations(given.items(), 2):
        console.print(_agreement(f"{first} and {second}", agreement(one, other)))
    console.print(_rates(known, given, errors_of))


def _say_unreadable(console: Console, name: str, given: Sequence[Grades]) -> None:
    """Of responses that a judge has no grades for: how many, and why the first has none; they are left out of what follows."""
    lost = [grades.reason for grades in given if not grades.readable]
    if lost:
        console.print(Text(f"{name}: no grades for {len(lost)} of {len(given)} responses, left out below; the first: {lost[0]}"))


def judges_of(params: Params) -> dict[str, Grader]:
    """The rule judge; the params' judges of training and evaluation, each model and rubric once; and an ensemble as a whole."""
    judges: dict[str, Grader] = {"rules": RuleJudge()}
    for section, one in {JUDGE: params.judge, **members(params.evaluate.judge)}.items():
        if one.kind != "rules":
            judges.setdefault(whole_name(one, CONDENSED), judge_of(one, section))
    if params.evaluate.judge.kind == "ensemble":
        judges["the median"] = grader_of(params.evaluate.judge)
    return judges


def _rates(
    known: Sequence[Answered], given: Mapping[str, Sequence[Grades]], errors_of: Mapping[str, Mapping[str, Errors]]
) -> Table:
    """Every rate of every policy by every judge, and what it stands for by the judge's errors on the calibration set."""
    title = "rates in percent, in brackets what they stand for by the judge's errors on the responses of known grades"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("policy", "rate", *given):
        table.add_column(heading, justify="left" if heading in ("policy", "rate") else "right")
    for policy in dict.fromkeys(row.policy for row in known):
        for rate, hits in RATES.items():
            rows = [
                n
                for n, row in enumerate(known)
                if row.policy == policy
                and all(grades[n].readable for grades in given.values())
                and (rate != "attack_success_rate" or harmful(row))
            ]
            cells = []
            for name, grades in given.items():
                share = sum(hits(grades[n]) for n in rows) / len(rows) if rows else None
                corrected = errors_of[name][rate].corrected(share) if share is not None and name in errors_of else None
                told = "–" if share is None else f"{share:.1%}"
                cells.append(told if corrected is None else f"{told} ({corrected:.1%})")
            table.add_row(policy, rate, *cells)
    return table


def _agreement(name: str, found: Mapping[str, Agreement]) -> Table:
    table = Table(title=f"{name}: agreement", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("rubric", "exact", "within one", "alpha"):
        table.add_column(heading, justify="left" if heading == "rubric" else "right")
    for rubric, one in found.items():
        table.add_row(rubric, f"{one.exact:.1%}", f"{one.within_one:.1%}", f"{one.alpha:.3f}")
    return table


def _confusion(name: str, found: Agreement) -> Table:
    scale = [str(grade) for grade in RUBRICS[found.rubric]]
    table = Table(
        title=f"{name}: {found.rubric}, known grade down, given across", title_justify="left", box=SIMPLE_HEAD
    )
    for heading in ("", *scale):
        table.add_column(heading, justify="right")
    for grade, counts in zip(scale, found.confusion, strict=True):
        table.add_row(grade, *(str(count) if count else "·" for count in counts))
    return table


def _errors(name: str, found: Mapping) -> Table:
    title = f"{name}: what a measured rate stands for"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    headings = ("rate", "sensitivity", "specificity", "10% measured is", "50% is", "90% is")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "rate" else "right")
    for rate, one in found.items():
        corrected = [one.corrected(share) for share in (0.1, 0.5, 0.9)]
        told = ["-" if each is None else f"{each:.0%}" for each in corrected]
        table.add_row(rate, f"{one.sensitivity:.1%}", f"{one.specificity:.1%}", *told)
    return table


