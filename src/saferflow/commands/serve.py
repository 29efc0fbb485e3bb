"""`saferflow serve`."""

from enum import StrEnum
from typing import Annotated

import typer

from saferflow.commands.application import single
from saferflow.commands.project import project

app = single()


class Backend(StrEnum):
    """What draws the completions."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def serve(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="A registered version as 3 or v3, or an alias.")] = "champion",
    guard: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An OpenAI-compatible server whose model answers where the gate lets it."),
    ] = None,
    guard_model: Annotated[
        str | None, typer.Option(metavar="NAME", help="The model that --guard stands before.")
    ] = None,
    follow: Annotated[
        bool, typer.Option(help="Serve another version as soon as the alias points to it; a number is not followed.")
    ] = True,
    bare: Annotated[bool, typer.Option("--bare", help="The policy alone: no plan, no check.")] = False,
    backend: Annotated[
        Backend,
        typer.Option(help="What draws the completions: this process, or a vLLM server that it starts. --bare: whose server."),
    ] = Backend.TRANSFORMERS,
    host: Annotated[str, typer.Option(help="Where it listens; beyond this machine only with a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="And at which port.")] = 8000,
) -> None:
    """Serve a registered version as a whole: planner, policy under the plan's grammar, check, behind OpenAI's chat completions.

    The message's `content` is the answer, `reasoning_content` its trace, the field `saferflow` plan, verdict and version. Its
    files are compared with the registry's hashes first, and with its signature where gate.public_key asks for one. On another
    address than this machine's own, callers must show the key in SAFERFLOW_SERVE_KEY.

    A version that is named by an alias is followed: where the alias moves, the other version is loaded beside the served one and
    takes its place. No request is lost; a version that cannot be loaded leaves the served one.

    Where serve.traces of params.yaml is set, each answered request becomes a trace in MLflow: plan, generate, check, redraw. It
    holds what user and policy said, but for the fields that serve.traces.redact names.

    `--guard` puts planner, trace and gate in front of another model: the policy decides, and where it decides `answer` that model
    answers. Its server's key is read from SAFERFLOW_GUARD_KEY.

    With `--backend vllm` a vLLM server of its own draws the version's completions and batches them as they come; it listens on
    loopback, with a key that nobody else has. Further options go to `vllm serve` as they are. Where vLLM is installed in another
    environment, SAFERFLOW_VLLM is the path of its program.

    `--bare` starts transformers' own server, or vLLM's, on the policy alone; further options go to that server.

    Examples:

    `saferflow serve` · `saferflow serve v3 --port 8001` · `saferflow serve --bare` ·
    `saferflow serve --guard http://127.0.0.1:9000/v1 --guard-model big` ·
    `saferflow serve --backend vllm --max-model-len 8192` ·
    `VLLM_API_KEY=… saferflow serve --bare --backend vllm --host 0.0.0.0`
    """
    root, params = project()
    arguments = context.args
    if version.startswith("-"):  # without a version, click takes the first further option for it
        version, arguments = "champion", [version, *arguments]
    from rich.console import Console

    from saferflow.cli.serve import serve_bare, serve_system

    console = Console(highlight=False, soft_wrap=True)
    if (guard is None) != (guard_model is None):
        raise typer.BadParameter("--guard URL and --guard-model NAME go together")
    if bare:
        if guard:
            raise typer.BadParameter("--guard wants the whole system, not a --bare policy")
        serve_bare(
            console, root, params, version, backend=backend.value, host=host, port=port, arguments=arguments
        )  # fmt: skip
        return
    if arguments and backend is not Backend.VLLM:
        raise typer.BadParameter(f"{' '.join(arguments)}: such options go to --bare or --backend vllm")
    serve_system(
        console,
        root,
        params,
        version,
        host=host,
        port=port,
        backend=backend.value,
        arguments=arguments,
        guard=(guard, guard_model) if guard and guard_model else None,
        follow=follow,
    )
