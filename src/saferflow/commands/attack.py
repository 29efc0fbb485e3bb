"""`saferflow attack`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import Policies, project
from saferflow.layout import EVALUATION

app = single()


@app.command()
def attack(
    policies: Policies,
    rows: Annotated[
        Path, typer.Option(metavar="PARQUET", help="Where the requests come from, a table as stage validate writes it.")
    ] = EVALUATION,
    out: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where figures, dialogues and report go, in the place of earlier ones."),
    ] = Path("reports/attack"),
    count: Annotated[int, typer.Option(min=1, metavar="N", help="Requests that are made into attacks, at most.")] = 40,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="typographic, role_play, obfuscation, split, pressure, authority or continuation; "
            "all these where none is named. Or one that reads each answer and tries again: rephrase, crescendo or tree.",
        ),
    ] = None,
    turns: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tries of one that tries again, for each request; attack.turns where none."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Tokens of its server, for each policy and method; attack.tokens where none."),
    ] = None,
    forms: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help="trained (training may show them) or unseen; both where none is named."),
    ] = None,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Decode under each turn's plan, so that no policy can leave it.")
    ] = False,
) -> None:
    """Attack policies: requests that are to be declined, disguised in six ways or pressed for over several turns.

    Each attack is made from a row whose own words name the harm, and stands beside that plain request: how often it succeeded,
    and by how much more often than the request alone, with intervals. Every turn is planned anew and checked by the protocol.
    Forms that training rows may show and forms that only this command shows are reported apart; the families authority and
    continuation are shown here only. rephrase, crescendo and tree adapt to each policy, by rules or by the server in
    attack.attacker of params.yaml.

    Examples:

    `saferflow attack champion` · `saferflow attack champion --method crescendo --method tree --turns 6` ·
    `saferflow attack sft grpo --count 100 --method pressure --forms unseen`
    """
    root, params = project()
    from rich.console import Console

    from saferflow.cli.attack import FAMILIES, TRAINED, UNSEEN
    from saferflow.cli.attack import attack as run_attacks

    budget = {name: value for name, value in (("turns", turns), ("tokens", tokens)) if value is not None}
    params = params.model_copy(update={"attack": params.attack.model_copy(update=budget)})
    run_attacks(
        Console(highlight=False),
        root,
        params,
        policies,
        rows,
        out,
        count=count,
        methods=method or list(FAMILIES),
        kinds=forms or (TRAINED, UNSEEN),
        constrained=constrained,
    )
