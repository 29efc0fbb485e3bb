"""`saferflow general`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


@app.command()
def general(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY...",
            help="base, sft, dpo, grpo; a registered version as v3, or an alias; a folder; with --server, a served name.",
        ),
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A task of lmms-eval; MathVista, MMMU, MMStar, MM-Vet and POPE where none is named."
        ),
    ] = None,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible server instead of loading the policies.")
    ] = None,
    backend: Annotated[str, typer.Option(help="How lmms-eval loads a policy: qwen2_5_vl or vllm.")] = "qwen2_5_vl",
    harness: Annotated[
        str | None,
        typer.Option(metavar="PYTHON", help="The python of an environment that has lmms-eval; this one where none."),
    ] = None,
    own_tasks: Annotated[
        Path | None,
        typer.Option(
            "--tasks-from", metavar="FOLDER", help="A folder with tasks of your own, as lmms-eval reads them."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Samples of each task, at most.")] = None,
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Where scores and samples go, in the place of earlier ones.")
    ] = Path("reports/general"),
) -> None:
    """Measure general ability by an existing harness, lmms-eval, policy beside policy.

    It loads a policy's folder on a GPU, or asks a server that serves it. The last policy is compared with the first, sample by
    sample. Traces are taken out of the responses before they are scored.

    Examples:

    `saferflow general base champion` · `saferflow general v3 v5 --task pope --limit 200` ·
    `saferflow general champion --server http://127.0.0.1:8000/v1 --harness /opt/lmms/bin/python`
    """
    root, params = project()
    from rich.console import Console

    from saferflow.cli.general import general as run_harness
    from saferflow.evaluation.general import TASKS

    run_harness(
        Console(highlight=False), root, params, policies, out,
        tasks=task or TASKS, backend=backend, server=server, harness=harness, own_tasks=own_tasks, limit=limit,
    )  # fmt: skip
