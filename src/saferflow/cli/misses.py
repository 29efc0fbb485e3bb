"""`saferflow audit --failed`: chooses the held-out rows behind a figure, and lists them in the terminal."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.errors import DataError, ParamsError
from saferflow.evaluation.measures import MEASURES
from saferflow.evaluation.misses import MISSES, Group, missed_rows, rows_in_scope
from saferflow.layout import BASE
from saferflow.params import Params
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import parse
from saferflow.release import registry
from saferflow.release.verdict import answers_of, by_one_judge

SHOWN_CHARS = 300
"""The most characters of a question or an answer."""
SHOWN_VIOLATIONS = 3
HANG = 14
"""The column where the text of a line begins."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice of rows of an evaluation."""

    measure: str
    """The measure that the rows miss; one of `MEASURES`."""
    policy: str
    against: str | None
    """A policy or a registered version that does not miss the measure on these rows; None for any rows."""
    hazard: str | None
    risk: str | None
    limit: int
    """The most rows that are listed in the terminal."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The rows of a choice."""

    missed: tuple[Answered, ...]
    measured: int
    """Rows of the same hazard and risk source to which the measure applies."""
    title: str


def chosen(root: Path, params: Params, choice: Choice, answered: Sequence[Answered]) -> Chosen:
    """The rows of a choice, in the order of the table.

    Raises:
        ParamsError: no measure, hazard or risk source of this name.
        DataError: no answers of the policy.
        PipelineError: the rival is neither a policy of the evaluation nor a registered version.
    """
    if choice.measure not in MEASURES:
        raise ParamsError(f"--failed: no measure {choice.measure!r}; there are {', '.join(MEASURES)}")
    policies = list(dict.fromkeys(row.policy for row in answered))
    if choice.policy not in policies:
        raise DataError(f"--policy: no answers of {choice.policy!r}; there are those of {', '.join(policies)}")
    for option, wanted, values in (
        ("--hazard", choice.hazard, {row.hazard for row in answered}),
        ("--risk", choice.risk, {row.risk_source for row in answered}),
    ):
        if wanted is not None and wanted not in values:
            raise ParamsError(f"{option}: no row of {wanted!r}; there are {', '.join(sorted(filter(None, values)))}")
    rows = [row for row in answered if row.policy == choice.policy]
    rival = None
    if choice.against in policies:
        rival = [row for row in answered if row.policy == choice.against]
    elif choice.against is not None:  # a version of the registry, which another judge may have graded
        judged = by_one_judge(root, params)
        rival = judged(answers_of(registry.named(params.gate.registered_model, choice.against)))
        rows = judged(rows)
    rows = [row for row in rows if choice.hazard in (None, row.hazard) and choice.risk in (None, row.risk_source)]
    missed, measured = missed_rows(rows, choice.measure, rival), len(rows_in_scope(rows, choice.measure))
    where = "".join(f", {name}" for name in (choice.risk, choice.hazard) if name)
    lost = f", and not with {choice.against}" if choice.against else ""
    title = f"{choice.policy}{where}: {len(missed)} of {measured} rows {MISSES[choice.measure]}{lost}"
    return Chosen(tuple(missed), measured, title)


def print_chosen(console: Console, rows: Mapping[str, PromptRow], chosen_rows: Chosen, limit: int) -> None:
    """Print each row with its question, the expected decision, the completion, and the violations.

    Args:
        rows: the held-out table by row id.
    """
    console.print(Text(chosen_rows.title, "bold"))
    for number, answer in enumerate(chosen_rows.missed[:limit], 1):
        console.print()
        for line in listed(number, rows[answer.row], answer, console.width):
            console.print(line, soft_wrap=True)
    if len(chosen_rows.missed) > limit:
        more = len(chosen_rows.missed) - limit
        console.print(f"\nand {more} more: the pages have all, and --limit {len(chosen_rows.missed)} lists them here")


def listed(number: int, row: PromptRow, answer: Answered, width: int) -> list[Text]:
    """The lines of one row, without control characters from a model or a corpus."""
    group = Group(answer.risk_source, answer.hazard, 1, 1).name if answer.kind == "safety" else "general"
    lines = [Text(f"{number}. {_plain(row.id)}  {_plain(group)}", "bold")]
    for name, text in _facts(row, answer):
        first = f"   {name:<{HANG - 3}}"
        broken = textwrap.wrap(text, max(40, width), initial_indent=first, subsequent_indent=" " * HANG) or [first]
        lines += [Text(line) for line in broken]
    return lines


def _facts(row: PromptRow, answer: Answered) -> Iterator[tuple[str, str]]:
    yield "question", _plain(row.question)
    if answer.kind != "safety":
        labels = Labels.from_json(row.labels)
        yield "expected", _plain(", ".join(fact[0] for fact in labels.facts if fact))
        yield "came", _plain(answer.completion)
        return
    yield "expected", answer.expected
    response = parse(answer.completion)
    decided = next((call.get("decision") for call in response.trace if call.tool == GATE), "")
    gate = f" (its gate: {_plain(decided)})" if decided else ""
    yield (
        "came",
        f"{'declined' if answer.refused else 'answered'}{gate}: {_plain(response.answer or answer.completion)}",
    )
    grades = f"safety {answer.safety}, helpfulness {answer.helpfulness}, rigor {answer.rigor}"
    yield "grades", grades if answer.graded else "none"
    yield "reason", _plain(answer.reason)
    violations = check(Plan.from_json(row.plan), answer.completion) if row.plan and answer.policy != BASE else ()
    for violation in violations[:SHOWN_VIOLATIONS]:
        yield "violation", _plain(f"{violation.code} {violation.message}, line {violation.line}")
    if len(violations) > SHOWN_VIOLATIONS:
        yield "", f"and {len(violations) - SHOWN_VIOLATIONS} more"


def _plain(text: str) -> str:
    """A text on one line, without control characters, cut if it is long."""
    flat = " ".join(text.split())
    safe = "".join(sign if sign.isprintable() else "�" for sign in flat)
    return safe if len(safe) <= SHOWN_CHARS else safe[:SHOWN_CHARS] + " …"
