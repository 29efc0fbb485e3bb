"""The checkpoint that a rehearsal starts from: the profile's own, or random weights in the files of a published one.

The flat configuration, two names of tensors, shards with an index and the template apart are as published; the tokenizer has
Qwen's rules, its added tokens under their ids and as many words, of which a few thousand were learnt here and the others stand
for words that no text of ours makes. Source: Qwen/Qwen2.5-VL-3B-Instruct's files, their forms and numbers alone.
"""

import json
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from saferflow.errors import PolicyError
from saferflow.rehearsal.obstacles import no_room
from saferflow.rehearsal.recipe import THIN
from saferflow.training.architectures import SIZES, architecture
from saferflow.training.embedded import CHAT_TEMPLATE, byte_level
from saferflow.training.weights import INDEX

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
PLAIN = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
LEARNT = 6000
"""The most words that the tokenizer learns here."""
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPREAD = 0.02
"""Standard deviation of the random weights."""
SHARD = 2**31
"""Approximate bytes of one file of weights."""
IMAGES = {
    "min_pixels": 3136, "max_pixels": 12_845_056, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2_5_VLProcessor",
}  # fmt: skip
GENERATION = {"do_sample": True, "repetition_penalty": 1.05, "temperature": 0.000001}


def at_hand(base: str) -> Path | None:
    """The folder of a checkpoint on this machine, its own or the hub's cache; None if there is none."""
    folder = Path(base)
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(base, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError):
            return None
    return folder if any(folder.glob("*.safetensors")) else None


def published_config(base: str, folder: Path | None) -> dict[str, Any]:
    """The content of a checkpoint's `config.json`: of its folder, or as published by its name.

    Raises:
        PolicyError: it is not at hand, and its name is none of the published ones.
    """
    if folder is not None:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))
    size = re.search(r"qwen2\.5-vl-(\w+?)-instruct", base.lower())
    if size is None or size[1] not in SIZES:
        known = ", ".join(f"Qwen/Qwen2.5-VL-{name.upper()}-Instruct" for name in SIZES)
        raise PolicyError(
            f"policy.base {base} is not on this machine, and its sizes are not known here (they are of {known}); "
            "fetch it and name its folder in policy.base"
        )
    return _flat(architecture(size[1]))


def _flat(config: Qwen2_5_VLConfig) -> dict[str, Any]:
    """The configuration as published before transformers 5, with the language model's fields at the top level."""
    text, vision = config.text_config.to_dict(), config.vision_config.to_dict()
    rope = text["rope_parameters"]
    names = (
        "hidden_act", "hidden_size", "initializer_range", "intermediate_size", "max_position_embeddings",
        "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "vocab_size",
        "bos_token_id", "eos_token_id",
    )  # fmt: skip
    seen = (
        "depth", "hidden_act", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size",
        "spatial_merge_size", "window_size", "fullatt_block_indexes", "tokens_per_second", "temporal_patch_size",
    )  # fmt: skip
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **{name: text[name] for name in names},
        **{name: getattr(config, name) for name in ids},
        "rope_theta": rope["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.41.2",
        "vision_config": {**{name: vision[name] for name in seen}, "in_chans": 3, "spatial_patch_size": 14},
    }


def cut(config: dict[str, Any], layers: int = THIN) -> dict[str, Any]:
    """The configuration with so many layers and vision blocks; the last block attends to the whole image."""
    text = config.get("text_config", {})
    fewer = {"text_config": {**text, "num_hidden_layers": layers}} if "num_hidden_layers" in text else {}
    fewer |= {"num_hidden_layers": layers} if "num_hidden_layers" in config else {}
    text_types = {"layer_types", "max_window_layers"}
    for part in (fewer.get("text_config", {}), config := {**config, **fewer}):
        for name in text_types & part.keys():
            part.pop(name)
    return {
        **config,
        "vision_config": {**config["vision_config"], "depth": layers, "fullatt_block_indexes": [layers - 1]},
    }


def with_words(config: dict[str, Any], words: int) -> dict[str, Any]:
    """The configuration with so many words and the added tokens after them, for a machine that cannot hold all."""
    names = {"bos_token_id": "<|endoftext|>", "eos_token_id": "<|im_end|>", "vision_start_token_id": "<|vision_start|>"}
    names |= {
        "vision_end_token_id": "<|vision_end|>",
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
    }
    ids = {name: words + SPECIAL.index(token) for name, token in names.items()}
    return config | ids | {"vocab_size": words + len(SPECIAL) + len(PLAIN)}


def write_checkpoint(folder: Path, config: dict[str, Any], like: Path | None, texts: Iterable[str], seed: int) -> None:
    """Write a checkpoint of random weights with a published one's files.

    Args:
        like: a checkpoint at hand, whose tokenizer, template and image settings are taken; None writes them.
        texts: what the tokenizer learns its words from.

    Raises:
        PolicyError: the disk has no room for it.
    """
    folder.mkdir(parents=True)
    if like is not None:
        for file in like.iterdir():
            if file.is_file() and file.suffix != ".safetensors" and file.name not in (INDEX, "config.json"):
                shutil.copyfile(file, folder / file.name)
    else:
        _write_tokenizer(folder, texts, config["image_token_id"] - SPECIAL.index("<|image_pad|>"))
        _write(folder / "preprocessor_config.json", IMAGES)
        _write(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
        begin, end = config["bos_token_id"], config["eos_token_id"]
        ids = {"bos_token_id": begin, "pad_token_id": begin, "eos_token_id": [end, begin]}
        _write(folder / "generation_config.json", GENERATION | ids)
    _write(folder / "config.json", config)
    _write_weights(folder, seed)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _write_tokenizer(folder: Path, texts: Iterable[str], size: int) -> None:
    """Write a byte-level BPE tokenizer of Qwen's rules with `size` words, its added tokens behind them as Qwen has them."""
    tokenizer = byte_level(SPLIT)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=min(LEARNT, size), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    words = learnt["vocab"]
    words |= {f"Ġunused{number}": number for number in range(len(words), size)}
    tokenizer.model = models.BPE(words, [tuple(pair) for pair in learnt["merges"]])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in PLAIN])
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer.model.save(str(folder))
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        str(tokenizer.token_to_id(token)): {"content": token, "special": token in SPECIAL, **flags}
        for token in SPECIAL + PLAIN
    }
    settings = {
        "add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added,
        "additional_special_tokens": list(SPECIAL[1:]), "bos_token": None, "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 131_072, "pad_token": "<|endoftext|>",
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "unk_token": None,
    }  # fmt: skip
    _write(folder / "tokenizer_config.json", settings)


def _write_weights(folder: Path, seed: int) -> None:
    """Write random weights in bfloat16, holding one file at a time in memory, with an index."""
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_pretrained(folder))
    tied = model.config.tie_word_embeddings
    shapes = {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value.shape
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    total = sum(2 * shape.numel() for shape in shapes.values())
    if total > (free := shutil.disk_usage(folder).free):
        raise PolicyError(no_room(total, free, folder.parent.parent, "random weights (TMPDIR says where)"))
    parts = list(_shards(shapes))
    source, index = torch.Generator().manual_seed(seed), {}
    for number, names in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(
            {name: _drawn(name, shapes[name], source) for name in names}, folder / file, metadata={"format": "pt"}
        )
        index |= dict.fromkeys(names, file)
    _write(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": index})


def _drawn(name: str, shape: torch.Size, source: torch.Generator) -> torch.Tensor:
    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1:  # of a norm
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, SPREAD, generator=source)


def _shards(shapes: dict[str, torch.Size]) -> Iterator[list[str]]:
    """The names of the files, at least two, as published checkpoints have them."""
    most = min(SHARD, sum(2 * shape.numel() for shape in shapes.values()) // 2 + 1)
    part: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if part and size + 2 * shape.numel() > most:
            yield part
            part, size = [], 0
        part.append(name)
        size += 2 * shape.numel()
    yield part
