"""Policies on disk: a Qwen2.5-VL model with its processor, loaded and saved as safetensors. Source: ours."""

import json
from pathlib import Path
from typing import NamedTuple

import torch
from huggingface_hub import hf_hub_download
from peft import PeftModel
from transformers import AutoConfig, PretrainedConfig, Qwen2_5_VLForConditionalGeneration
from transformers.utils import is_flash_attn_2_available

from saferflow.errors import PolicyError
from saferflow.params import LaunchParams, PolicyParams
from saferflow.shell import hides_gpus
from saferflow.training.adapters import merged
from saferflow.training.families import family_of
from saferflow.training.launch import shared_weights
from saferflow.training.packed import unpack
from saferflow.training.processor import Qwen2_5_VLProcessor, read_processor
from saferflow.training.weights import SHORT, UNREADABLE, read_model, refuse_pointers

POINTER = "SOURCE"
"""A base folder without weights holds this file: the name of a published checkpoint, and on a second line its commit."""


class Source(NamedTuple):
    """The location of a policy's files."""

    where: str
    """A folder, or a name on the hub."""
    revision: str | None
    """The commit of a name on the hub; None for the newest."""


def source(folder: Path) -> Source:
    """The folder itself, or the checkpoint that it points to."""
    if not folder.is_dir():
        raise PolicyError(f"{folder}: no such folder; run `saferflow run` to make the policy")
    pointer = folder / POINTER
    if not pointer.exists():
        return Source(str(folder), None)
    where, _, revision = pointer.read_text(encoding="utf-8").strip().partition("\n")
    return Source(where, revision or None)


def point_to(folder: Path, checkpoint: str, revision: str | None) -> Source:
    """Write the pointer to a checkpoint, with the commit that its revision stands for now.

    Args:
        revision: commit, tag or branch; None for the newest of the main branch.

    Returns:
        What was written; without a commit for a folder, and where no revision is wanted and no commit can be read here.

    Raises:
        PolicyError: a folder was given a revision, or the hub's name has no such revision, or it cannot be read here.
    """
    if Path(checkpoint).exists():
        if revision is not None:
            raise PolicyError(
                f"policy.revision is {revision} and policy.base, {checkpoint}, is on this machine, where it has no revisions; "
                "set policy.revision to null, or policy.base to a name on the hub"
            )
        pointed = Source(checkpoint, None)
    else:
        pointed = Source(checkpoint, _commit_of(checkpoint, revision))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / POINTER).write_text("".join(f"{line}\n" for line in pointed if line), encoding="utf-8")
    return pointed


def _commit_of(checkpoint: str, revision: str | None) -> str | None:
    try:
        return Path(
            hf_hub_download(checkpoint, "config.json", revision=revision)
        ).parent.name  # snapshots/<commit>/config.json
    except (OSError, ValueError) as error:
        if revision is None:
            return None
        raise PolicyError(
            f"{checkpoint}: revision {revision} could not be read ({str(error)[:SHORT]}); set policy.revision to a commit, tag "
            "or branch that is there, or fetch it where there is a network (hf download --revision)"
        ) from None


def _refuse_what_is_no_policy(where: str, revision: str | None) -> None:
    """Refuse an adapter, Git LFS pointers, or a model of an unsupported family, before weights are read."""
    if (Path(where) / "adapter_config.json").exists():
        raise PolicyError(
            f"{where} holds an adapter, not a whole policy; merge it into its base (PEFT's merge_and_unload) and save that"
        )
    refuse_pointers(Path(where))
    try:
        config = AutoConfig.from_pretrained(where, revision=revision or "main", trust_remote_code=False)
    except UNREADABLE as error:
        raise PolicyError(
            f"{where}: no model's configuration could be read ({str(error)[:SHORT]}); run `saferflow run`, or set policy.base"
        ) from None
    family_of(config, where)


def load_config(folder: Path) -> PretrainedConfig:
    """The shape of a policy's model, without its weights."""
    where, revision = source(folder)
    return AutoConfig.from_pretrained(where, revision=revision or "main", trust_remote_code=False)


def load_processor(folder: Path, params: PolicyParams) -> Qwen2_5_VLProcessor:
    """The processor of a policy, with the image bounds of the params.

    Raises:
        PolicyError: it cannot be read, or it does not fit the model beside it or Qwen2.5-VL's chat format.
    """
    where, revision = source(folder)
    refuse_pointers(Path(where))
    return read_processor(where, params, revision)


def load_model(
    folder: Path, params: PolicyParams, launch: LaunchParams | None = None
) -> Qwen2_5_VLForConditionalGeneration:
    """The weights of a policy, from safetensors alone.

    Args:
        launch: how it will be trained; None for a policy that only speaks.

    Raises:
        PolicyError: there is none, it is another kind of model, an adapter or damaged, or the GPU that the params want is
            not there.
    """
    where, revision = source(folder)
    _refuse_what_is_no_policy(where, revision)
    device(params)
    masters = launch is not None and needs_masters(params, launch)
    shared = shared_weights(launch, params) if launch is not None else None
    model = read_model(where, torch.float32 if masters else getattr(torch, params.dtype), revision, shared=shared)
    if not params.train_vision:
        for parameter in family_of(model.config).vision(model).parameters():
            parameter.requires_grad_(False)
    attend_windows_at_once(model, params)
    return model


def attend_windows_at_once(model: Qwen2_5_VLForConditionalGeneration, params: PolicyParams) -> None:
    """Have the vision tower use flash attention (one call per layer) if it is installed, on a GPU and in bfloat16.

    Torch's attention is called for each window: an image of 1 MP has about 90 of 112 pixels a side, in 28 layers of 32.
    """
    if params.dtype == "bfloat16" and is_flash_attn_2_available():
        family_of(model.config).vision(model).set_attn_implementation("flash_attention_2")


def needs_masters(policy: PolicyParams, launch: LaunchParams) -> bool:
    """Whether the weights are trained in float32 and used in bfloat16 (autocast), which DeepSpeed does by itself.

    Without it a step that is smaller than bfloat16's spacing, 1/256 of a weight, is rounded to nothing. Adapters are float32.
    """
    return policy.dtype == "bfloat16" and launch.strategy == "ddp" and policy.lora is None


def save_policy(
    folder: Path,
    model: torch.nn.Module,
    processor: Qwen2_5_VLProcessor,
    weights: dict[str, torch.Tensor] | None = None,
    dtype: str | None = None,
) -> None:
    """Write weights (adapters merged, in float32) and processor, so that the folder is a whole policy again.

    Args:
        weights: the model's, where it holds only a share of them.
        dtype: that others load the policy in; None for the model's own.
    """
    unpack(model)
    if isinstance(model, PeftModel):
        model, weights = merged(model)
    if weights and model.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    model.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)
    if dtype is not None:
        _name_dtype(folder / "config.json", dtype)


def _name_dtype(file: Path, dtype: str) -> None:
    """Set the dtype in a model's configuration to the one that computes, whatever the weights are stored in."""
    config = json.loads(file.read_text(encoding="utf-8"))
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        if part is config or "dtype" in part:
            part["dtype"] = dtype
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
