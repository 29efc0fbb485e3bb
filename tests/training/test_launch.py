"""What the launcher of several processes leaves behind and finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saferflow.params import load_params
from saferflow.training.launch import deepspeed_config, free_dead_locks

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
HOLD = "import os, sys; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print('held', flush=True); sys.stdin.read()"


TWO_THAT_PART = """
import atexit, os, sys, time
from pathlib import Path
import torch.distributed
from saferflow.training.launch import end_together

class Told:
    def __del__(self):
        Path("taken-down-" + os.environ["RANK"]).touch()

sys.told = Told()
torch.distributed.init_process_group("gloo")
atexit.register(lambda: Path("flushed-" + os.environ["RANK"]).touch())
if os.environ["RANK"] == "0":
    time.sleep(1)
    Path("written").touch()
end_together()
Path("went on").touch()
"""


def test_a_lock_of_a_killed_build_goes_and_one_in_use_stays(tmp_path):
    for name in ("killed", "living"):
        (tmp_path / name).mkdir()
    holders = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD, str(tmp_path / name / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in ("killed", "living")
    ]
    try:
        for holder in holders:
            assert holder.stdout.readline() == b"held\n"
        holders[0].kill()
        holders[0].wait()
        free_dead_locks(tmp_path)
        assert not (tmp_path / "killed" / "lock").exists()
        assert (tmp_path / "living" / "lock").exists()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


def test_without_any_build_there_is_nothing_to_free(tmp_path):
    free_dead_locks(tmp_path / "none yet")


def test_processes_end_together_flush_and_do_not_take_their_interpreters_down(tmp_path):
    """Threads that ask for an interpreter which is being taken down abort the process now and then."""
    (tmp_path / "two.py").write_text(TWO_THAT_PART, encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "two.py"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")}, check=True,
    )  # fmt: skip
    assert {each.name for each in tmp_path.iterdir()} == {"two.py", "written", "flushed-0", "flushed-1"}


def test_one_process_goes_on_after_it_parted():
    """In a process of its own: of several, this one would end without a word."""
    program = "from saferflow.training.launch import end_together; end_together(); print('went on')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("strategy", ["zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_deepspeed_adds_up_and_reduces_gradients_in_float32_whatever_the_weights_are_in(strategy, dtype):
    """As DeepSpeed itself reads its configuration; where it says nothing of them, both are of the weights' dtype."""
    from deepspeed.runtime.config import DeepSpeedConfig

    launch = MICRO.launch.model_copy(update={"strategy": strategy})
    policy = MICRO.policy.model_copy(update={"dtype": dtype})
    config = {name: value for name, value in deepspeed_config(launch, policy).items() if value != "auto"}
    read = DeepSpeedConfig(config | {"train_batch_size": 1})
    assert read.bfloat16_config.enabled == (dtype == "bfloat16")
    assert read.communication_data_type == torch.float32
    assert read.grad_accum_dtype == "fp32"
