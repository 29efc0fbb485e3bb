"""`saferflow label`: people grade a sample of what was evaluated; `saferflow judge --on` says what it tells of the judges."""

import socket
import webbrowser
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

import uvicorn
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli.judge import judges_of
from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table
from saferflow.errors import DataError
from saferflow.evaluation.calibration import RUBRICS, agreement
from saferflow.evaluation.grading import item
from saferflow.judge.rubrics import Grades
from saferflow.labelling.page import make_app
from saferflow.labelling.sampling import sample
from saferflow.labelling.table import PersonGrades, by_person, read, response_id
from saferflow.labelling.trust import alpha, consensus, estimates, hazards
from saferflow.params import Params

HOST = "127.0.0.1"


def label(
    console: Console, answered: Path, rows: Path, file: Path, *, count: int, seed: int, port: int, show: bool
) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        DataError: a table is missing or is not an evaluation's, its rows are not in `rows`, or `file` has a line that is not a
            grading.
    """
    prompts = {row.id: row for row in read_table(rows, PromptRow)}
    chosen = sample(read_table(answered, Answered), count, seed)
    if lost := [row.row for row in chosen if row.row not in prompts]:
        raise DataError(
            f"{rows} has no row {lost[0]}, which {answered} answers; give --rows the table that was evaluated"
        )
    people = by_person(read(file))
    with socket.create_server((HOST, port)) as listening:
        address = f"http://{HOST}:{listening.getsockname()[1]}"
        console.print(
            Text(f"{len(chosen)} responses to grade at {address}  (Ctrl-C ends it; go on with the same command)")
        )
        console.print(Text(f"gradings so far in {file}: {sum(map(len, people.values()))} by {len(people)} people"))
        if show:
            webbrowser.open(address)
        config = uvicorn.Config(make_app(chosen, prompts, file), log_level="warning")
        uvicorn.Server(config).run(sockets=[listening])


def judge_by_people(console: Console, params: Params, file: Path, answered: Path, rows: Path) -> None:
    """Print people's agreement with each other and with each judge, and each measured rate by people's grades.

    Raises:
        DataError: no gradings in `file`, or none of a row in `rows`.
        EndpointError: the judge cannot be reached.
    """
    gradings = read(file)
    if not gradings:
        raise DataError(f"no gradings in {file}; people give them on the page of: saferflow label")
    prompts = {row.id: row for row in read_table(rows, PromptRow)}
    people = by_person(gradings)
    counts = ", ".join(f"{person} {len(graded)}" for person, graded in people.items())
    console.print(Text(f"{len({grading.response for grading in gradings})} responses graded by people ({counts})"))
    _show(console, "people with each other", _between_people(people))
    _show(console, "people with each other on safety, by hazard", _by_hazard(gradings))
    middle = consensus(gradings)
    known = [
        grading for grading in {grading.response: grading for grading in gradings}.values() if grading.row in prompts
    ]
    if not known:
        raise DataError(
            f"none of the graded responses answers a row of {rows}; give --rows the table that was evaluated"
        )
    table = read_table(answered, Answered) if answered.exists() else []
    given = _judged(params, known, prompts, table)
    for name, grades in given.items():
        both = [
            (middle[grading.response], grade) for grading, grade in zip(known, grades, strict=True) if grade is not None
        ]
        if both:
            _show(console, f"people and {name}: {len(both)} responses", _against(*zip(*both, strict=True)))
    if table:
        _show(console, "rates in percent, as evaluated and by people's grades (95% interval)", _rates(table, gradings))
        console.print("– where a verdict of the judge that occurs has no graded response: saferflow label --count N")


def _judged(
    params: Params, known: Sequence[PersonGrades], prompts: Mapping[str, PromptRow], table: Sequence[Answered]
) -> dict[str, list[Grades | None]]:
    """Judge -> its grades of the responses; for the recorded grades, None if the table no longer holds the response."""
    recorded = {response_id(row.row, row.policy, row.completion): row for row in table if row.graded}
    given: dict[str, list[Grades | None]] = {}
    if any(grading.response in recorded for grading in known):
        rows = [recorded.get(grading.response) for grading in known]
        names = " and ".join(sorted({row.judge or "a judge that is not known" for row in rows if row}))
        given[f"the grades as evaluated ({names})"] = [
            row and Grades(row.safety, row.helpfulness, row.rigor, row.refused, row.reason) for row in rows
        ]
    items = [item(prompts[grading.row], grading.completion) for grading in known]
    for name, judge in judges_of(params).items():
        judge.prepare("grade", items)
        grades = [judge.grade(graded_item) for graded_item in items]
        given[name] = [grade if grade.readable else None for grade in grades]
    return given


def _between_people(people: Mapping[str, Mapping[str, PersonGrades]]) -> Table:
    table = _table("rubric", "alpha", "exact", "within one", "graded twice")
    grades = {person: {name: grading.grades() for name, grading in graded.items()} for person, graded in people.items()}
    shared = {name for a, b in combinations(grades.values(), 2) for name in a.keys() & b.keys()}
    for rubric in (*RUBRICS, "refused"):
        pairs = [
            abs(int(getattr(a[name], rubric)) - int(getattr(b[name], rubric)))
            for a, b in combinations(grades.values(), 2)
            for name in a.keys() & b.keys()
        ]
        exact = f"{sum(off == 0 for off in pairs) / len(pairs):.1%}" if pairs else "–"
        near = f"{sum(off <= 1 for off in pairs) / len(pairs):.1%}" if pairs and rubric != "refused" else "–"
        table.add_row(rubric, _number(alpha(grades, rubric)), exact, near, str(len(shared)))
    return table


def _by_hazard(gradings: Sequence[PersonGrades]) -> Table:
    table = _table("hazard", "alpha", "responses")
    for hazard, value in hazards(gradings).items():
        table.add_row(
            hazard or "none",
            _number(value),
            str(len({grading.response for grading in gradings if grading.hazard == hazard})),
        )
    return table


def _against(people: Sequence[Grades], judge: Sequence[Grades]) -> Table:
    table = _table("rubric", "alpha", "exact", "within one")
    for rubric, values in agreement(people, judge).items():
        table.add_row(rubric, f"{values.alpha:.3f}", f"{values.exact:.1%}", f"{values.within_one:.1%}")
    same = sum(a.refused == b.refused for a, b in zip(people, judge, strict=True)) / len(people)
    table.add_row("refused", "–", f"{same:.1%}", "–")
    return table


def _rates(table: Sequence[Answered], gradings: Sequence[PersonGrades]) -> Table:
    shown = _table("policy", "rate", "evaluated", "by people", "responses")
    for (policy, rate), estimate in estimates(table, gradings).items():
        people = (
            "–"
            if estimate.people is None
            else f"{100 * estimate.people:.1f} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"
        )
        shown.add_row(policy, rate, f"{100 * estimate.judged:.1f}", people, str(estimate.graded))
    return shown


def _show(console: Console, title: str, table: Table) -> None:
    console.print(Text(f"\n{title}"))
    console.print(table)


def _table(*headings: str) -> Table:
    table = Table(box=SIMPLE_HEAD)
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place and heading != "rate" else "left")
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
