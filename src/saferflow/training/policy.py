"""Policies on disk: a Qwen2.5-VL model with its processor, loaded and saved as safetensors.

The processor is Qwen2.5-VL's without its video part, which needs torchvision; it is saved under the published class
name, so that the standard `AutoProcessor` loads it where torchvision is installed. Source: ours.
"""

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saferflow.errors import PolicyError
from saferflow.params import PolicyParams
from saferflow.shell import hides_gpus
from saferflow.training.packed import unpack

POINTER = "SOURCE"
"""A base folder that holds only this file names a published checkpoint instead of holding weights."""
NEEDED = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
"""Tokens that Qwen2.5-VL's chat template writes."""


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


def _refuse_what_is_no_policy(where: str) -> None:
    """Say what stands there instead of a Qwen2.5-VL, before weights are read."""
    if (Path(where) / "adapter_config.json").exists():
        raise PolicyError(
            f"{where} holds an adapter, not a whole policy; merge it into its base (PEFT's merge_and_unload) and save that"
        )
    try:
        kind = AutoConfig.from_pretrained(where, trust_remote_code=False).model_type
    except (OSError, ValueError) as error:
        raise PolicyError(
            f"{where}: no model's configuration could be read ({error}); run `saferflow run`, or set policy.base"
        ) from None
    if kind != "qwen2_5_vl":
        raise PolicyError(f"{where} is a {kind}, not a qwen2_5_vl; set policy.base to a Qwen2.5-VL checkpoint")


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
    missing = [token for token in NEEDED if token not in tokenizer.get_vocab()]
    if missing or tokenizer.chat_template is None:
        lacks = ", ".join([*missing, *(["a chat template"] if tokenizer.chat_template is None else [])])
        raise PolicyError(f"{where}: the tokenizer lacks {lacks}; take the tokenizer of a Qwen2.5-VL checkpoint")
    tokenizer.padding_side = "left"
    return Qwen2_5_VLProcessor(images, tokenizer, chat_template=tokenizer.chat_template)


def load_model(folder: Path, params: PolicyParams) -> Qwen2_5_VLForConditionalGeneration:
    """The weights of a policy, from safetensors alone.

    Raises:
        PolicyError: there is none, it is another kind of model, an adapter or damaged, or the GPU that the params want is
            not there.
    """
    where = source(folder)
    _refuse_what_is_no_policy(where)
    device(params)
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


def save_policy(
    folder: Path,
    model: torch.nn.Module,
    processor: Qwen2_5_VLProcessor,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write weights (adapters merged) and processor, so that the folder is a whole policy again.

    Args:
        weights: the model's, where it holds only a share of them.
    """
    unpack(model)
    if hasattr(model, "merge_and_unload"):
        model, weights = model.merge_and_unload(), None
    if weights and model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)


def device(params: PolicyParams) -> torch.device:
    """The GPU where there is one, else the CPU.

    Raises:
        PolicyError: the params want a GPU and there is none.
    """
    if params.device == "cuda" and not torch.cuda.is_available():
        raise PolicyError(
            f"policy.device is cuda and no GPU is to be seen ({hides_gpus() or 'torch.cuda.is_available() is false'}); "
            "run on a GPU node, install a CUDA build of torch, or set policy.device to auto"
        )
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
