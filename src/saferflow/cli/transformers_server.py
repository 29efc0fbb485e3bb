"""`transformers serve` for a policy's folder, also where torchvision is missing: its loader wants it for videos alone.

`python -m saferflow.cli.transformers_server FOLDER [options of transformers serve]`
"""

import sys
from importlib.util import find_spec
from typing import Any

import typer
from transformers import AutoProcessor, AutoTokenizer
from transformers.cli.serve import Serve
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saferflow.training.policy import Qwen2_5_VLProcessor


def main() -> None:
    """Serve the folder that is named first."""
    if find_spec("torchvision") is None:
        AutoProcessor.from_pretrained = staticmethod(for_images)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(Serve)
    app(args=sys.argv[1:])


def for_images(where: str, **_: Any) -> Qwen2_5_VLProcessor:
    """The folder's processor without its part for videos."""
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    images = Qwen2VLImageProcessorPil.from_pretrained(where)
    return Qwen2_5_VLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


if __name__ == "__main__":
    main()
