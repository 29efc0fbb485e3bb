"""Work done a batch at a time, each batch's result on the disk before the next begins: a kill loses one batch at most.

A batch of samples is drawn with a seed from its number alone, so that the completions do not depend on where a run was taken
up. Source: ours.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from saferflow.protocol.plan import Plan
from saferflow.rng import rng
from saferflow.training.generate import Batch, Prompt

Draw = Callable[[Iterable[Batch]], Iterator[list[list[str]]]]
"""Batches of prompts -> for each batch, in their order, the completions of each prompt."""
Job = TypeVar("Job")


def sampled(
    file: Path | None,
    prompts: Sequence[Prompt],
    batch_size: int,
    seed: int,
    draw: Draw,
    plans: Sequence[Plan | None] | None = None,
) -> Iterator[list[str]]:
    """Each prompt's completions, in order; those that `file` holds are not drawn again.

    Args:
        file: of one such list only; its place names what the completions depend on (`homes.home`). None keeps nothing.
        plans: one a prompt, for constrained decoding.
    """
    parts = (slice(start, start + batch_size) for start in range(0, len(prompts), batch_size))
    batches = (
        Batch(prompts[part], rng(seed, "samples", number).getrandbits(31), plans[part] if plans else None)
        for number, part in enumerate(parts)
    )
    for completions in resumed(file, batches, draw):
        yield from completions


def resumed(file: Path | None, jobs: Iterable[Job], work: Callable[[Iterator[Job]], Iterator[Any]]) -> Iterator[Any]:
    """What `work` makes of each job, in order; the first jobs, whose results `file` holds, are passed over.

    Args:
        work: jobs -> a result for each, in their order, that JSON can hold.
    """
    if file is None:
        yield from work(iter(jobs))
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as results:
        kept = _whole(results)
        yield from map(json.loads, kept)
        for result in work(islice(jobs, len(kept), None)):
            results.write(json.dumps(result).encode() + b"\n")
            results.flush()
            os.fsync(results.fileno())
            yield result


def _whole(results: BinaryIO) -> list[bytes]:
    """The lines that were written to their end; a torn one after them is cut off."""
    results.seek(0)
    content = results.read()
    end = content.rfind(b"\n") + 1
    results.truncate(end)
    return content[:end].splitlines()
