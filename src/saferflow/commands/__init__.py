"""The command `saferflow`: a file a command, imported as it is called.

Heavy imports are inside the commands, so that help comes at once.
"""

import gc
import sys
from importlib import import_module

import click
import typer

from saferflow.commands.folder import FromSubfolder
from saferflow.errors import SaferflowError
from saferflow.shell import settle, unprintable
from saferflow.stages.entry import bound_waiting

NAMES = (
    "run", "init", "queue", "retrain", "status", "chat", "check", "evaluate", "attack", "general", "judge", "label", "audit",
    "compare", "promote", "approve", "rollback", "ledger", "export", "serve", "sign", "verify", "data", "incident", "lineage",
    "doctor", "rehearse", "ui", "stop",
)  # fmt: skip
"""Commands and groups of commands, as the help lists them; each is a module of this package."""


class Commands(FromSubfolder):
    """Imports the module of a command when the command is called."""

    def list_commands(self, _: click.Context) -> list[str]:
        """Names of all commands, in the order of the help."""
        return list(NAMES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; its module is imported here. None if there is no such command."""
        if cmd_name in NAMES and cmd_name not in self.commands:
            command = typer.main.get_command(import_module(f"{__name__}.{cmd_name}").app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Scheduled safety alignment of a vision-language model: DVC decides what must run, Prefect runs it, MLflow remembers.

Run it in the project's folder, or in a folder below it. To begin: `saferflow doctor`, then `saferflow run`.""",
)


@app.callback()
def saferflow() -> None:
    """Makes a group of the application although its commands come later."""


def main() -> None:
    """Entry point: an error that a user can mend is printed without its traceback."""
    settle()
    if odd := unprintable(sys.argv[1:]):
        print(
            f"error: an argument is not UTF-8: {odd[0]!a:.200}; write it as UTF-8, or rename the file", file=sys.stderr
        )
        raise SystemExit(2)
    bound_waiting()
    gc.set_threshold(100_000, 20, 100)  # what is imported stays: looking for garbage among it was a fifth of the start
    try:
        app()
    except SaferflowError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Exception as error:
        from saferflow.tracking.trouble import explained

        if (line := explained(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(1) from None
