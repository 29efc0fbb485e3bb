"""The order of the rows: at random, but the longest go first, so that memory runs out in the first minute or never.

Source: ours; transformers brings the one longest batch to the front where it groups rows by length.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized

import torch
from PIL import Image
from torch.utils.data import Sampler

from saferflow.training.policy import Qwen2_5_VLProcessor


class LongestFirst(Sampler[int]):
    """An order for each epoch; in the first epoch the longest rows take the places of those that would come first.

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


class Ordered:
    """Mixed into a trainer of TRL: `lengths` of its rows set, the longest of them are in the first step."""

    lengths: Sequence[int] = ()

    def _get_train_sampler(self, dataset: Sized | None = None) -> Sampler[int]:
        def epoch() -> int:
            return int((self.state.epoch or 0) + 1e-6)

        return LongestFirst(self._order, epoch, self.lengths, self._rows_of_a_step())

    def _order(self, epoch: int) -> Iterable[int]:
        source = torch.Generator().manual_seed(self.args.seed + epoch)
        return torch.randperm(len(self.train_dataset), generator=source).tolist()

    def _rows_of_a_step(self) -> int:
        args = self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes


def lengths(
    processor: Qwen2_5_VLProcessor, texts: Sequence[Sequence[str]], images: Sequence[bytes | None]
) -> list[int]:
    """Tokens of each row: of its texts and of its image; the template's own are the same for all and left out."""
    counted = [len(ids) for ids in processor.tokenizer(["".join(parts) for parts in texts])["input_ids"]]
    return [tokens + _of_image(processor, image) for tokens, image in zip(counted, images, strict=True)]


def _of_image(processor: Qwen2_5_VLProcessor, image: bytes | None) -> int:
    if image is None:
        return 0
    with Image.open(io.BytesIO(image)) as opened:  # its header alone
        width, height = opened.size
    reader = processor.image_processor
    return reader.get_number_of_image_patches(height, width) // reader.merge_size**2
