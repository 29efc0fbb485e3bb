"""Prepares the tables of a rehearsal: cuts their rows, and resizes their pictures within the profile's bounds."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from saferflow.data.rows import TABLES, Labels
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError
from saferflow.params import PolicyParams


@dataclass(frozen=True, slots=True)
class Lengths:
    """Least, median and most tokens of a table's rows."""

    least: int
    middle: int
    most: int

    @classmethod
    def of(cls, tokens: Sequence[int]) -> "Lengths":
        """The lengths of rows from each row's tokens; all 0 without rows."""
        return cls(min(tokens, default=0), round(median(tokens or [0])), max(tokens, default=0))


def cut_tables(folder: Path, rows: dict[str, int], policy: PolicyParams) -> None:
    """Keep so many rows of each table, evenly spread, and resize their pictures.

    Raises:
        DataError: fewer were drawn than are wanted.
    """
    for name, kind in TABLES.items():
        if name not in rows:
            continue
        file = folder / f"{name}.parquet"
        held = read_table(file, kind)
        if len(held) < rows[name]:
            raise DataError(
                f"rehearsal: {len(held)} rows were drawn for table {name} and {rows[name]} are wanted; raise plan.{name}_share"
            )
        held.sort(key=lambda row: Labels.from_json(row.labels).harmful)  # curation wants some of both sides
        kept = [held[number * len(held) // rows[name]] for number in range(rows[name])]
        write_table(file, enlarged(kept, policy), kind)


def enlarged(rows: Sequence[Any], policy: PolicyParams) -> list[Any]:
    """The rows with pictures of the largest, the geometric mean and the smallest size, in turn; none shrinks."""
    sizes = (policy.max_pixels, round(sqrt(policy.max_pixels * policy.min_pixels)), policy.min_pixels)
    changed, seen = [], 0
    for row in rows:
        if row.image is not None:
            row, seen = replace(row, image=_with_pixels(row.image, sizes[seen % len(sizes)])), seen + 1
        changed.append(row)
    return changed


def _with_pixels(data: bytes, pixels: int) -> bytes:
    with Image.open(io.BytesIO(data)) as picture:
        if picture.width * picture.height >= pixels:
            return data
        scale = sqrt(pixels / (picture.width * picture.height))
        larger = picture.resize((int(picture.width * scale), int(picture.height * scale)), Image.Resampling.BILINEAR)
    out = io.BytesIO()
    larger.save(out, "PNG", compress_level=1)
    return out.getvalue()


def measured(file: Path, kind: type, texts: Any, processor: Any) -> tuple[int, Lengths, Lengths]:
    """Rows of a table, their tokens with images, and tokens of images.

    Args:
        texts: the texts that a row's tokens are made of.
    """
    from saferflow.training.order import lengths

    rows = read_table(file, kind)
    spoken = [texts(row) for row in rows]
    whole = lengths(processor, spoken, [row.image for row in rows])
    words = lengths(processor, spoken, [None] * len(rows))
    images = [both - alone for both, alone, row in zip(whole, words, rows, strict=True) if row.image is not None]
    return len(rows), Lengths.of(whole), Lengths.of(images)
