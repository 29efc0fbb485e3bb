"""Commands called in a subfolder of the project: like git's, they run in the project's folder, on paths of the subfolder."""

import os
import re
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

MARKS = ("dvc.yaml", "params.yaml", "flows")
"""Files and folders that every project's folder holds."""
RELATIVE = re.compile(r"[^/].{0,1000}", re.DOTALL)
"""Texts that may be a path of the subfolder: relative, and no longer than a path can be."""


def missing(folder: Path) -> list[str]:
    """The files and folders of `MARKS` that a folder lacks; none in a project's folder."""
    return [name for name in MARKS if not (folder / name).exists()]


def project_above(here: Path) -> Path | None:
    """The project that holds a folder; None if there is none, or if it belongs to another user."""
    owners = {os.geteuid(), here.stat().st_uid}
    for folder in (here, *here.parents):
        if not missing(folder):
            return folder if all((folder / name).stat().st_uid in owners for name in MARKS) else None
    return None


def moved(value: Any, here: Path, root: Path) -> Any:
    """An argument for the project's folder: relative paths that start at `here` start at `root` instead."""
    if isinstance(value, list | tuple):
        return type(value)(moved(item, here, root) for item in value)
    if isinstance(value, Path):
        return value if value == Path("-") or value.is_absolute() else Path(os.path.relpath(here / value, root))
    path_like = isinstance(value, str) and RELATIVE.fullmatch(value) and re.search("[/.]", value)
    return os.path.relpath(here / value, root) if path_like and (here / value).exists() else value


class FromSubfolder(TyperGroup):
    """Commands that enter the project's folder before they run."""

    def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:
        """The command of this name, which enters the project's folder first; None if there is no such command."""
        command = super().get_command(ctx, cmd_name)
        if command is None or isinstance(command, TyperGroup):
            return command
        run = command.invoke

        def invoke(context: typer.Context) -> Any:
            _enter(context)
            return run(context)

        command.invoke = invoke
        return command


def _enter(context: typer.Context) -> None:
    here = Path.cwd()
    root = project_above(here)
    if root is None or root == here:
        return
    os.chdir(root)
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            context.params[name] = moved(value, here, root)
