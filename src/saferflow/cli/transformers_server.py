"""`transformers serve` for a policy's folder, also where torchvision is missing: its loader wants it for videos alone.

`python -m saferflow.cli.transformers_server FOLDER [options of transformers serve]`
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from transformers import AutoProcessor
from transformers.cli.serve import Serve

from saferflow.params import load_params
from saferflow.training.policy import load_processor


def main() -> None:
    """Serve the folder that is named first."""
    if find_spec("torchvision") is None:
        policy = load_params().policy

        def for_images(where: str, **_: Any) -> Any:
            return load_processor(Path(where), policy)

        AutoProcessor.from_pretrained = staticmethod(for_images)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(Serve)
    app(args=sys.argv[1:])


if __name__ == "__main__":
    main()
