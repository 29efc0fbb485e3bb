"""`saferflow evaluate`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import Policies, project
from saferflow.layout import EVALUATION

app = single()


class Asking(StrEnum):
    """How `evaluate` asks policies."""

    PLANNED = "planned"
    RELEASED = "released"
    BOTH = "both"


@app.command()
def evaluate(
    policies: Policies,
    rows: Annotated[
        Path, typer.Option(metavar="PARQUET", help="The rows to answer, a table as stage validate writes it.")
    ] = EVALUATION,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where scores, report and answers go, in the place of earlier ones.")
    ] = Path("reports/evaluate"),
    inspect: Annotated[bool, typer.Option("--inspect", help="Also write a log a policy for Inspect's viewer.")] = False,
    traces: Annotated[
        bool, typer.Option("--traces", help="Also write an MLflow run with a trace and the grades of each answer.")
    ] = False,
    constrained: Annotated[
        bool, typer.Option("--constrained", help="Decode under each row's plan, so that no policy can leave it.")
    ] = False,
    protocol: Annotated[
        Asking,
        typer.Option(help="With a plan a row, as policies are trained; or as the released evaluation of SaFeR-ToolKit asks."),
    ] = Asking.PLANNED,
) -> None:
    """Have policies answer rows beside the pipeline: scores with intervals, paired tests, a report, every answer.

    Each policy is compared with the one before it, and the last with the first, on the same rows. The judge is
    evaluate.judge of params.yaml; the pipeline's own results stay as they are.

    `--protocol released` asks every policy, the base policy too, with one think-and-answer prompt and no plan, a repetition
    penalty of 1.1 and pictures of at most 512 x 512 pixels, as published figures were taken; `both` has the two side by side.

    Examples:

    `saferflow evaluate champion candidate` · `saferflow evaluate base grpo --protocol both` ·
    `saferflow evaluate v3 /models/mine --rows other.parquet --inspect`
    """
    root, params = project()
    from rich.console import Console

    from saferflow.cli.evaluate import PROTOCOLS, evaluate

    evaluate(
        Console(highlight=False), root, params, policies, rows, out,
        inspect=inspect, traces=traces, constrained=constrained, protocols=PROTOCOLS[protocol.value],
    )  # fmt: skip
