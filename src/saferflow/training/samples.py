"""Completions sampled a batch at a time, each batch on the disk before the next begins: a kill loses one batch at most.

A batch's seed is drawn from its number alone, so that the completions do not depend on where a run was taken up. Source: ours.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from saferflow.rng import rng
from saferflow.training.generate import Batch, Prompt

Draw = Callable[[Sequence[Batch]], Iterator[list[list[str]]]]
"""Batches of prompts -> for each batch, in their order, the completions of each prompt."""


def sampled(file: Path, prompts: Sequence[Prompt], batch_size: int, seed: int, draw: Draw) -> Iterator[list[str]]:
    """Each prompt's completions, in order; those that `file` holds are not drawn again.

    Args:
        file: of one such list only; its place names what the completions depend on (`homes.home`).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as batches:
        kept = _whole(batches)
        for line in kept:
            yield from json.loads(line)
        starts = list(enumerate(range(0, len(prompts), batch_size)))[len(kept) :]
        missing = [
            Batch(prompts[start : start + batch_size], rng(seed, "samples", number).getrandbits(31))
            for number, start in starts
        ]
        for completions in draw(missing):
            batches.write(json.dumps(completions).encode() + b"\n")
            batches.flush()
            os.fsync(batches.fileno())
            yield from completions


def _whole(batches: BinaryIO) -> list[bytes]:
    """The batches that were written to their end; a torn one after them is cut off."""
    batches.seek(0)
    content = batches.read()
    end = content.rfind(b"\n") + 1
    batches.truncate(end)
    return content[:end].splitlines()
