"""Rollouts in parts: while the policy draws the next completions, a judge behind a server reads the earlier ones.

    drawing   part 0 | part 1 | part 2 |
    judging          | part 0 | part 1 | part 2      one thread, so that parts are judged in their order

Shapes: `rows` are the completions of a batch; its prompts come as lists of token ids, one per row, and a group repeats its
prompt. `prompts` are the different ones among them. The fields of the processor hold `pixel_values` (patches, channels) and
`image_grid_thw` (images, 3) for all rows, and in other fields one list per row: `part_of` cuts them.

Source: ours; TRL draws a whole batch and has it judged afterwards.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from trl.models.utils import unwrap_model_for_generation
from trl.trainer.utils import pad

from saferflow.training.branching import image_token_ids, sample
from saferflow.training.drafts import Drafter

PER_IMAGE = ("pixel_values", "image_grid_thw")
Ahead = Callable[[Sequence[str], Sequence[str]], None]
"""Submits completions to the judge, as row ids and texts; the judge keeps its marks for the rewards."""


def unexpanded(prompt_ids: Sequence[Sequence[int]], placeholder_ids: Collection[int]) -> list[list[int]]:
    """Prompts with one placeholder an image, in place of one for each of its tokens.

    vLLM in the training process puts an image's tokens in by itself; TRL 1.16 hands it prompts that have them already, and vLLM
    adds them once more (huggingface/trl#6294). A server of TRL's wants them.

    Args:
        prompt_ids: token ids, one list a prompt; between two images stands at least one other token.
        placeholder_ids: tokens that stand for pixels.
    """
    return [
        [token for before, token in pairwise([None, *ids]) if token != before or token not in placeholder_ids]
        for ids in prompt_ids
    ]


class InParts:
    """Mixed into TRL's GRPO trainer: draws `rollout_micro_batch` completions at once; None draws all of them."""

    rollout_micro_batch: int | None = None
    branching: bool = False
    """Whether `branching.sample` draws, which reads each different prompt of a part once, in place of TRL's engine."""
    ahead: Ahead | None = None
    _judging: Future | None = None

    def _generate_single_turn(
        self, prompt_ids: list, images: list | None, fields: dict[str, Any], generations: int, *args: Any
    ) -> tuple[list[list[int]], list | None]:
        completion_ids, logprobs = [], []
        for part in parts(len(prompt_ids), self.rollout_micro_batch):
            part_images = images[part] if images is not None else None
            part_images = part_images if part_images and any(part_images) else None
            arguments = prompt_ids[part], part_images, part_of(fields, images, part)
            if self.branching:
                part_ids, part_logprobs = self._branched(*arguments), None
            else:
                if self.use_vllm and self.vllm_mode == "colocate":
                    arguments = (unexpanded(prompt_ids[part], self._placeholder_ids), *arguments[1:])
                part_ids, part_logprobs = super()._generate_single_turn(*arguments, generations, *args)
            completion_ids += part_ids
            logprobs += part_logprobs or []
            self._have_judged(part, part_ids)
        return completion_ids, logprobs or None

    def _branched(self, prompt_ids: list[list[int]], images: list | None, fields: dict[str, Any]) -> list[list[int]]:
        """The completions' token ids, one list per row; each different prompt is read once."""
        firsts, branches = different(prompt_ids, images, fields)  # (prompts,), (rows,)
        prompt_fields = part_of(fields, images, firsts)
        ids = [torch.tensor(prompt_ids[row]) for row in firsts]
        # `input_ids` and `attention_mask` (prompts, tokens), padded on the left; the images' fields as they are
        prompts = {
            "input_ids": pad(ids, padding_value=self._tokenizer.pad_token_id, padding_side="left"),
            "attention_mask": pad([torch.ones_like(prompt) for prompt in ids], padding_value=0, padding_side="left"),
        }
        for name, value in prompt_fields.items():
            per_image = name in PER_IMAGE
            prompts[name] = (
                torch.as_tensor(value) if per_image else pad([torch.tensor(row) for row in value], padding_side="left")
            )
        prompts = {name: value.to(self.accelerator.device) for name, value in prompts.items()}
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            return sample(
                model,
                prompts,
                branches,
                max_tokens=self.max_completion_length,
                temperature=self.temperature,
                top_p=self.top_p,
                ends=self.eos_token_ids,
                drafter=self._drafter,
            )

    @property
    def _placeholder_ids(self) -> frozenset[int]:
        """Tokens that stand for pixels."""
        return frozenset(image_token_ids(self.accelerator.unwrap_model(self.model).config))

    @cached_property
    def _drafter(self) -> Drafter:
        """Drafts from this process's completions of earlier steps."""
        return Drafter()

    def _generate(self, prompts: list) -> tuple:
        self._drawing = True
        try:
            return super()._generate(prompts)
        finally:
            self._drawing = False

    def _have_judged(self, part: slice, completion_ids: list[list[int]]) -> None:
        if self.ahead is None or not self._drawing or not self.model.training:
            return
        texts = self.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        rows, before = [row["row"] for row in self._input_rows[part]], self._judging

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
        """Wait until all drawn completions are judged.

        Raises:
            EndpointError: the judge could not be reached.
        """
        judging, self._judging = self._judging, None
        if judging is not None:
            judging.result()


def parts(rows: int, size: int | None) -> Iterator[slice]:
    """Consecutive slices of `size` rows that cover all rows; None for one slice."""
    size = size or max(rows, 1)
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))


def different(
    prompt_ids: Sequence[list[int]], images: list[list | None] | None, fields: dict[str, Any]
) -> tuple[list[int], list[int]]:
    """The different prompts, by tokens and pixels: the first row of each, (prompts,), and the prompt of every row, (rows,)."""
    firsts: list[int] = []
    branches, known = [], {}
    for row, ids in enumerate(prompt_ids):
        same_tokens = known.setdefault(tuple(ids), [])
        row_pixels = _pixels(fields, images, row)
        branch = next((number for number, pixels in same_tokens if torch.equal(pixels, row_pixels)), None)
        if branch is None:
            branch = len(firsts)
            firsts.append(row)
            same_tokens.append((branch, row_pixels))
        branches.append(branch)
    return firsts, branches


def _pixels(fields: dict[str, Any], images: list[list | None] | None, row: int) -> torch.Tensor:
    """(patches, channels) of a row's images; (0,) without any."""
    return torch.as_tensor(part_of(fields, images, [row]).get("pixel_values", torch.zeros(0)))


def part_of(fields: dict[str, Any], images: list[list | None] | None, part: slice | Sequence[int]) -> dict[str, Any]:
    """The fields of a processor for some of the rows.

    Args:
        fields: `pixel_values` (patches, channels) and `image_grid_thw` (images, 3), in the order of the rows; others with one
            entry per row.
        images: the images of each row.
        part: the rows, in order.
    """
    counts = (
        [len(group or []) for group in images] if images is not None else [0] * len(next(iter(fields.values()), ()))
    )
    rows = range(len(counts))[part] if isinstance(part, slice) else part
    before = [0, *itertools.accumulate(counts)]  # (rows + 1,): the number of each row's first image
    wanted = [image for row in rows for image in range(before[row], before[row + 1])]
    selected: dict[str, Any] = {}
    for name, value in fields.items():
        if name in PER_IMAGE and not wanted:
            continue
        if name == "image_grid_thw":
            selected[name] = torch.as_tensor(value)[wanted]
        elif name == "pixel_values":
            # (images + 1,): where each image's patches start
            ends = [0, *torch.as_tensor(fields["image_grid_thw"]).prod(dim=-1).cumsum(0).tolist()]
            patches = torch.as_tensor(value)
            selected[name] = torch.cat([patches[ends[image] : ends[image + 1]] for image in wanted])
        else:
            selected[name] = [value[row] for row in rows]
    return selected
