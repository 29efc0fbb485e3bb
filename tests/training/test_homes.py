"""Where a stage's checkpoints are: named by what it trains from, read by one process of several."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from saferflow.params import load_params
from saferflow.training.homes import delete_others, home

ROOT = Path(__file__).parents[2]
POLICY = load_params(ROOT / "params.yaml").policy

TWO_THAT_ASK = """
import os
from pathlib import Path
from saferflow.training import homes

hashed = []
homes.hash_of = lambda path, of=homes.hash_of: hashed.append(path.name) or of(path)
folders = [homes.home(stage, [Path("weights")], [], 1) for stage in ("sft", "dpo")]
Path("rank-" + os.environ["RANK"]).write_text(f"{folders[0]} {folders[1]} {hashed.count('weights')}")
"""


@pytest.fixture
def inputs(tmp_path):
    table = tmp_path / "table"
    table.write_bytes(b"rows")
    return table, tmp_path / "checkpoints"


def test_what_a_stage_trains_from_is_its_key(inputs):
    table, root = inputs
    first = home("sft", [table], [POLICY], 1, root)
    assert home("sft", [table], [POLICY], 1, root) == first
    table.write_bytes(b"more rows")
    second = home("sft", [table], [POLICY], 1, root)
    assert second != first
    assert home("sft", [table], [POLICY], 2, root) != second
    changed = POLICY.model_copy(update={"max_completion_tokens": 7})
    assert home("sft", [table], [changed], 1, root) != second


def test_naming_a_folder_deletes_none_and_deleting_leaves_its_own_and_other_stages(inputs):
    table, root = inputs
    first, other = home("sft", [table], [POLICY], 1, root), home("dpo", [table], [POLICY], 1, root)
    table.write_bytes(b"more rows")
    second = home("sft", [table], [POLICY], 1, root)
    for folder in (first, second, other):
        folder.mkdir(parents=True)
    home("sft", [table], [POLICY], 1, root)
    assert first.exists()
    delete_others(second)
    assert [folder.exists() for folder in (first, second, other)] == [False, True, True]


def test_of_two_processes_one_reads_the_weights_and_both_know_the_folder(tmp_path):
    (tmp_path / "two.py").write_text(TWO_THAT_ASK, encoding="utf-8")
    (tmp_path / "weights").write_bytes(b"w")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "two.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}, check=True,
    )  # fmt: skip
    first, second = ((tmp_path / f"rank-{rank}").read_text().split() for rank in (0, 1))
    assert first[:2] == second[:2]
    assert first[0].removeprefix("checkpoints/sft/") == first[1].removeprefix("checkpoints/dpo/")
    assert (first[2], second[2]) == ("2", "0")  # once for each stage, and never
