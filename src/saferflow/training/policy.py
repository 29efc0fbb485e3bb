"""Policies on disk: a Qwen2.5-VL model with its processor, loaded and saved as safetensors.

The processor is Qwen2.5-VL's without its video part, which needs torchvision; it is saved under the published class
name, so that the standard `AutoProcessor` loads it where torchvision is installed. Source: ours.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saferflow.errors import PolicyError
from saferflow.params import PolicyParams

POINTER = "SOURCE"
"""A base folder that holds only this file names a published checkpoint instead of holding weights."""


class Qwen2_5_VLProcessor(transformers.Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor for images and text."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ):
        self.image_token = "<|image_pad|>"
        self.video_token = "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def __call__(self, images: list | None = None, text: list[str] | None = None, **kwargs: Any) -> Any:
        """As published, and `images` may hold None for a text without one: TRL's GRPO asks so of a mixed batch."""
        if isinstance(images, list):
            images = [image for image in images if image is not None] or None
        return super().__call__(images=images, text=text, **kwargs)

    @property
    def model_input_names(self) -> list[str]:
        names = [*self.tokenizer.model_input_names, *self.image_processor.model_input_names, "mm_token_type_ids"]
        return list(dict.fromkeys(names))


def source(folder: Path) -> str:
    """Where a policy's files are: the folder itself, or the checkpoint that it points to."""
    if not folder.is_dir():
        raise PolicyError(f"{folder}: no such folder; run `saferflow run` to make the policy")
    pointer = folder / POINTER
    return pointer.read_text(encoding="utf-8").strip() if pointer.exists() else str(folder)


def load_processor(folder: Path, params: PolicyParams) -> Qwen2_5_VLProcessor:
    """The processor of a policy, with the image bounds of the params."""
    where = source(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        images = Qwen2VLImageProcessorPil.from_pretrained(
            where, size={"shortest_edge": params.min_pixels, "longest_edge": params.max_pixels}
        )
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{where}: no processor could be loaded ({error}); run `saferflow run`, or set policy.base"
        ) from None
    tokenizer.padding_side = "left"
    return Qwen2_5_VLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def load_model(folder: Path, params: PolicyParams) -> Qwen2_5_VLForConditionalGeneration:
    """The weights of a policy, from safetensors alone."""
    where = source(folder)
    try:
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            where, dtype=getattr(torch, params.dtype), use_safetensors=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{where}: no Qwen2.5-VL could be loaded ({error}); run `saferflow run`, or set policy.base"
        ) from None
    if not params.train_vision:
        for parameter in model.model.visual.parameters():
            parameter.requires_grad_(False)
    return model


def save_policy(folder: Path, model: torch.nn.Module, processor: Qwen2_5_VLProcessor) -> None:
    """Write weights (adapters merged) and processor, so that the folder is a whole policy again."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
