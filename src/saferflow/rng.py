"""Random numbers addressed by (seed, name, row), so that a draw never depends on the order or the number of workers."""

import hashlib
import random


def rng(seed: int, *address: str | int) -> random.Random:
    """A generator of its own for each address; equal addresses give equal draws on every machine."""
    key = "\x1f".join(str(part) for part in (seed, *address))
    return random.Random(int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "big"))
