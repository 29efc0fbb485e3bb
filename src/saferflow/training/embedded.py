"""The embedded base policy before training: a BPE tokenizer, a processor and a small Qwen2.5-VL with random weights.

Source: the architecture, chat format and special tokens are Qwen2.5-VL's; sizes and the tokenizer's word pieces are ours.
"""

from collections.abc import Iterable

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from saferflow.params import BaseParams, PolicyParams
from saferflow.training.processor import Qwen2_5_VLProcessor

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip

# A tool's name, a tag and a field's key are words of their own here, which keeps traces short for a small model.
_WORDS = r"\[[A-Z0-9_-]+\]: |</?[a-z]+>\n?|(?:; )?[a-z]+=|[A-Z]+(?:-[A-Z]+)+|[0-9]\.[0-9]| ?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+|\s+"

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_level(pattern: str) -> Tokenizer:
    """A byte-level BPE tokenizer that has learnt no words yet, and splits texts by a pattern."""
    tokenizer = Tokenizer(models.BPE())
    split, signs = pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, signs])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer over the texts, with Qwen's special tokens and chat format."""
    tokenizer = byte_level(_WORDS)
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_processor(tokenizer: PreTrainedTokenizerFast, policy: PolicyParams) -> Qwen2_5_VLProcessor:
    """The processor with this tokenizer, Qwen's chat template, and the image bounds of the params."""
    images = Qwen2VLImageProcessorPil(size={"shortest_edge": policy.min_pixels, "longest_edge": policy.max_pixels})
    return Qwen2_5_VLProcessor(images, tokenizer, chat_template=CHAT_TEMPLATE)


def build_model(base: BaseParams, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of the given sizes with random weights; equal seeds give equal weights."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    half = base.hidden_size // base.heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": base.hidden_size,
            "intermediate_size": base.intermediate_size,
            "num_hidden_layers": base.layers,
            "num_attention_heads": base.heads,
            "num_key_value_heads": base.kv_heads,
            "max_position_embeddings": 2048,
            "initializer_range": base.initializer_range,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [half - 2 * (half * 3 // 8), half * 3 // 8, half * 3 // 8],
            },
            "bos_token_id": None,
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        vision_config={
            "depth": base.vision_layers,
            "hidden_size": base.vision_hidden_size,
            "intermediate_size": base.vision_intermediate_size,
            "num_heads": base.vision_heads,
            "out_hidden_size": base.hidden_size,
            "fullatt_block_indexes": list(range(base.vision_layers)),
            "window_size": 112,
            "initializer_range": base.initializer_range,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        initializer_range=base.initializer_range,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"], do_sample=False
    )
    return model
