"""Rollouts in parts: while the policy draws the next completions, a judge behind a server reads the ones before.

Source: ours; TRL draws a whole batch and has it judged afterwards.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch

Ahead = Callable[[Sequence[str], Sequence[str]], None]
"""Has the judge read completions: row ids and texts. What it says is kept for the rewards."""


class InParts:
    """Mixed into TRL's GRPO trainer: draws `rollout_micro_batch` completions at once, None all of them."""

    rollout_micro_batch: int | None = None
    ahead: Ahead | None = None
    _judging: Future | None = None

    def _generate_single_turn(
        self, prompt_ids: list, images: list | None, fields: dict[str, Any], generations: int, *args: Any
    ) -> tuple[list[list[int]], list | None]:
        tokens, logprobs = [], []
        for part in parts(len(prompt_ids), self.rollout_micro_batch):
            mine = images[part] if images is not None else None
            mine = mine if mine and any(mine) else None
            drawn, told = super()._generate_single_turn(
                prompt_ids[part], mine, part_of(fields, images, part), generations, *args
            )
            tokens += drawn
            logprobs += told or []
            self._have_judged(part, drawn)
        return tokens, logprobs or None

    def _generate(self, prompts: list) -> tuple:
        self._drawing = True
        try:
            return super()._generate(prompts)
        finally:
            self._drawing = False

    def _have_judged(self, part: slice, drawn: list[list[int]]) -> None:
        if self.ahead is None or not self._drawing or not self.model.training:
            return
        texts = self.processing_class.batch_decode(drawn, skip_special_tokens=True)
        rows, before = [asked["row"] for asked in self._asked[part]], self._judging

        def read() -> None:
            if before is not None:
                before.result()
            self.ahead(rows, texts)

        self._judging = self._judges.submit(read)

    @property
    def _judges(self) -> ThreadPoolExecutor:
        if "_pool" not in self.__dict__:
            self._pool = ThreadPoolExecutor(1, "judge")
        return self._pool

    def wait_for_the_judge(self) -> None:
        """Until what was drawn is judged.

        Raises:
            EndpointError: the judge could not be reached.
        """
        judging, self._judging = self._judging, None
        if judging is not None:
            judging.result()


def parts(rows: int, size: int | None) -> Iterator[slice]:
    """All rows, in parts of `size`."""
    size = size or max(rows, 1)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def part_of(fields: dict[str, Any], images: list[list | None] | None, part: slice) -> dict[str, Any]:
    """The fields of a processor for some of the rows.

    Args:
        fields: `pixel_values` (patches, channels) and `image_grid_thw` (images, 3), one row's after the other's; others with
            an entry a row.
        images: of each row.
    """
    counts = [len(each or []) for each in images] if images is not None else []
    first, last = sum(counts[: part.start]), sum(counts[: part.stop])
    grid = fields.get("image_grid_thw")
    found = {}
    for name, value in fields.items():
        if name == "image_grid_thw":
            value = value[first:last]
        elif name == "pixel_values":
            patches = torch.as_tensor(grid).prod(dim=-1)
            value = value[int(patches[:first].sum()) : int(patches[:last].sum())]
        else:
            value = value[part]
        if len(value):
            found[name] = value
    return found
