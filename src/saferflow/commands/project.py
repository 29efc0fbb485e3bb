"""The project that a command is called in."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saferflow.commands.folder import missing
from saferflow.errors import PipelineError

if TYPE_CHECKING:  # what reads params takes a moment, and --help does not want it
    from saferflow.params import Params

PARAMS = Path("params.yaml")
Policies = Annotated[
    list[str],
    typer.Argument(
        metavar="POLICY...",
        help="base, sft, dpo, grpo; a registered version as v3, or champion, candidate, previous; or a policy's folder.",
    ),
]
"""The argument that names policies."""


class Format(StrEnum):
    """How a command prints."""

    TEXT = "text"
    JSON = "json"


def project() -> tuple[Path, "Params"]:
    """The project's folder and its parameters, with the environment prepared.

    Raises:
        PipelineError: the working directory is no project's.
        ParamsError: the parameters are wrong.
    """
    from saferflow.params import load_params
    from saferflow.tracking import environment

    root = project_folder()
    params = load_params(PARAMS)
    environment.prepare()
    if params.policy.base == "embedded" or Path(params.policy.base).exists():
        environment.offline()
    return root, params


def project_folder() -> Path:
    """The project's folder. Its `flows` can be imported from now on: they lie there and are not installed.

    Raises:
        PipelineError: the working directory is no project's.
    """
    root = Path.cwd()
    if lacks := missing(root):
        raise PipelineError(f"{root} has no {', '.join(lacks)}; run saferflow in the project's folder")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    return root
