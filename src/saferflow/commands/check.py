"""`saferflow check`."""

import sys
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import Format
from saferflow.errors import DataError

app = single()


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON Lines, or - for the standard input.")],
    output: Annotated[
        Format, typer.Option("--format", help="A line a violation, or one JSON array of objects.")
    ] = Format.TEXT,
    field: Annotated[str, typer.Option(metavar="NAME", help="The field that holds the completion.")] = "completion",
) -> None:
    """Check completions against their plans, like a linter: `FILE:LINE: CODE what was found; what was legal there`.

    A row is one JSON object a line: `{"id": "a1", "completion": "<thinking>…", "plan": {"hazard": "S2", "severity": 2,
    "persona": "guardian", "tools": ["VISUAL-SCAN", "RISK-SCORER", "SAFETY-GATE"], "topology": "mesh"}}`

    * `completion` (or the field that `--field` names): what the policy wrote. The only field that must be there.

    * `plan`: an object as above, or the same as a JSON text, as the column `plan` of the project's tables holds it. A tree
    may have `branches`, a loop `max_returns`. Without a plan only what needs none is checked: tags, text around them,
    typed values, the answer.

    * `id`: names the row in messages. Other fields are ignored, so reports/rollouts.jsonl can be read as it is.

    What each code means, with a bad and a good trace: docs/violations.md.

    Exit status: 0 no violation, 1 violations, 2 bad input; then every bad line is named and nothing is checked.

    Examples:

    `saferflow check reports/rollouts.jsonl` · `saferflow check pairs.jsonl --field chosen` ·
    `tail -n 100 rows.jsonl | saferflow check - --format json`
    """
    from saferflow.cli.check import report

    try:
        violations = report(file, field, as_json=output is Format.JSON)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(1 if violations else 0)
