"""Reads a checkpoint's weights from safetensors, and accounts for every tensor before a policy is used.

transformers fills a tensor that a checkpoint lacks with random numbers and leaves out one that it does not know, and warns;
here each of them is an error with its name. Older names (`visual.*`, `model.layers.*`), which the published files have, are
transformers' own to translate. Source: ours.
"""

import json
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.utils import logging

from saferflow.errors import PolicyError
from saferflow.training.launch import is_main_process

INDEX = "model.safetensors.index.json"
LFS = b"version https://git-lfs"
FETCH = "fetch the checkpoint again, whole (git lfs pull, or hf download)"
HEAD = "lm_head.weight"
WRAPPERS = ("module.", "_orig_mod.", "base_model.model.", "base_model.", "_fsdp_wrapped_module.")
"""Prefixes that other tools add to the names of tensors: DistributedDataParallel, torch.compile, PEFT, FSDP."""
UNREADABLE = (
    OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, ImportError, SafetensorError
)  # fmt: skip
"""Exceptions of transformers for files that are missing, damaged, or of another kind, such as quantised ones."""
NAMED = 3
"""The most tensors that a message names."""
SHORT = 200
"""The most characters of another library's message in one of ours."""


def read_model(
    where: str, dtype: torch.dtype, revision: str | None = None, *, shared: object | None = None
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL with the weights of a checkpoint; prints how many tensors were loaded.

    Args:
        where: a folder, or a name on the hub.
        revision: commit, tag or branch of a name on the hub; None for the newest.
        shared: the result of `launch.shared_weights`; with it the model has this process's part of each weight.

    Raises:
        PolicyError: the weights cannot be read, or tensors are missing, surplus or of other shapes.
    """
    files = _files(Path(where)) if Path(where).is_dir() else []
    for file in files:
        _refuse_damaged(file)
    before = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of the same faults, a line a tensor
    try:
        model, loading_info = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            where,
            revision=revision or "main",
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # reported below, with the names
        )
    except UNREADABLE as error:
        raise PolicyError(
            f"{where}: no Qwen2.5-VL could be loaded ({str(error)[:SHORT]}); run `saferflow run`, or set policy.base"
        ) from None
    finally:
        logging.set_verbosity(before)
    _refuse_incomplete(
        where, model, loading_info if shared is None else loading_info | _accounted(_snapshot(where, revision), model)
    )
    count = len(model.state_dict())
    if is_main_process():
        at = f" at {revision}" if revision else ""
        part = "; this process holds {:,} of {:,} parameters".format(*_held(model)) if shared is not None else ""
        print(f"policy  {count} of {count} tensors loaded from {where}{at}{part}", file=sys.stderr, flush=True)
    return model


def _snapshot(where: str, revision: str | None) -> Path:
    """The folder that a checkpoint was loaded from."""
    if Path(where).is_dir():
        return Path(where)
    return Path(hf_hub_download(where, "config.json", revision=revision, local_files_only=True)).parent


def _accounted(folder: Path, model: Qwen2_5_VLForConditionalGeneration) -> dict[str, Any]:
    """Faults of a checkpoint from the names and shapes in its files, in transformers' form; with ZeRO-3 it reports few."""
    held: dict[str, tuple[int, ...]] = {}
    for file in _files(folder):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 no mapping
                held[_in_the_model(name)] = tuple(tensors.get_slice(name).get_shape())
    wanted = {
        name: tuple(getattr(value, "ds_shape", value.shape)) for name, value in model.state_dict(keep_vars=True).items()
    }
    tied = {HEAD} if model.config.tie_word_embeddings else set()
    return {
        "missing_keys": wanted.keys() - held.keys() - tied,
        "unexpected_keys": held.keys() - wanted.keys(),
        "mismatched_keys": [
            (name, held[name], wanted[name]) for name in held.keys() & wanted.keys() if held[name] != wanted[name]
        ],
    }


def _held(model: Qwen2_5_VLForConditionalGeneration) -> tuple[int, int]:
    """(parameters in this process, all parameters) of a model that processes share."""
    weights = list(model.parameters())
    return sum(weight.numel() + weight.ds_tensor.numel() for weight in weights), sum(
        weight.ds_numel for weight in weights
    )


def refuse_pointers(folder: Path) -> None:
    """Refuse a folder with Git LFS pointers in place of files; missing files are not checked.

    Raises:
        PolicyError: there are pointers; the message counts them and names some.
    """
    pointers = [path.name for path in folder.glob("*") if path.is_file() and _is_pointer(path)]
    if pointers:
        raise PolicyError(
            f"{folder}: {len(pointers)} files are Git LFS pointers, not what they stand for: {_some(pointers)}; {FETCH}"
        )


def float32_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the float32 tensors of a folder, which hold more than bfloat16, with their names in the model."""
    for file in _files(folder):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 no mapping
                if tensors.get_slice(name).get_dtype() == "F32":
                    yield _in_the_model(name), tensors.get_tensor(name)


def _in_the_model(name: str) -> str:
    """A tensor's name in the model, from its name in a file, also of the published form."""
    if name.startswith("visual."):
        return f"model.{name}"
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return f"model.language_model.{name.removeprefix('model.')}"
    return name


def _files(folder: Path) -> list[Path]:
    """The files with the weights: those of the index, or the single file; none if there is neither.

    Raises:
        PolicyError: the index cannot be read, or names files that are not there or tensors that they do not hold.
    """
    index = folder / INDEX
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not index.is_file():
        return []
    try:
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(placed.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PolicyError(f"{index} cannot be read as an index of safetensors; {FETCH}") from None
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise PolicyError(
            f"{folder}: {len(missing)} of the {len(names)} weight files that {INDEX} names are not there: {_some(missing)}; "
            f"{FETCH}"
        )
    return [folder / name for name in names]


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(len(LFS)) == LFS


def _refuse_damaged(file: Path) -> None:
    """Refuse a file whose content is incomplete."""
    try:
        with safe_open(file, "pt"):
            pass
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise PolicyError(
            f"{file} is cut off or damaged: its {size:,} bytes are no whole safetensors file ({str(error)[:SHORT]}); {FETCH}"
        ) from None


def _refuse_incomplete(where: str, model: Qwen2_5_VLForConditionalGeneration, loading_info: dict[str, Any]) -> None:
    """Refuse a model with a tensor that the checkpoint lacks, or without a tensor of the checkpoint."""
    missing, surplus = set(loading_info["missing_keys"]), set(loading_info["unexpected_keys"])
    shapes = {
        name: f"{tuple(held)} in the file, {tuple(wanted)} in the model"
        for name, held, wanted in loading_info["mismatched_keys"]
    }
    whole = len(model.state_dict())
    loaded = whole - len(missing) - len(shapes)
    faults = [
        *([f"{len(missing)} are missing: {_some(missing)}"] if missing else []),
        *([f"{len(surplus)} have names that it does not know: {_some(surplus)}"] if surplus else []),
        *(
            [f"{len(shapes)} have another shape: {_some(f'{name}, {mismatch}' for name, mismatch in shapes.items())}"]
            if shapes
            else []
        ),
        *(map(str, loading_info.get("error_msgs") or ()) if not shapes else []),
    ]
    if faults:
        raise PolicyError(
            f"{where}: {loaded} of the model's {whole} tensors would be loaded; {'; '.join(faults)[:1000]}. "
            f"{_remedy(missing, surplus, shapes)}"
        )
    if model.config.tie_word_embeddings and model.lm_head.weight is not model.get_input_embeddings().weight:
        raise PolicyError(
            f"{where}: config.json ties the output head to the embedding (tie_word_embeddings) and the weights hold another "
            f"{HEAD}; set tie_word_embeddings to false, or take that tensor out"
        )


def _remedy(missing: Collection[str], surplus: Collection[str], shapes: Collection[str]) -> str:
    wrapper = next(
        (prefix for prefix in WRAPPERS if surplus and all(name.startswith(prefix) for name in surplus)), None
    )
    if wrapper:
        return f"Save the model itself, not what holds it: take {wrapper!r} off the names of the tensors"
    if any(re.search(r"lora_[AB]|\.base_layer\.", name) for name in surplus):
        return "Merge the adapter into its base (PEFT's merge_and_unload) and save that"
    if HEAD in missing and len(missing) == 1:
        return f"Set tie_word_embeddings to true in config.json if the head is the embedding, else add {HEAD}"
    if shapes:
        return "Take the config.json that belongs to these weights"
    return f"Save the whole model with save_pretrained, beside its own config.json, or {FETCH}"


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - NAMED} more" if len(ordered) > NAMED else ""
    return ", ".join(name[:SHORT] for name in ordered[:NAMED]) + more
