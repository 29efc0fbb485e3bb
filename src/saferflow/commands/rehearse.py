"""`saferflow rehearse`."""

from enum import StrEnum
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import PARAMS, project_folder

app = single()


class Size(StrEnum):
    """What `rehearse` loads."""

    REAL = "real"
    THIN = "thin"


@app.command()
def rehearse(
    profile: Annotated[
        str | None, typer.Option(metavar="NAME", help="profiles/NAME.yaml; params.yaml where none is named.")
    ] = None,
    size: Annotated[
        Size, typer.Option(help="thin: all widths, words and images, two layers and two vision blocks; real: whole.")
    ] = Size.REAL,
    steps: Annotated[int, typer.Option(min=2, metavar="N", help="Optimiser steps of sft, dpo and grpo.")] = 2,
    tokens: Annotated[
        int, typer.Option(min=2, metavar="N", help="Tokens of a completion that a policy draws, at most.")
    ] = 64,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Processes, with the profile's strategy; else as many as there are GPUs for."
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Training rows of the whole run; else as many as fill curate.keep."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Rehearse with this value; may be repeated."),
    ] = None,
) -> None:
    """Run each stage of a profile for a few steps before hours are spent: rows, tokens, time, memory, disk, what fails first.

    The stages run as the pipeline runs them, in a temporary folder (TMPDIR says where), with the profile's micro batches, image
    sizes, adapter and precision. Nothing in this checkout changes. Rows are drawn here, their pictures in turn as large as
    policy.max_pixels, the geometric mean, and policy.min_pixels. Planner, teacher and judge behind servers are replaced by the
    rules; fewer processes than the profile wants, or none of its GPUs, are said. Stages that draw completions run twice, with
    `--tokens` and with a single one, so that the time of a token is known apart from that of reading the prompt.

    With the checkpoint of policy.base on this machine it is that one; without, random weights in the files of the published
    one. `--size thin` keeps widths, words and images and cuts the model to two layers, for a machine that cannot hold it.

    Before a stage begins, what it must hold by counts is compared with the memory. Exit status: 0 every stage ran, 1 one failed,
    named with its remedy. What would stop the whole run on this machine (sources, servers, GPUs, memory, disk) is listed
    either way.

    Examples:

    `saferflow rehearse --profile qwen2.5-vl-3b --size thin` · `saferflow rehearse --profile qwen2.5-vl-7b --rows 18200` ·
    `saferflow rehearse --profile qwen2.5-vl-3b --size thin --processes 2 --set launch.strategy=zero3`
    """
    root = project_folder()
    from rich.console import Console

    from saferflow.cli.rehearse import rehearse as carry_out
    from saferflow.commands.profiles import profile_file
    from saferflow.params import load_params

    params = load_params(profile_file(profile) if profile else PARAMS)
    carry_out(
        Console(highlight=False), root, params, settings or [],
        steps=steps, tokens=tokens, thin=size is Size.THIN, prompts=rows, processes=processes,
    )  # fmt: skip
