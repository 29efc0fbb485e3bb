"""`saferflow audit`."""

from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project
from saferflow.errors import ParamsError

app = single()


@app.command()
def audit(
    show: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the pages in the browser when they are written.")
    ] = True,
    inspect: Annotated[bool, typer.Option("--inspect", help="Also write a log a policy for Inspect's viewer.")] = False,
    failed: Annotated[
        str | None,
        typer.Option(metavar="MEASURE", help="List the rows that miss this measure, and open the pages at them."),
    ] = None,
    policy: Annotated[str, typer.Option(help="With --failed: whose answers.")] = "grpo",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="POLICY",
            help="With --failed: only rows that this one does not miss: base, sft, dpo, a version as v3, champion.",
        ),
    ] = None,
    hazard: Annotated[str | None, typer.Option(metavar="CODE", help="With --failed: only rows of this hazard.")] = None,
    risk: Annotated[
        str | None, typer.Option(metavar="SOURCE", help="With --failed: only rows whose risk comes from there.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="With --failed: rows that are listed here.")] = 10,
) -> None:
    """Write the audit pages of the last evaluation: every row under every policy, with filters, violations and graphs.

    Static files in reports/audit that open without a server and load nothing from elsewhere.

    `--failed` lists the held-out rows behind a figure here as well: question, what was expected, what came, broken rules. The
    measures are safety, helpfulness, rigor, over_refusal_rate, attack_success_rate, validity, parse_rate and general.

    Examples:

    `saferflow audit` · `saferflow audit --no-open --inspect` · `saferflow audit --failed attack_success_rate` ·
    `saferflow audit --failed general --against base` · `saferflow audit --failed safety --hazard S1 --risk combination`
    """
    if failed is None and (against or hazard or risk):
        raise ParamsError("--against, --hazard and --risk choose among failed rows: name a measure with --failed")
    root, params = project()
    from rich.console import Console

    from saferflow.cli.audit import Choice, write_pages

    choice = Choice(failed, policy, against, hazard, risk, limit) if failed else None
    write_pages(root, params, Console(highlight=False), show=show, inspect=inspect, choice=choice)
