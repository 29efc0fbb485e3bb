"""Reads completions to check: JSON Lines, one completion per line, with its plan where it has one."""

import codecs
import json
from dataclasses import dataclass

from saferflow.errors import DataError, PlanError
from saferflow.protocol.plan import Plan


@dataclass(frozen=True, slots=True)
class Completion:
    """One row of the file: its line (from 1), its id, its text and its plan."""

    line: int
    id: str
    """The row's `id`, else its `row` (as in reports/rollouts.jsonl), else the line's number."""
    text: str
    plan: Plan | None


def read_completions(name: str, content: bytes, field: str) -> list[Completion]:
    """Read every row of `content` and skip blank lines.

    Args:
        name: how messages call the file.
        field: the row's field that holds the text.

    Raises:
        DataError: some rows cannot be read, or there is no row. The message names every bad row with its line, what was
            expected and the remedy.
    """
    rows: list[Completion] = []
    bad: list[str] = []
    for number, line in enumerate(content.removeprefix(codecs.BOM_UTF8).splitlines(), 1):
        if line.strip():
            try:
                rows.append(_row(number, line, field))
            except DataError as error:
                bad += [f"{name}:{number}: {problem}" for problem in error.args]
    if bad:
        counted = "1 problem" if len(bad) == 1 else f"{len(bad)} problems"
        raise DataError(f"{counted} with the rows, so nothing was checked:\n" + "\n".join(bad))
    if not rows:
        raise DataError(f'{name}: holds no row; put one JSON object a line into it, such as {{"{field}": "…"}}')
    return rows


def _row(number: int, line: bytes, field: str) -> Completion:
    try:
        raw = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8: {error.reason} at byte {error.start}; write the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}; one JSON object a line is expected") from None
    if not isinstance(raw, dict):
        raise DataError(f'a {type(raw).__name__}; an object is expected, such as {{"{field}": "…"}}')
    text = raw.get(field)
    identifier = next(value for value in (raw.get("id"), raw.get("row"), number) if value is not None)
    plan, problems = _plan(raw.get("plan"))
    if not isinstance(text, str):
        problem = f"is {_shown(text)}" if field in raw else f"is missing; there are {_shown(sorted(raw))}"
        problems.append(f"field {field!r} {problem}; the completion as text is expected, or name its field with --field")
    if type(identifier) not in (str, int):
        problems.append(f"field 'id' is {_shown(identifier)}; text or a number is expected; it may be left out")
    if problems:
        raise DataError(*problems)
    return Completion(number, str(identifier), text, plan)


def _plan(value: object) -> tuple[Plan | None, list[str]]:
    """Read a plan from an object or from JSON text (column `plan`; empty means no plan), and list its problems."""
    if value is None or value == "":
        return None, []
    if isinstance(value, dict):
        value = json.dumps(value)
    if not isinstance(value, str):
        return None, [
            f"field 'plan' is {_shown(value)}; a plan's fields are expected, as object or text; or leave it out"
        ]
    try:
        return Plan.from_json(value), []
    except PlanError as error:
        return None, [f"field 'plan': {error}"]


def _shown(value: object) -> str:
    return json.dumps(value)[:80]
