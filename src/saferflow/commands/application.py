"""What every command's application has in common: help in Markdown, no completion of shells, calls from a subfolder."""

import typer

from saferflow.commands.folder import FromSubfolder


def single() -> typer.Typer:
    """The application of a file with one command."""
    return typer.Typer(add_completion=False, rich_markup_mode="markdown")


def group(purpose: str) -> typer.Typer:
    """The application of a file whose commands go by two words."""
    return typer.Typer(
        cls=FromSubfolder, no_args_is_help=True, add_completion=False, rich_markup_mode="markdown", help=purpose
    )
