"""Draws a policy's completions: in this process, over a Ray cluster in the same batches, or by a vLLM server.

A batch is what Ray divides: it is read with the same padding, drawn with the same seed and begun without drafts wherever it is
read, so its completions depend neither on the number of engines nor on which of them had it. vLLM gets the prompts one by one and
batches them as they come: what is drawn there may differ in the last digits from run to run. Source: ours.
"""

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from transformers import Qwen2_5_VLForConditionalGeneration

import saferflow
from saferflow.errors import PolicyError
from saferflow.layout import HOME
from saferflow.params import Params, PolicyParams, RunParams, VLLMParams
from saferflow.protocol.plan import Plan
from saferflow.training.drafts import Drafter
from saferflow.training.generate import Batch, Prompt, complete
from saferflow.training.homes import files_in, hash_of
from saferflow.training.policy import device, load_model, load_processor
from saferflow.training.processor import Qwen2_5_VLProcessor
from saferflow.training.ray_cluster import over_ray
from saferflow.training.released import complete_released
from saferflow.training.samples import Draw
from saferflow.training.vllm_server import LOOK_SECONDS, VLLMServer

VLLM_LOG = HOME / "vllm.log"


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
    """Completions of a policy: in this process, which loads it at the first batch, over `run.ray`, or by `run.vllm`."""
    if run.ray is not None:
        return partial(drawn_over_ray, folder, policy, drawing, run=run)
    if run.vllm is not None:
        return vllm_drawer(folder, policy, drawing, run.vllm)
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


def vllm_drawer(folder: Path, policy: PolicyParams, drawing: Drawing, vllm: VLLMParams) -> Draw:
    """Completions of a policy by a vLLM server, which is started at the first batch and ends with the last reference to this."""
    server = cache(lambda: VLLMServer(folder, policy, VLLM_LOG, vllm.arguments, _say_that_it_loads))

    def ask(prompt: Prompt, plan: Plan | None, seed: int) -> list[str]:
        return server().complete(
            prompt, plan, max_tokens=drawing.max_tokens, samples=drawing.samples, temperature=drawing.temperature, seed=seed,
            released=drawing.released,
        )  # fmt: skip

    def draw(prompt_batches: Iterable[Batch]) -> Iterator[list[list[str]]]:
        ahead: deque[list[Future[list[str]]]] = deque()
        with ThreadPoolExecutor(vllm.concurrency) as pool:
            for batch in prompt_batches:
                server()
                ahead.append([
                    pool.submit(ask, prompt, batch.plans[place] if batch.plans else None, batch.seed + place)
                    for place, prompt in enumerate(batch.prompts)
                ])  # fmt: skip
                if sum(not answer.done() for answers in ahead for answer in answers) > vllm.concurrency:
                    yield [answer.result() for answer in ahead.popleft()]
            while ahead:
                yield [answer.result() for answer in ahead.popleft()]

    return draw


def _say_that_it_loads(seconds: float) -> None:
    if seconds > 1 and round(seconds / LOOK_SECONDS) % 40 == 0:
        print(f"vLLM loads, {seconds:.0f} s so far; its log: {VLLM_LOG}", flush=True)


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
