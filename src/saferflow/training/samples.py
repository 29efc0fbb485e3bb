"""Work done a batch at a time, each batch's result written before the next begins: a kill loses one batch at most.

The operating system has it then, so that a power cut may lose more, which is done again: to wait for the disk takes longer than
a small policy does. A batch of samples is drawn with a seed from its number alone, so that the completions do not depend on where
a run was taken up. Source: ours.
"""

import json
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
        yield from kept
        for result in work(islice(jobs, len(kept), None)):
            results.write(json.dumps(result).encode() + b"\n")
            results.flush()
            yield result


def _whole(results: BinaryIO) -> list[Any]:
    """What was written to its end; what follows is cut off, torn by a kill or not there after a power cut."""
    results.seek(0)
    whole, end = [], 0
    for line in results:
        try:
            whole.append(json.loads(line if line.endswith(b"\n") else b""))
        except ValueError:
            break
        end += len(line)
    results.truncate(end)
    return whole
