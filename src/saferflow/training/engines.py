"""Draws a policy's completions, in this process or over a Ray cluster, in the same batches.

A batch is what is divided: it is read with the same padding, drawn with the same seed and begun without drafts wherever it is
read, so its completions depend neither on the number of engines nor on which of them had it. Source: ours.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import saferflow
from saferflow.errors import PolicyError
from saferflow.params import Params, PolicyParams, RunParams
from saferflow.protocol.plan import Plan
from saferflow.training.drafts import Drafter
from saferflow.training.generate import Batch, Prompt, complete
from saferflow.training.homes import files_in, hash_of
from saferflow.training.policy import device, load_model, load_processor
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
    """A function that draws from a policy: in this process, which loads it at the first batch, or over `run.ray`'s cluster."""
    policy, run, most = params.policy, params.run, params.policy.max_completion_tokens
    if run.ray is not None:
        return partial(drawn_over_ray, folder, policy, Drawing(most, samples, temperature), run=run)
    drafter = Drafter()
    loaded = cache(lambda: (load_model(folder, policy).to(device(policy)), load_processor(folder, policy)))

    def draw(prompt_batches: Iterable[Batch]) -> Iterator[list[list[str]]]:
        for batch in prompt_batches:
            drawn = complete(
                *loaded(), batch.prompts, batch_size=len(batch.prompts), max_tokens=most, samples=samples,
                temperature=temperature, seed=batch.seed, drafter=drafter,
            )  # fmt: skip
            yield list(drawn)

    return draw


def batches(
    prompts: Sequence[Prompt], size: int, plans: Sequence[Plan | None] | None = None
) -> list[Batch]:
    """The prompts in the batches of `complete`, for greedy decoding."""
    starts = range(0, len(prompts), size)
    parts = (slice(start, start + size) for start in starts)
    return [Batch(prompts[part], plans=plans[part] if plans else None) for part in parts]


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
        how, sizes = self._drawing, {"batch_size": len(batch.prompts), "max_tokens": self._drawing.max_tokens}
        if how.released:
            texts = complete_released(self._model, self._processor, batch.prompts, **sizes)
            return json.dumps([[text] for text in texts])
        drawn = complete(
            self._model, self._processor, batch.prompts, samples=how.samples, temperature=how.temperature, seed=batch.seed,
            plans=batch.plans, **sizes,
        )  # fmt: skip
        return json.dumps(list(drawn))


def fingerprint(folder: Path) -> str:
    """A digest of a policy's files and of this package's code."""
    digest = hashlib.sha256()
    package = Path(saferflow.__file__).parent
    for root, files in ((folder, files_in([folder])), (package, package.rglob("*.py"))):
        for file in sorted(files):
            digest.update(f"{file.relative_to(root)} {hash_of(file)}\n".encode())
    return digest.hexdigest()
