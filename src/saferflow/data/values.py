"""Reads single values from data frames, Parquet and JSON: empty ones in their many forms, integers that became floats.

Source: ours.
"""

import math
import numbers
from typing import Any

SHOWN = 80
"""Characters of a value that a message shows."""


def brief(value: Any, limit: int = SHOWN) -> str:
    """The first characters of a value, for a message."""
    if isinstance(value, str | bytes):
        text = repr(value[:limit])
        return text if len(value) <= limit else f"{text}... ({len(value):,} in all)"
    if isinstance(value, list | tuple | dict):
        return f"a {type(value).__name__} of {len(value):,}"
    return repr(value)[:limit]


def is_empty(value: Any) -> bool:
    """Whether a value is empty: None, NaN, empty text, or a list or object of empty values only."""
    pending = [value]
    while pending:  # no recursion: lists may be nested as deep as the parser goes
        held = pending.pop()
        if isinstance(held, dict):
            pending += held.values()
        elif isinstance(held, list | tuple):
            pending += held
        elif not _is_nothing(held):
            return False
    return True


def _is_nothing(value: Any) -> bool:
    if value is None or (isinstance(value, numbers.Number) and value != value):
        return True
    return isinstance(value, str | bytes) and not value


def whole_number(value: Any) -> int | None:
    """The integer that a number or a text stands for (2, 2.0, "2"); None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, numbers.Number) or isinstance(value, complex):
        return None
    return int(value) if math.isfinite(value) and value == int(value) else None
