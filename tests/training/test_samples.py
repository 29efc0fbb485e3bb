"""Samples survive a kill: whatever was cut off, what comes out is what an uninterrupted run gives."""

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.training.generate import Prompt
from saferflow.training.samples import sampled

PROMPTS = [Prompt("", f"q{number}", None) for number in range(7)]
WHOLE = [[f"q{number} of {number // 3}", "x\ny"] for number in range(7)]


def run(file, stop: int = 99) -> tuple[list[list[str]], list[int]]:
    """The completions, and how many prompts each drawn batch had; the run breaks off before batch `stop` is drawn."""
    drawn, seeds = [], {}

    def draw(batches):
        for batch in batches:
            if len(drawn) == stop:
                raise KeyboardInterrupt
            drawn.append(len(batch.prompts))
            first = PROMPTS.index(batch.prompts[0])
            assert seeds.setdefault(first, batch.seed) == batch.seed
            yield [[f"{prompt.question} of {first // 3}", "x\ny"] for prompt in batch.prompts]

    found = []
    with suppress(KeyboardInterrupt):
        found.extend(sampled(file, PROMPTS, 3, 1, draw))
    return found, drawn


def test_batches_come_in_order_and_each_is_drawn_once(tmp_path):
    assert run(tmp_path / "samples.jsonl") == (WHOLE, [3, 3, 1])
    assert run(tmp_path / "samples.jsonl") == (WHOLE, [])


@pytest.mark.parametrize("stop", [0, 1, 2])
def test_a_run_that_broke_off_goes_on_with_the_batch_that_it_was_at(tmp_path, stop):
    run(tmp_path / "samples.jsonl", stop)
    assert run(tmp_path / "samples.jsonl") == (WHOLE, [3, 3, 1][stop:])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_batch_that_a_power_cut_left_empty_is_drawn_again_with_all_that_follow(tmp_path, place):
    file = tmp_path / "samples.jsonl"
    run(file)
    lines = file.read_bytes().splitlines(keepends=True)
    lines[place] = bytes(len(lines[place]) - 1) + b"\n"
    file.write_bytes(b"".join(lines))
    assert run(file) == (WHOLE, [3, 3, 1][place:])


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_file_that_was_cut_anywhere_gives_the_same_samples(tmp_path_factory, cut):
    file = tmp_path_factory.mktemp("samples") / "samples.jsonl"
    run(file)
    file.write_bytes(file.read_bytes()[:cut])
    assert run(file)[0] == WHOLE
    assert run(file) == (WHOLE, [])
