"""Draws a policy's completions, in this process or over a Ray cluster, in the same batches.

A batch is what is divided: it is read with the same padding, drawn with the same seed and begun without drafts wherever it is
read, so its completions depend neither on the number of engines nor on which of them had it. Source: ours.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration

import saferflow
from saferflow.errors import PolicyError
from saferflow.params import Params, PolicyParams, RunParams
from saferflow.training.drafts import Drafter
from saferflow.training.generate import Batch, complete
from saferflow.training.homes import files_in, hash_of
from saferflow.training.policy import device, load_model, load_processor
from saferflow.training.processor import Qwen2_5_VLProcessor
from saferflow.training.ray_cluster import over_ray
from saferflow.training.released import complete_released
from saferflow.training.samples import Draw


@dataclass(frozen=True, slots=True)
class Drawing:
    """How completions are drawn; the fields are arguments of `complete`."""

    max_tokens: int
    samples: int = 1
    temperature: float | None = None
    released: bool = False
    """Whether to decode as [K]'s released evaluation does (`complete_released`)."""


def sampler(folder: Path, params: Params, samples: int, temperature: float) -> Draw:
    """Samples from a policy, as `drawer`."""
    return drawer(folder, params.policy, Drawing(params.policy.max_completion_tokens, samples, temperature), params.run)


def drawer(folder: Path, policy: PolicyParams, drawing: Drawing, run: RunParams) -> Draw:
    """Completions of a policy: in this process, which loads it at the first batch, or over the cluster of `run.ray`."""
    if run.ray is not None:
        return partial(drawn_over_ray, folder, policy, drawing, run=run)
    drafter = Drafter()
    loaded = cache(lambda: (load_model(folder, policy).to(device(policy)), load_processor(folder, policy)))

    def draw(prompt_batches: Iterable[Batch]) -> Iterator[list[list[str]]]:
        return (_drawn(*loaded(), batch, drawing, drafter) for batch in prompt_batches)

    return draw


def drawn_over_ray(
    folder: Path, policy: PolicyParams, drawing: Drawing, prompt_batches: Iterable[Batch], run: RunParams
) -> Iterator[list[list[str]]]:
    """Yield the completions of each batch, (prompts, samples), in the order of the batches.

    Args:
        folder: the policy's folder, with the same files on every machine.

    Raises:
        PipelineError: as `over_ray`; or a machine has different code or a different policy.
    """
    where = folder.resolve()
    arguments = (str(where), fingerprint(where), policy, drawing)
    return map(json.loads, over_ray(Engine, arguments, list(prompt_batches), run.ray, run.preemptions))


class Engine:
    """A policy, loaded once, that completes one batch after the other."""

    def __init__(self, folder: str, expected: str, policy: PolicyParams, drawing: Drawing):
        where = Path(folder)
        if not where.is_dir():
            raise PolicyError(f"{folder}: not on this machine of the cluster; keep the project where all of them find it")
        if fingerprint(where) != expected:
            raise PolicyError(
                f"{folder}: this machine of the cluster has another policy there, or other code of saferflow, than the one that "
                "runs the stage; have all of them read the same checkout"
            )
        self._model, self._processor = load_model(where, policy).to(device(policy)), load_processor(where, policy)
        self._drawing = drawing

    def __call__(self, batch: Batch) -> str:
        """The completions, as JSON: (prompts, samples)."""
        return json.dumps(_drawn(self._model, self._processor, batch, self._drawing, Drafter()))


def _drawn(
    model: Qwen2_5_VLForConditionalGeneration,
    processor: Qwen2_5_VLProcessor,
    batch: Batch,
    drawing: Drawing,
    drafter: Drafter,
) -> list[list[str]]:
    """The completions of each prompt of a batch."""
    sizes = {"batch_size": len(batch.prompts), "max_tokens": drawing.max_tokens}
    if drawing.released:
        return [[text] for text in complete_released(model, processor, batch.prompts, **sizes)]
    drawn = complete(
        model, processor, batch.prompts, samples=drawing.samples, temperature=drawing.temperature, seed=batch.seed,
        plans=batch.plans, drafter=drafter, **sizes,
    )  # fmt: skip
    return list(drawn)


def fingerprint(folder: Path) -> str:
    """A digest of a policy's files and of this package's code."""
    digest = hashlib.sha256()
    package = Path(saferflow.__file__).parent
    for root, files in ((folder, files_in([folder])), (package, package.rglob("*.py"))):
        for file in sorted(files):
            digest.update(f"{file.relative_to(root)} {hash_of(file)}\n".encode())
    return digest.hexdigest()
