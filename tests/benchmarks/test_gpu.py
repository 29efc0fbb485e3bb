"""The benchmark for a GPU: it goes on after what it finished, tries what failed again, and runs on a CPU with a thin model."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks.gpu import PARTS, ROOT, run_parts


def test_a_second_call_runs_what_is_missing_and_what_failed(tmp_path):
    out, carried = tmp_path / "gpu.json", []

    def fails_at_dpo(name, left):
        carried.append(name)
        return {"error": "out of memory"} if name == "dpo-packed" else {"tokens_per_second": 1.0}

    run_parts(PARTS[:3], out, 530, False, fails_at_dpo)
    run_parts(PARTS[:4], out, 530, False, fails_at_dpo)
    assert carried == ["prepare", "sft-packed", "dpo-packed", "dpo-packed", "grpo-packed"]
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert parts["dpo-packed"]["error"] == "out of memory"
    assert parts["grpo-packed"]["tokens_per_second"] == 1.0


def test_no_part_begins_when_the_time_is_over_and_none_without_the_checkpoint(tmp_path):
    out, carried = tmp_path / "gpu.json", []
    run_parts(PARTS, out, 5, False, lambda name, left: carried.append(name) or {})
    run_parts(PARTS, out, 530, False, lambda name, left: carried.append(name) or {"error": "no room"})
    assert carried == ["prepare"]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_each_kind_of_part_runs_thin_on_a_cpu(tmp_path):
    """Two layers, 8,022 words: 7 GB at most. The embedded profile has tests of its own."""
    out = tmp_path / "gpu.json"
    names = [name for name in PARTS if name not in ("dpo-padded", "grpo-padded", "embedded")]
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "gpu.py"), "--size", "thin", "--device", "cpu"]
    command += ["--words", "8000", "--seconds", "1400", "--only", ",".join(names), "--out", str(out)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stderr
    parts = json.loads(out.read_text(encoding="utf-8"))["parts"]
    assert list(parts) == names
    assert not {name: figures["error"] for name, figures in parts.items() if "error" in figures}
    for stage in ("sft", "dpo", "grpo"):
        assert parts[f"{stage}-packed"]["tokens_per_second"] > 0
    assert parts["sft-packed"]["loss"] == pytest.approx(parts["sft-padded"]["loss"], rel=1e-2)  # the same rows
    assert parts["rollouts"]["completions"] == 4 * parts["rollouts"]["prompts"]
