"""ZeRO-3: each of two processes loads its part of a policy, the parts are the file's weights, and faults are still named."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saferflow.training.weights import INDEX
from tests.training.published import published
from tests.training.test_published import rename

ROOT = Path(__file__).parents[2]
LOADED = """
import sys
from pathlib import Path
import deepspeed, torch
from safetensors import safe_open
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from saferflow.errors import PolicyError
from saferflow.params import load_params
from saferflow.training.policy import load_model
from saferflow.training.weights import _in_the_model

params = load_params(Path("profiles/micro.yaml"))
launch = params.launch.model_copy(update={"processes": 2, "strategy": "zero3"})
deepspeed.init_distributed()
folder = Path(sys.argv[1])
model = load_model(folder, params.policy, launch)
assert not is_deepspeed_zero3_enabled(), "the trainer's own configuration comes later"
weights = dict(model.named_parameters())
assert all(each.numel() == 0 for each in weights.values()), "nothing is whole in this process"
held = sum(each.ds_tensor.numel() for each in weights.values())
files = [safe_open(file, "pt") for file in folder.glob("*.safetensors")]
compared = 0
for tensors in files:
    for name in tensors.keys():
        each = weights[_in_the_model(name)]
        with deepspeed.zero.GatheredParameters([each]):
            assert torch.equal(each.data, tensors.get_tensor(name).float()), name
        compared += each.ds_numel
print(f"{held} held, {compared} compared, {sum(each.ds_numel for each in weights.values())} in all", flush=True)
torch.distributed.barrier()
try:
    load_model(Path(sys.argv[2]), params.policy, launch)
except PolicyError as error:
    print("refused:", error, flush=True)
torch.distributed.barrier()
"""

pytestmark = pytest.mark.slow


def test_each_process_holds_half_of_what_the_files_hold_and_a_fault_is_named_in_both(tmp_path):
    """Trained by transformers alone, a renamed tensor would be random numbers: with ZeRO-3 it reports no surplus names."""
    whole = published(tmp_path / "hub")
    renamed = shutil.copytree(whole, tmp_path / "renamed")
    rename(renamed, lambda name: "visual.merger.other" if name == "visual.merger.ln_q.weight" else name)
    assert (renamed / INDEX).exists()
    script = tmp_path / "loaded.py"
    script.write_text(LOADED, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         str(script), str(whole), str(renamed)],
        cwd=ROOT, env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"(\d+) held, (\d+) compared, (\d+) in all", done.stdout)  # two processes may share a line
    assert len(counts) == 2
    for held, compared, all_of_them in (map(int, numbers) for numbers in counts):
        assert compared == all_of_them
        assert all_of_them / 2 <= held <= 0.51 * all_of_them  # a tensor of an odd size is filled up to two equal parts
    refusals = done.stdout.split("refused:")[1:]
    assert len(refusals) == 2
    for line in refusals:
        assert "56 of the model's 57 tensors would be loaded; 1 are missing: model.visual.merger.ln_q.weight" in line
        assert "1 have names that it does not know: model.visual.merger.other" in line
