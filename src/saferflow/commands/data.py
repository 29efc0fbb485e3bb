"""`saferflow data`."""

from pathlib import Path
from typing import Annotated

import typer

from saferflow.commands.application import group
from saferflow.commands.project import Format, project
from saferflow.errors import PipelineError

app = group("Rows: where they come from, and what they went into.")


@app.command()
def trace(
    row: Annotated[
        str,
        typer.Argument(help="A row's id, as in the tables and on the audit pages; or a completion's that was reported."),
    ],
    output: Annotated[Format, typer.Option("--format", help="Lines, or one JSON object.")] = Format.TEXT,
) -> None:
    """Where a row came from, which tables hold it, which runs read those very tables, which versions were made from them.

    Examples:

    `saferflow data trace scenes-train-000004` · `saferflow data trace scenes-evaluation-000003 --format json`
    """
    root, params = project()
    from rich.console import Console

    from saferflow.cli.data import print_trace
    from saferflow.cli.data import trace as follow

    print_trace(Console(highlight=False), follow(root, params, row), as_json=output is Format.JSON)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="A published corpus (docs/corpora.md), or a name for rows of your own.")],
    path: Annotated[
        str, typer.Argument(help="A folder, a file, a .zip or .tar archive; or an address, for dvc import-url.")
    ],
    kind: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of your own rows: jsonl, json, csv, parquet, webdataset or datasets; found by itself for a path.",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of your own rows, as an SPDX identifier.")] = None,
    field: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OURS=THEIRS",
            help="Where your rows name a field otherwise; may be repeated. An empty THEIRS leaves the field out.",
        ),
    ] = None,
    hazard: Annotated[
        list[str] | None,
        typer.Option(metavar="WORD=CODE", help="A word for a hazard and its code S1..S14; may be repeated."),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Where the pictures lie that rows name by paths; the rows' own folder if not given."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read it and say what is in it; add nothing.")] = False,
) -> None:
    """Bring a corpus into data/sources under DVC, and say what is in it: splits, hazards, licence, rows that are no good.

    Rows of your own may have TRL's forms (prompt and completion, preference, messages), LLaVA's, ShareGPT's or Alpaca's, as JSON
    lines or lists, CSV, Parquet, WebDataset, or what datasets saved. What each field was taken for is shown with the first row;
    --field says otherwise. Our fields: id, image, question, answer, rejected, conversation, kind, expected (refuse, comply),
    decision, hazard, severity.

    It is read as stage plan reads it. For every row it says where its label comes from (what a safe assistant does): the source,
    a category that `--hazard` maps, or the planner behind the server of `plan.writer`. The rule planner knows the drawn corpus
    alone and labels nothing else: at rows without a label stage plan stops, and this says so now.

    A licence that `data.licences` of the params does not allow is refused; so are rows
    that cannot be read, unless `data.on_bad_row` is quarantine. What is refused leaves nothing behind.

    Examples:

    `saferflow data add xstest ~/xstest_prompts.csv` · `saferflow data add vlguard ~/VLGuard.zip --dry-run` ·
    `saferflow data add mine rows.jsonl --licence CC-BY-4.0 --field question=text --hazard Fraud=S2` ·
    `saferflow data add llava llava.json --images ~/coco --dry-run`
    """
    _, params = project()
    from rich.console import Console

    from saferflow.cli.data_add import add as bring
    from saferflow.cli.data_add import source_of

    source = source_of(name, path, kind, licence, field or [], hazard or [])
    bring(name, path, params, source, Console(highlight=False, soft_wrap=True), images=images, dry_run=dry_run)


@app.command()
def drift(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN", help="The run to compare with; the newest that had other data where none is named."
        ),
    ] = None,
    served: Annotated[
        bool, typer.Option("--served", help="The requests that the server kept, against this checkout's training tables.")
    ] = False,
) -> None:
    """How far the tables have moved from a former version of the data: sources, hazards, decisions, suspicions, lengths.

    RUN is an MLflow run id, a version as `v3`, an alias, or a git commit, as for `saferflow compare`. With `--served`: how far
    served requests lie from the training rows, in hazards, decisions, suspicions, lengths and broken rules; `serve.store` keeps
    them.

    Examples:

    `saferflow data drift` · `saferflow data drift champion` · `saferflow data drift --served`
    """
    if served and run:
        raise PipelineError("--served compares with this checkout's training tables; leave the run out")
    root, params = project()
    from rich.console import Console

    from saferflow.cli.drift import tell, tell_served

    console = Console(highlight=False)
    if served:
        tell_served(root, params, console)
    else:
        tell(root, params, run, console)
