"""The benchmark of rehearsals: its matrix, and that it goes on after the last cell that is in its file."""

import json

import pytest

from benchmarks.rehearsal import ROOT, cells, run
from saferflow.evaluation.ablation import changed
from saferflow.params import load_params


def test_every_combination_is_a_cell_and_its_settings_are_parameters():
    matrix = cells()
    assert len({cell.name for cell in matrix}) == 2 * 2 * 2 * (
        4 + 3
    )  # sizes, vision, pictures; launches, full and LoRA
    profiles = {size: load_params(ROOT / "profiles" / f"qwen2.5-vl-{size}.yaml") for size in ("3b", "7b")}
    params = {cell.name: changed(profiles[cell.size], cell.settings)[0] for cell in matrix}
    zero2 = params["3b 2xzero2 lora frozen 12MP"]
    assert (zero2.launch.processes, zero2.launch.strategy) == (2, "zero2")
    assert (zero2.policy.train_vision, zero2.policy.lora.rank, zero2.policy.max_pixels) == (False, 8, 12_845_056)


def test_what_was_ended_goes_on_with_the_cell_that_it_was_at(tmp_path):
    out, (first, second, *_) = tmp_path / "rehearsal.json", cells()

    def ended_at_the_second(cell, words):
        if cell == second:
            raise KeyboardInterrupt
        return {"peak_gb": 1.0}

    with pytest.raises(KeyboardInterrupt):
        run([first, second], out, None, False, ended_at_the_second)
    assert list(json.loads(out.read_text(encoding="utf-8"))["cells"]) == [first.name]
    carried = []
    run([first, second], out, None, False, lambda cell, words: carried.append(cell.name) or {"peak_gb": 2.0})
    assert carried == [second.name]
    assert json.loads(out.read_text(encoding="utf-8"))["cells"][first.name] == {"peak_gb": 1.0}
