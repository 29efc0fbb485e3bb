"""The order of the rows: random, with the longest first, so that too little memory shows at once.

GRPO knows its prompts alone: the longest go first, and a later step with longer completions may take more memory.

Within a step the rows are dealt to its micro batches, which are many where processes or accumulation are, so that each has
about as many tokens: the longest micro batch decides how much memory a step takes, and how long the other processes wait.
A step has the same rows either way. Source: ours; transformers brings the one longest batch to the front where it groups rows.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from itertools import islice

import torch
from PIL import Image
from torch.utils.data import Sampler

from saferflow.training.encoding import text_ids
from saferflow.training.processor import Qwen2_5_VLProcessor


class LongestFirst(Sampler[int]):
    """A random order per epoch; in the first epoch the longest rows take the first places.

    Only they change places, so that whatever else the order keeps (each prompt as often as its group is large) stays.

    Args:
        order: row numbers in the order of an epoch, the same each time.
        epoch: the one under way; asked when it begins, also after a resume.
        lengths: of each row.
        first: how many rows are brought to the front.
    """

    def __init__(
        self, order: Callable[[int], Iterable[int]], epoch: Callable[[], int], lengths: Sequence[int], first: int
    ):
        self._order, self._epoch = order, epoch
        plain = list(order(0))
        begins = list(dict.fromkeys(plain))[:first]
        longest = sorted(range(len(lengths)), key=lambda row: -lengths[row])[: len(begins)]
        free = [row for row in begins if row not in set(longest)]
        wanted = [row for row in longest if row not in set(begins)]
        self._exchanged = dict(zip(free + wanted, wanted + free, strict=True))
        self._rows = len(plain)

    def __iter__(self) -> Iterator[int]:
        epoch = self._epoch()
        moved = self._exchanged if epoch == 0 else {}
        return (moved.get(row, row) for row in self._order(epoch))

    def __len__(self) -> int:
        return self._rows


class Balanced(Sampler[int]):
    """The order of another sampler, with the rows of each step dealt so that its micro batches have about equal tokens.

    Args:
        lengths: of each row.
        parts: micro batches of a step, over all processes, each of `size` rows.
    """

    def __init__(self, order: Sampler[int], lengths: Sequence[int], parts: int, size: int):
        self._order, self._lengths, self._parts, self._size = order, lengths, parts, size

    def __iter__(self) -> Iterator[int]:
        for rows in batched(self._order, self._parts * self._size):
            yield from dealt(rows, self._lengths, self._size)

    def __len__(self) -> int:
        return len(self._order)


def dealt(rows: Sequence[int], lengths: Sequence[int], size: int) -> list[int]:
    """The rows of a step, dealt so that each consecutive `size` have about equal tokens; an incomplete step stays.

    The longest row goes to the lightest micro batch that has room, and so on; the heaviest micro batch is the first.
    """
    if len(rows) % size:
        return list(rows)
    parts: list[list[int]] = [[] for _ in range(len(rows) // size)]
    tokens = [0] * len(parts)
    for row in sorted(rows, key=lambda row: -lengths[row]):
        lightest = min((part for part in range(len(parts)) if len(parts[part]) < size), key=tokens.__getitem__)
        parts[lightest].append(row)
        tokens[lightest] += lengths[row]
    heaviest_first = sorted(range(len(parts)), key=lambda part: -tokens[part])
    return [row for part in heaviest_first for row in parts[part]]


def batched(rows: Iterable[int], size: int) -> Iterator[list[int]]:
    """`itertools.batched`, which Python 3.11 lacks."""
    left = iter(rows)
    while batch := list(islice(left, size)):
        yield batch


class Ordered:
    """Mixed into a TRL trainer: with `lengths`, the longest rows come first, and micro batches have about equal tokens."""

    lengths: Sequence[int] = ()

    def _get_train_sampler(self, dataset: Sized | None = None) -> Sampler[int]:
        def epoch() -> int:
            return int((self.state.epoch or 0) + 1e-6)

        order = LongestFirst(self._order, epoch, self.lengths, self._rows_of_a_step())
        parts = self._micro_batches_of_a_step()
        if parts == 1:
            return order
        return Balanced(order, self.lengths, parts, self.args.per_device_train_batch_size)

    def _order(self, epoch: int) -> Iterable[int]:
        source = torch.Generator().manual_seed(self.args.seed + epoch)
        return torch.randperm(len(self.train_dataset), generator=source).tolist()

    def _micro_batches_of_a_step(self) -> int:
        return self.args.gradient_accumulation_steps * self.accelerator.num_processes

    def _rows_of_a_step(self) -> int:
        return self.args.per_device_train_batch_size * self._micro_batches_of_a_step()


def lengths(
    processor: Qwen2_5_VLProcessor, texts: Sequence[Sequence[str]], images: Sequence[bytes | None]
) -> list[int]:
    """Tokens of each row's texts and image, without the template's few tokens per turn."""
    counted = [len(ids) for ids in text_ids(processor.tokenizer, ["".join(parts) for parts in texts])]
    return [tokens + image_tokens(processor, image) for tokens, image in zip(counted, images, strict=True)]


def image_tokens(processor: Qwen2_5_VLProcessor, image: bytes | None) -> int:
    """The tokens of an image; 0 without one."""
    if image is None:
        return 0
    with Image.open(io.BytesIO(image)) as opened:  # its header alone
        width, height = opened.size
    reader = processor.image_processor
    return reader.get_number_of_image_patches(height, width) // reader.merge_size**2
