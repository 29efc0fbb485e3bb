"""Completions against their plans, reported like a linter."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from saferflow.data.completions import Completion, read_completions
from saferflow.errors import DataError
from saferflow.protocol.check import CODES, Violation, check

STDIN = "-"

Found = tuple[Completion, Violation]


def report(file: str, field: str, *, as_json: bool) -> int:
    """Print every violation to standard output and the count to standard error.

    Returns:
        How many violations there are.

    Raises:
        DataError: the file or rows of it cannot be read; nothing is checked then.
    """
    sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may hold what the terminal cannot show
    name = "<stdin>" if file == STDIN else file
    rows = read_completions(name, _content(file), field)
    findings = [(row, violation) for row in rows for violation in check(row.plan, row.text)]
    if as_json:
        print(json.dumps([_object(name, *item) for item in findings], indent=2))
    else:
        for line in _lines(name, findings):
            print(line)
    faulty = len({row.line for row, _ in findings})
    print(f"{len(findings)} violations in {faulty} of {len(rows)} completions", file=sys.stderr)
    return len(findings)


def _content(file: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if file == STDIN else Path(file).read_bytes()
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}; give a JSON Lines file, or - for the standard input") from None


def _lines(name: str, findings: list[Found]) -> Iterator[str]:
    for row, violation in findings:
        where = f"row {row.id!a}, line {violation.line} of the completion"
        yield f"{name}:{row.line}: {violation.code} {violation.message} ({where})"


def _object(name: str, row: Completion, violation: Violation) -> dict[str, object]:
    return {
        "file": name,
        "line": row.line,
        "id": row.id,
        "code": violation.code,
        "rule": CODES[violation.code],
        "step": violation.step,
        "completion_line": violation.line,
        "found": violation.actual,
        "legal": violation.legal,
    }
