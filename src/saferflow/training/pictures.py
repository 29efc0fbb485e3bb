"""The pictures of a rollout: one copy of each different one, on the CPU until a model reads it.

TRL has the processor compute the pixels of every completion, twice a rollout, and keeps them on the GPU for all its updates: at 4
megapixels 96 MB a completion. Here the processor says in their place where each patch stands in a table. What TRL does with
pixels (split, order, join, move) it does with these numbers, and the model looks the pixels up (`Pictures.show`). Source: ours.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, NamedTuple

import datasets
import torch
from PIL.Image import Image
from torch import nn
from transformers import BatchFeature


class Place(NamedTuple):
    """A picture's place in the table."""

    start: int
    grid: torch.Tensor
    """(3,): time, height and width, in patches"""


class Pictures:
    """The table of the processor's pixels, and each picture's place in it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all pictures; their numbers become invalid."""
        self.table: torch.Tensor | None = None
        """(patches, channels), None without pictures"""
        self._places: dict[str, Place] = {}

    @contextmanager
    def numbered(self, processor: Any) -> Iterator[None]:
        """Inside, the processor's `pixel_values` of lists of images are row numbers of this table, (patches,)."""
        plain = processor.image_processor
        processor.image_processor = Numbering(plain, self)
        try:
            yield
        finally:
            processor.image_processor = plain

    def show(self, model: nn.Module) -> None:
        """Have a model look up the pixels of these numbers, in training and in generation."""
        plain = model.get_image_features

        @wraps(plain)
        def features(pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            shown = pixel_values if pixel_values.is_floating_point() else self.pixels(pixel_values)
            return plain(shown, *args, **kwargs)

        model.get_image_features = features

    def pixels(self, numbers: torch.Tensor) -> torch.Tensor:
        """The pixels of these patches, on the device of their numbers: (patches,) to (patches, channels)."""
        return self.table[numbers.cpu()].to(numbers.device)

    def add(self, image_processor: Any, images: Sequence[Image], **options: Any) -> list[Place]:
        """The place of each image; the processor computes new ones."""
        known = {id(image): _digest(image) for image in images}  # copies of a group are often one object
        keys = [known[id(image)] for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._places}
        if new:
            shown = image_processor(list(new.values()), **options | {"return_tensors": "pt"})
            start = 0 if self.table is None else len(self.table)
            for key, grid in zip(new, shown["image_grid_thw"], strict=True):
                self._places[key] = Place(start, grid)
                start += int(grid.prod())
            pixels = shown["pixel_values"]
            self.table = pixels if self.table is None else torch.cat([self.table, pixels])
        return [self._places[key] for key in keys]


class Numbering:
    """An image processor that returns row numbers of the table in place of pixels; all else is the plain one's."""

    def __init__(self, plain: Any, pictures: Pictures):
        self._plain, self._pictures = plain, pictures

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def __call__(self, images: Sequence[Any], **options: Any) -> BatchFeature:
        flat = [image for entry in images for image in (entry if isinstance(entry, list | tuple) else [entry])]
        places = self._pictures.add(self._plain, flat, **options)
        numbers = [torch.arange(place.start, place.start + int(place.grid.prod())) for place in places]
        grids = torch.stack([place.grid for place in places])
        return BatchFeature({"pixel_values": torch.cat(numbers), "image_grid_thw": grids})


def _digest(image: Image) -> str:
    hasher = hashlib.blake2b(f"{image.mode} {image.size} {image.getpalette()}".encode(), digest_size=20)
    hasher.update(image.tobytes())
    return hasher.hexdigest()


def decoded(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a data set with their images decoded; rows with the same bytes share one object."""
    read = datasets.Image().decode_example
    known: dict[bytes, Image] = {}

    def picture(encoded: Any) -> Any:
        if not isinstance(encoded, dict):
            return encoded
        content = encoded["bytes"]
        if content not in known:
            known[content] = read(encoded)
        return known[content]

    return [row | {"images": [picture(image) for image in row["images"]]} if "images" in row else row for row in rows]
