"""`transformers serve` for a policy's folder, with the processor that it was trained and evaluated with.

So a message cannot bring a control token (`training/encoding.py`), and torchvision, which transformers' loader wants for
videos, may be missing.

`python -m saferflow.cli.transformers_server FOLDER [options of transformers serve]`
"""

import sys
from typing import Any

import typer
from transformers import AutoProcessor, AutoTokenizer
from transformers.cli.serve import Serve
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saferflow.training.processor import Qwen2_5_VLProcessor, chat_template


def main() -> None:
    """Serve the folder in the first argument."""
    AutoProcessor.from_pretrained = staticmethod(for_images)
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(Serve)
    app(args=sys.argv[1:])


class ServedProcessor(Qwen2_5_VLProcessor):
    """A policy's processor that renders every request with the policy's own template."""

    def apply_chat_template(self, conversation: Any, chat_template: str | None = None, **kwargs: Any) -> Any:
        """Ignore the template of a request (`chat_template_kwargs`), since it could write control tokens."""
        return super().apply_chat_template(conversation, **kwargs)


def for_images(where: str, **_: Any) -> ServedProcessor:
    """The folder's processor without its part for videos."""
    tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
    images = Qwen2VLImageProcessorPil.from_pretrained(where)
    return ServedProcessor(images, tokenizer, chat_template=chat_template(where, tokenizer))


if __name__ == "__main__":
    main()
