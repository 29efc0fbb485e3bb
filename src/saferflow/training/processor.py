"""Loads Qwen2.5-VL's processor for images and text from a checkpoint in any published layout, and saves it.

It is Qwen2.5-VL's without its video part, which needs torchvision; it is saved under the published class name and with the
video part's settings, so that the standard `AutoProcessor` loads it where torchvision is installed. Source: ours.
"""

import json
from pathlib import Path
from typing import Any

import transformers
from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, BatchFeature, PreTrainedTokenizerBase
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saferflow.errors import PolicyError
from saferflow.params import PolicyParams
from saferflow.training.conversation import chat
from saferflow.training.encoding import quoted, token_ids
from saferflow.training.weights import SHORT, UNREADABLE

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
NEEDED = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", IMAGE)
"""Tokens that Qwen2.5-VL's chat template writes."""
PROCESSOR = "processor_config.json"
FRAME_SIZE = {"shortest_edge": 128 * 28 * 28, "longest_edge": 768 * 28 * 28}
"""Bounds of a video's frame in pixels, from transformers' Qwen2VLVideoProcessor."""
TEMPLATE_REMEDY = "take chat_template.json or chat_template.jinja of a Qwen2.5-VL-Instruct checkpoint"


class Qwen2_5_VLProcessor(transformers.Qwen2_5_VLProcessor):
    """Qwen2.5-VL's processor for images and text; the texts of messages become no control token (`encoding`)."""

    def __init__(
        self, image_processor: Any = None, tokenizer: Any = None, chat_template: str | None = None, **kwargs: Any
    ):
        self.image_token, self.video_token = IMAGE, VIDEO
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        **kwargs: Any,
    ) -> Any:
        """The published method on quoted messages; only this processor may read the rendered text."""
        kwargs.pop("sanitize_control_tokens", None)  # transformers' own marks: there is nothing left for them to do
        quoted_arguments = (quoted(self.tokenizer, argument) for argument in (conversation, tools, documents, kwargs))
        conversation, tools, documents, kwargs = quoted_arguments
        return super().apply_chat_template(
            conversation, chat_template=chat_template, tools=tools, documents=documents, **kwargs
        )

    def __call__(self, images: list | None = None, text: list[str] | str | None = None, **kwargs: Any) -> BatchFeature:
        """The model's inputs for conversations that `apply_chat_template` rendered.

        Args:
            images: of each text; None stands for a text without one: TRL's GRPO asks so of a mixed batch.
            text: as rendered; every control token in it is one.

        Returns:
            `input_ids`, `attention_mask` and `mm_token_type_ids` (texts, tokens); `pixel_values` (patches, channels) and
            `image_grid_thw` (images, 3) where there are images.

        Raises:
            ValueError: there are more or fewer images than the texts have places for, or the texts are to be cut off.
        """
        if isinstance(images, list):
            images = [image for image in images if image is not None] or None
        if text is None:
            return super().__call__(images=images, **kwargs)
        images, text, _, _ = self.prepare_inputs_layout(images=images, text=text)
        self.validate_inputs(images=images, text=text)
        merged = self._merge_kwargs(tokenizer_init_kwargs=self.tokenizer.init_kwargs, **kwargs)
        options = merged["text_kwargs"]
        if options.get("truncation"):
            raise ValueError("a conversation that is cut off may lose part of an image; pass no truncation")
        shown, places = self._process_images(images, **merged["images_kwargs"]) if images is not None else ({}, [])
        text, _ = self.get_text_with_replacements(text, places)
        padded = self._padded(token_ids(self.tokenizer, text), options)
        kinds = {"mm_token_type_ids": self.create_mm_token_type_ids(padded["input_ids"])}
        tensors = options.get("return_tensors")
        return BatchFeature({**padded, **kinds, **shown}, tensor_type=tensors)

    def _padded(self, ids: list[list[int]], options: dict[str, Any]) -> dict[str, list[list[int]]]:
        self.tokenizer.deprecation_warnings["Asking-to-pad-a-fast-tokenizer"] = True
        names = ("padding", "padding_side", "max_length", "pad_to_multiple_of")
        wanted = {name: options[name] for name in names if options.get(name) is not None}
        return dict(self.tokenizer.pad({"input_ids": ids}, **{"padding": False} | wanted, return_attention_mask=True))

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model's inputs that this processor makes."""
        names = [*self.tokenizer.model_input_names, *self.image_processor.model_input_names, "mm_token_type_ids"]
        return list(dict.fromkeys(names))

    def save_pretrained(self, save_directory: Path | str, **kwargs: Any) -> Any:
        """Write the processor's files, and what the published classes read beside them.

        `processor_config.json` holds images' and videos' settings, as transformers 5 reads them; `preprocessor_config.json` and
        `video_preprocessor_config.json` hold the same for releases before it, which vLLM may use.
        """
        written = super().save_pretrained(save_directory, **kwargs)
        folder = Path(save_directory)
        whole = json.loads((folder / PROCESSOR).read_text(encoding="utf-8"))
        whole["video_processor"] = videos = video_settings(whole["image_processor"])
        for name, content in (
            (PROCESSOR, whole),
            ("preprocessor_config.json", whole["image_processor"] | {"processor_class": whole["processor_class"]}),
            ("video_preprocessor_config.json", videos | {"processor_class": whole["processor_class"]}),
        ):
            (folder / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return written


def video_settings(images: dict[str, Any]) -> dict[str, Any]:
    """The settings of Qwen2.5-VL's video processor beside those of its images; frames have the published bounds."""
    shared = (
        "do_convert_rgb", "do_normalize", "do_rescale", "do_resize", "image_mean", "image_std", "merge_size", "patch_size",
        "resample", "rescale_factor", "temporal_patch_size",
    )  # fmt: skip
    return {name: images[name] for name in shared} | {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "size": FRAME_SIZE,
    }


def read_processor(where: str, params: PolicyParams, revision: str | None = None) -> Qwen2_5_VLProcessor:
    """The processor of a checkpoint, with the image bounds of the params.

    Args:
        where: a folder, or a name on the hub.
        revision: commit, tag or branch of a name on the hub; None for the newest.

    Raises:
        PolicyError: it cannot be read, or it does not fit the model beside it or Qwen2.5-VL's chat format.
    """
    bounds = {
        "min_pixels": params.min_pixels,
        "max_pixels": params.max_pixels,
    }  # above what the file has on its top level
    size = {"shortest_edge": params.min_pixels, "longest_edge": params.max_pixels}
    revision = revision or "main"
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, revision=revision, trust_remote_code=False)
        images = Qwen2VLImageProcessorPil.from_pretrained(where, revision=revision, size=size, **bounds)
        template = chat_template(where, tokenizer, revision)
        config = AutoConfig.from_pretrained(where, revision=revision, trust_remote_code=False)
    except UNREADABLE as error:
        raise PolicyError(
            f"{where}: no processor could be loaded ({str(error)[:SHORT]}); run `saferflow run`, or set policy.base"
        ) from None
    _refuse_tokenizer(where, tokenizer, template, config)
    tokenizer.padding_side = "left"
    tokenizer.chat_template = template
    processor = Qwen2_5_VLProcessor(images, tokenizer, chat_template=template)
    refuse_template(where, processor)
    return processor


def chat_template(where: str, tokenizer: PreTrainedTokenizerBase, revision: str = "main") -> str | None:
    """The chat template: of chat_template.json or chat_template.jinja, as the published processor, else of the tokenizer."""
    template = (
        Qwen2_5_VLProcessor.get_processor_dict(where, revision=revision)[0].get("chat_template")
        or tokenizer.chat_template
    )
    return template.get("default") if isinstance(template, dict) else template


def _refuse_tokenizer(
    where: str, tokenizer: PreTrainedTokenizerBase, template: str | None, config: transformers.PretrainedConfig
) -> None:
    """Refuse a tokenizer that lacks a token, or whose ids the model beside it lacks or has differently."""
    vocabulary = tokenizer.get_vocab()
    lacks = [
        *(token for token in NEEDED if token not in vocabulary),
        *(["a chat template"] if template is None else []),
    ]
    if lacks:
        raise PolicyError(
            f"{where}: the tokenizer lacks {', '.join(lacks)}; take the tokenizer of a Qwen2.5-VL checkpoint"
        )
    if not tokenizer.is_fast:
        raise PolicyError(f"{where}: the tokenizer has no tokenizer.json; add the file of a Qwen2.5-VL checkpoint")
    text = config.get_text_config()
    beyond = [token for token, number in vocabulary.items() if number >= text.vocab_size]
    if beyond:
        raise PolicyError(
            f"{where}: {len(beyond):,} of the tokenizer's {len(vocabulary):,} tokens, as {min(beyond)[:SHORT]!r}, have no row "
            f"in the model's embedding, which has {text.vocab_size:,}; take the tokenizer that belongs to these weights, or "
            "resize the embedding (resize_token_embeddings) and save it"
        )
    for token, name in ((IMAGE, "image_token_id"), ("<|vision_start|>", "vision_start_token_id")):
        if getattr(config, name, vocabulary[token]) != vocabulary[token]:
            raise PolicyError(
                f"{where}: {token} is {vocabulary[token]} in the tokenizer and {getattr(config, name)} in config.json "
                f"({name}); take the tokenizer that belongs to these weights"
            )


def refuse_template(where: str, processor: Qwen2_5_VLProcessor) -> None:
    """Refuse a chat template that does not put an image and each turn where Qwen2.5-VL was trained to see them.

    Raises:
        PolicyError: it does not; the message lists the faults.
    """
    conversation = chat("Be brief.", "What now?", True, [("Who?", "Nobody.")])
    parts = [
        turn | {"content": [{"type": "text", "text": turn["content"]}]} if isinstance(turn["content"], str) else turn
        for turn in conversation
    ]
    answered = [*conversation, {"role": "assistant", "content": "Nothing."}]
    try:
        prompt, in_parts = (
            processor.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            for turns in (conversation, parts)
        )
        whole = processor.apply_chat_template(answered, tokenize=False)
    except (TemplateError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise PolicyError(
            f"{where}: the chat template cannot render a question about an image ({str(error)[:SHORT]}); {TEMPLATE_REMEDY}"
        ) from None
    wrong = _faults_of(prompt, in_parts, whole)
    if wrong:
        raise PolicyError(f"{where}: the chat template {'; it '.join(wrong)}; {TEMPLATE_REMEDY}")


def _faults_of(prompt: str, in_parts: str, whole: str) -> list[str]:
    """The faults in the rendered probe of `refuse_template`."""
    fragments = (
        "Be brief.<|im_end|>",
        f"<|vision_start|>{IMAGE}<|vision_end|>",
        "Who?<|im_end|>",
        "Nobody.<|im_end|>",
        "What now?",
    )
    places = [prompt.find(words) for words in fragments]
    return [
        fault
        for fault, happens in (
            ("writes no image token: it is for text alone", IMAGE not in prompt),
            ("writes several tokens for one image", prompt.count(IMAGE) > 1),
            (
                "leaves out a turn or changes their order",
                IMAGE in prompt and (-1 in places or places != sorted(places)),
            ),
            ("renders a text otherwise where it is a list of parts", prompt != in_parts),
            ("does not begin an answer where a prompt ends", not whole.startswith(f"{prompt}Nothing.<|im_end|>")),
        )
        if happens
    ]
