"""`saferflow run`."""

from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project_folder
from saferflow.errors import ParamsError

app = single()


@app.command()
def run(
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="First put profiles/NAME.yaml in the place of params.yaml.")
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(metavar="STAGE", help="Run this stage even if nothing changed; may be repeated.")
    ] = None,
    ablate: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="Compare with the pipeline without this part; may be repeated; or all."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Compare with the pipeline at this value; may be repeated."),
    ] = None,
    queue: Annotated[
        bool, typer.Option("--queue", help="With --set: let a worker run it after what was ordered before.")
    ] = False,
    allow_guessed_labels: Annotated[
        bool,
        typer.Option(
            "--allow-guessed-labels",
            help="First set plan.allow_guessed_labels in params.yaml: train on what rules guess of rows without labels.",
        ),
    ] = False,
) -> None:
    """Bring the pipeline up to date: only the stages whose code, data or parameters changed.

    Rows of your own want labels: what a safe assistant does (answer, refuse, ...). The rule planner knows the drawn corpus alone
    and misses most harmful requests of other rows, so stage plan stops at rows without a label, unless a planner behind a server
    (`plan.writer`) gives them. `--allow-guessed-labels` trains on the guesses all the same; such rows are marked, and neither
    held out nor counted by the gate.

    `--ablate` runs the pipeline again without a part of the recipe, each time as a DVC experiment beside this checkout, and
    prints what that costs in every measure: no-dpo, no-format, no-depth, no-semantic, correction, no-topologies; or all.

    `--set` does the same with values of your own, all of them in one experiment; params.yaml stays as it is. Bring one that is
    worth it to a branch: `dvc exp branch NAME BRANCH`.

    Examples:

    `saferflow run` · `saferflow run --force sft` · `saferflow run --profile qwen2.5-vl-3b` ·
    `saferflow run --ablate no-dpo --ablate correction` · `saferflow run --set grpo.kl=0.05 --set dpo.beta=0.2` ·
    `saferflow run --set sft.epochs=3 --queue`
    """
    if queue and not settings:
        raise ParamsError("--queue puts an experiment into the queue: name its values with --set")
    if profile:
        from saferflow.commands.profiles import use_profile

        use_profile(profile)
    project_folder()
    if allow_guessed_labels:
        from saferflow.commands.guessed_labels import allow

        allow()
    if ablate or settings:
        from flows.experiments import run_experiments

        run_experiments(ablate or [], settings or [], queue=queue)
        return
    from flows.run import run as bring_up_to_date

    bring_up_to_date(tuple(force or ()))
