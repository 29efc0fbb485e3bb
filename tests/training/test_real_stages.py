"""The three training stages as processes: killed and gone on with, and spread over two of them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from safetensors.torch import load_file

from mlflow import MlflowClient
from saferflow.params import read_values
from saferflow.training.checkpoints import seal
from saferflow.training.launch import build_folder
from tests.flows.cluster import free_port

ROOT = Path(__file__).parents[2]
ENV = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
SMALLER = {"sft": {"batch_size": 8, "micro_batch_size": 8}, "dpo": {"batch_size": 4, "micro_batch_size": 4}}
SMALLER["grpo"] = {"rewards": {"rewarding:length": 1.0}, "group": 4, "min_validity": 0}
OWN_REWARD = """
async def length(completions, **columns):
    return [len(completion[0]["content"]) % 7 / 7 for completion in completions]
"""
"""A policy that has learnt nothing gets no signal from our rewards."""
ROUNDING = 1e-6
"""Mostly the weights are equal to the last bit; where a sum's parts fall otherwise in memory, the last bit may differ. A
resume that forgets the weights, the optimizer or the place in the data differs by 0.001 and more.
"""
INPUTS = {"sft": "base", "dpo": "sft", "grpo": "dpo"}

pytestmark = pytest.mark.slow
needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="DeepSpeed compiles an operator at first use")


def stage(name: str, folder: Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", f"saferflow.stages.{name}"],
        cwd=folder, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options,
    )  # fmt: skip


def finished(process: subprocess.Popen, status: int = 0) -> str:
    try:
        told, _ = process.communicate(timeout=500)
    except subprocess.TimeoutExpired:
        process.kill()  # the launcher's processes end with it
        raise
    assert process.returncode == status, told
    return told


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A folder in which any of the three stages can run."""
    folder = tmp_path_factory.mktemp("ready")
    params = read_values(ROOT / "profiles" / "micro.yaml")
    for name, changed in SMALLER.items():
        params[name] |= {**changed, "save_every": 2}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (folder / "rewarding.py").write_text(OWN_REWARD, encoding="utf-8")
    (folder / "data" / "sources").mkdir(parents=True)
    for name in ("base", "plan"):
        finished(stage(name, folder))
    for policy in ("sft", "dpo"):
        shutil.copytree(folder / "models" / "base", folder / "models" / policy)
    shutil.copy(folder / "data" / "tables" / "grpo.parquet", folder / "data" / "curated.parquet")
    return folder


@pytest.fixture
def here(ready, tmp_path):
    shutil.copytree(ready, tmp_path / "here")
    return tmp_path / "here"


def whole_checkpoints(folder: Path) -> list[Path]:
    found = [manifest.parent for manifest in (folder / "checkpoints").glob("*/*/checkpoint-*/MANIFEST.json")]
    return [checkpoint for checkpoint in found if not (checkpoint / "IN_PROGRESS").exists()]


def interrupted(name: str, folder: Path, how: int) -> str:
    """Start a stage, and end it when its first checkpoint is whole; what it said."""
    process = stage(name, folder)
    while not whole_checkpoints(folder):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.send_signal(how)
    told, _ = process.communicate(timeout=120)
    assert process.returncode, told
    assert not (folder / "models" / name / "model.safetensors").exists() or name in ("sft", "dpo")
    return told


def weights(name: str, folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "models" / name / "model.safetensors")


def largest_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.fixture(scope="module")
def whole(ready, tmp_path_factory):
    """Weights and rollouts of stages that nobody interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "here"
    shutil.copytree(ready, folder)
    ends = {}
    for name in INPUTS:
        finished(stage(name, folder))
        ends[name] = weights(name, folder)
        assert not list((folder / "checkpoints").glob("*/*"))
        if name != "grpo":
            shutil.rmtree(folder / "models" / name)
            shutil.copytree(ready / "models" / name, folder / "models" / name)
    return ends, (folder / "reports" / "rollouts.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_weights_are_those_of_a_run_that_nobody_interrupted(here, whole, name, how):
    told = interrupted(name, here, how)
    if how == signal.SIGTERM:
        assert "stopped by SIGTERM" in told
    assert "goes on from" in finished(stage(name, here))
    assert largest_difference(weights(name, here), whole[0][name]) <= ROUNDING
    if name == "grpo":
        assert (here / "reports" / "rollouts.jsonl").read_text(encoding="utf-8") == whole[1]
    assert not list((here / "checkpoints").glob("*/*"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(here, whole):
    interrupted("sft", here, signal.SIGTERM)
    kept = sorted((here / "checkpoints").glob("sft/*/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    if len(kept) < 2:
        pytest.skip("SIGTERM came at the first checkpoint's step, so there is only one")
    with (kept[-1] / "optimizer.pt").open("r+b") as file:
        file.seek(2000)
        file.write(b"\0\1\2\3")
    told = finished(stage("sft", here))
    assert f"{kept[-1].name}: not used, optimizer.pt is not what was written" in told
    assert f"goes on from {kept[-2].relative_to(here)}" in told
    assert largest_difference(weights("sft", here), whole[0]["sft"]) <= ROUNDING


def test_other_parameters_start_anew(here):
    interrupted("sft", here, signal.SIGTERM)
    params = yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))
    params["sft"]["learning_rate"] /= 2
    (here / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert "goes on from" not in finished(stage("sft", here))


def test_a_full_disk_leaves_the_last_good_checkpoint(here):
    """A limit on the size of a file stands for the disk: the weights fit, the optimizer's state does not."""
    interrupted("sft", here, signal.SIGTERM)
    kept = max((here / "checkpoints").glob("sft/*/checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    size = max((kept / name).stat().st_size for name in ("model.safetensors", "rng_state.pth"))
    limited = f"import resource,runpy; resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 4096},) * 2); "
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", limited + "runpy.run_module('saferflow.stages.sft', run_name='__main__')"],
        cwd=here, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    told = finished(process, status=1)
    assert "could not be written" in told
    assert f"{kept.name} is kept" in told
    assert "goes on from" in finished(stage("sft", here))


def spread(folder: Path, processes: int, strategy: str, save_every: int = 100, **launch) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["launch"] |= {"processes": processes, "strategy": strategy, **launch}
    for name in INPUTS:
        params[name] |= {"batch_size": 8, "micro_batch_size": 4, "save_every": save_every}
    params["grpo"]["rollout_batch"] = 8
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")


def curve(name: str, folder: Path, monkeypatch) -> list[float]:
    """The loss at every step, as the stage's MLflow run has it."""
    monkeypatch.setitem(ENV, "MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    run = client.create_run(client.create_experiment(f"{name}-{time.time_ns()}")).info.run_id
    monkeypatch.setitem(ENV, "MLFLOW_RUN_ID", run)
    finished(stage(name, folder))
    return [point.value for point in sorted(client.get_metric_history(run, "loss"), key=lambda point: point.step)]


def with_few_images(rows: pa.Table, share: int) -> pa.Table:
    """The rows with the image of one in `share`."""
    few = [image if number % share == 0 else None for number, image in enumerate(rows["image"].to_pylist())]
    place = rows.schema.get_field_index("image")
    return rows.set_column(place, rows.schema.field(place), pa.array(few, rows.schema.field(place).type))


@needs_a_compiler
@pytest.mark.parametrize(
    ("name", "strategy", "share"),
    [
        pytest.param("sft", "zero2", 1, id="sft-zero2"),
        pytest.param("dpo", "zero2", 1, id="dpo-zero2"),
        pytest.param("sft", "zero2", 2, id="sft-zero2-few-images"),
        pytest.param("dpo", "ddp", 2, id="dpo-ddp-few-images"),
        pytest.param("sft", "zero3", 2, id="sft-zero3-few-images"),
    ],
)
def test_two_processes_learn_as_one_does(here, name, strategy, share, monkeypatch):
    """The same global batch: 20 steps of 8 rows, all of them in every batch as many tokens or weighed the same.

    Where each second row has an image, a process at times has none, and no gradient of the vision tower for the other one. (In a
    step without any image, one process leaves the tower as it is, and several go on with its momentum.)
    """
    table = here / "data" / "tables" / f"{name}.parquet"
    rows = with_few_images(pq.read_table(table), share)
    pq.write_table(pa.concat_tables([rows] * (160 // len(rows) + 1)).slice(0, 160), table)
    spread(here, 1, "ddp")
    alone = curve(name, here, monkeypatch)
    shutil.rmtree(here / "models" / name)
    spread(here, 2, strategy)
    for operator in build_folder().glob("*"):
        (operator / "lock").touch()  # as a process leaves it that was killed while it compiled
    together = curve(name, here, monkeypatch)
    assert len(alone) == len(together) == 20
    assert max(abs(a - b) for a, b in zip(alone, together, strict=True)) <= 1e-4


@needs_a_compiler
@pytest.mark.parametrize("strategy", ["zero2", "zero3"])
def test_two_processes_roll_out_and_update_together(here, strategy):
    spread(here, 2, strategy)
    said = finished(stage("grpo", here))
    parts = re.search(r"this process holds ([\d,]+) of ([\d,]+) parameters", said)
    assert (parts is not None) == (strategy == "zero3"), said
    if parts is not None:
        held, whole = (int(number.replace(",", "")) for number in parts.groups())
        assert whole == sum(value.numel() for value in weights("dpo", here).values())
        assert whole / 2 <= held <= 0.51 * whole  # a tensor of an odd size is filled up to two equal parts
    lines = [
        json.loads(line) for line in (here / "reports" / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    steps = Counter(line["step"] for line in lines)
    assert set(steps.values()) == {8}
    for step in steps:
        assert set(Counter(line["row"] for line in lines if line["step"] == step).values()) == {4}
    assert not list((here / "checkpoints").glob("*/*"))
    plain = subprocess.run(
        [sys.executable, "-c", "from transformers import Qwen2_5_VLForConditionalGeneration as M; "
         "M.from_pretrained('models/grpo', use_safetensors=True)"],
        cwd=here, env=ENV, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "newly initialized" not in plain.stderr


@needs_a_compiler
@pytest.mark.parametrize(("name", "strategy"), [("sft", "zero2"), ("grpo", "zero3"), ("dpo", "zero2_offload")])
def test_processes_that_share_a_model_go_on_from_a_kill(here, name, strategy):
    spread(here, 2, strategy, save_every=2)
    whole = here.parent / "whole"
    shutil.copytree(here, whole)
    finished(stage(name, whole))
    killed(name, here)
    assert "goes on from" in finished(stage(name, here))
    assert largest_difference(weights(name, here), weights(name, whole)) <= ROUNDING


@needs_a_compiler
def test_a_pickle_in_a_checkpoint_of_deepspeed_is_refused_and_not_run(here, tmp_path):
    """With a manifest that is right, as someone who may write there could make it."""
    spread(here, 2, "zero2", save_every=2)
    killed("sft", here)
    [folder] = {
        state.parent for state in (here / "checkpoints").glob("sft/*/checkpoint-*/global_step*/*optim_states.pt")
    }
    [state, *_] = folder.glob("*optim_states.pt")
    left = tmp_path / "was-here"
    torch.save(Planted(left), state)
    (folder.parent / "IN_PROGRESS").touch()
    (folder.parent / "MANIFEST.json").unlink()
    seal(folder.parent)
    process = stage("sft", here)
    told, _ = process.communicate(timeout=500)
    assert process.returncode != 0
    assert "Weights only load failed" in told
    assert not left.exists()


class Planted:
    """Makes a file where it is unpickled."""

    def __init__(self, file: Path):
        self._file = str(file)

    def __reduce__(self):
        return Path(self._file).touch, ()


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("zero2", marks=needs_a_compiler)])
def test_two_nodes_meet_at_the_address_of_the_params(here, strategy):
    """Two launchers on this machine, each with a process of its own, know nothing of each other but the address."""
    spread(here, 1, strategy, nodes=2, rendezvous=f"127.0.0.1:{free_port()}")
    shutil.rmtree(here / "models" / "sft")
    nodes = [stage("sft", here) for _ in range(2)]
    told = [finished(node) for node in nodes]
    assert sum("sft  step" in each for each in told) == 1, told
    assert (here / "models" / "sft" / "model.safetensors").exists()
    assert json.loads((here / "metrics" / "sft.json").read_text())["rows"] > 0


@pytest.mark.parametrize("name", ["sft", "grpo"])
def test_a_kill_in_the_second_epoch_loses_no_row_and_sees_none_twice(here, name):
    change(here, **{name: {"epochs": 2, "save_every": 2}})
    whole = here.parent / "whole"
    shutil.copytree(here, whole)
    steps = {"sft": 10, "grpo": 20}[name]
    finished(stage(name, whole))
    process = stage(name, here)
    while not any(int(each.name.split("-")[1]) > steps for each in whole_checkpoints(here)):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert "goes on from" in finished(stage(name, here))
    assert largest_difference(weights(name, here), weights(name, whole)) <= ROUNDING
    if name == "grpo":
        rollouts = [(each / "reports" / "rollouts.jsonl").read_text(encoding="utf-8") for each in (here, whole)]
        assert rollouts[0] == rollouts[1]
        lines = [json.loads(line) for line in rollouts[0].splitlines()]
        assert set(Counter(line["row"] for line in lines).values()) <= {4, 8}


def test_without_dpo_the_sft_policy_goes_on_as_it_is(here):
    params = yaml.safe_load((here / "params.yaml").read_text(encoding="utf-8"))
    (here / "params.yaml").write_text(yaml.safe_dump(params | {"dpo": None}), encoding="utf-8")
    shutil.rmtree(here / "models" / "dpo")
    finished(stage("dpo", here))
    assert largest_difference(weights("dpo", here), weights("sft", here)) == 0
    assert json.loads((here / "metrics" / "dpo.json").read_text()) == {"rows": 0}


def killed(name: str, folder: Path) -> None:
    """Start a stage in a group of its own, and end all of its processes when a checkpoint is whole."""
    process = stage(name, folder, start_new_session=True)
    while not whole_checkpoints(folder):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


@needs_a_compiler
@pytest.mark.parametrize(("name", "packed"), [("sft", True), ("dpo", False), ("grpo", True)])
def test_one_row_with_an_image_does_not_leave_the_other_process_waiting(here, name, packed):
    """ZeRO-3: the process without an image has a part of the vision tower's weights that the other one needs."""
    spread(here, 2, "zero3")
    change(here, policy={"packed": packed}, grpo={"epochs": 1})
    table = here / "data" / ("curated.parquet" if name == "grpo" else f"tables/{name}.parquet")
    rows = with_few_images(pq.read_table(table).slice(0, 16), 5)
    pq.write_table(rows, table)
    assert 1 < len(rows) - rows["image"].null_count < 8
    finished(stage(name, here))
    assert weights(name, here)


def test_curate_goes_on_with_the_batch_at_which_it_was_killed_and_keeps_the_same_prompts(here):
    change(here, curate={"batch_size": 8, "quality": [0.0, 1.0], "min_instability": 0.0, "keep": 40})
    whole = here.parent / "whole"
    shutil.copytree(here, whole)
    finished(stage("curate", whole))
    process = stage("curate", here)
    while (
        not (batches := [*(here / "checkpoints" / "curate").glob("*/samples.jsonl")]) or batches[0].stat().st_size < 10
    ):
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.kill()
    process.wait()
    kept = batches[0].read_bytes()
    assert not (here / "metrics" / "curate.json").exists()
    finished(stage("curate", here))
    for file in ("data/curated.parquet", "metrics/curate.json", "reports/box.svg"):
        assert (here / file).read_bytes() == (whole / file).read_bytes(), file
    assert kept.endswith(b"\n")
    assert not list((here / "checkpoints").glob("curate/*"))


def test_dpo_samples_its_own_near_misses_and_trains_where_it_finds_none(here):
    """A policy that has learnt nothing writes nothing well-formed: every pair keeps its planted fault."""
    change(here, dpo={"near_miss": {"share": 0.5, "planted": 0.5, "samples": 2, "temperature": 1.0, "batch_size": 16}})
    told = finished(stage("dpo", here))
    metrics = json.loads((here / "metrics" / "dpo.json").read_text())
    assert "0 near misses for " in told
    assert metrics["near_misses"] == 0
    assert not list((here / "checkpoints").glob("near_miss/*"))


def watch(folder: Path, **stages: dict) -> None:
    """Have policies answer twelve rows while they are trained."""
    rows = pq.read_table(folder / "data" / "tables" / "grpo.parquet").slice(0, 12)
    pq.write_table(rows, folder / "data" / "tables" / "watch.parquet")
    change(folder, watch={"share": 0.1, "batch_size": 8, **stages})


@pytest.mark.parametrize("name", INPUTS)
def test_a_watched_stage_that_was_killed_ends_as_one_that_was_not(here, whole, name):
    """Its curve is whole, and with the last policy kept its weights are those of a stage that nobody watched."""
    watch(here, **{name: {"every": 2, "keep": "last", "patience": None}})
    interrupted(name, here, signal.SIGKILL)
    told = finished(stage(name, here))
    assert "goes on from" in told
    assert f"{name}  watch after step " in told
    assert largest_difference(weights(name, here), whole[0][name]) <= ROUNDING
    metrics = json.loads((here / "metrics" / f"{name}.json").read_text())
    assert metrics["watch_looks"] == -(-metrics["watch_step"] // 2)
    assert metrics["watch_score"] == (metrics["watch_safety"] + metrics["watch_helpfulness"]) / 2
    assert 0 <= metrics["watch_attack_success_rate"] <= 100


@needs_a_compiler
@pytest.mark.parametrize(
    ("name", "strategy"), [("sft", "ddp"), ("sft", "zero3"), ("dpo", "zero2"), ("grpo", "zero3")]
)
def test_processes_watch_together_and_end_with_the_best_policy(here, name, strategy):
    """A policy that has learnt nothing scores the same at each look: the first is the best, and patience ends training."""
    spread(here, 2, strategy)
    watch(here, **{name: {"every": 2, "keep": "best", "patience": 1}})
    first = here.parent / "first"
    shutil.copytree(here, first)
    told = finished(stage(name, here))
    assert told.count(f"{name}  watch after step 2") == 1, told
    metrics = json.loads((here / "metrics" / f"{name}.json").read_text())
    assert (metrics["watch_step"], metrics["watch_looks"], metrics["watch_stopped_early"]) == (2, 2, 1)
    change(first, watch={name: {"every": 4, "keep": "last", "patience": None}}, **{name: {"save_every": 2}})
    killed(name, first)
    kept = whole_checkpoints(first)[0]
    assert kept.name == "checkpoint-2"
    stored = load_file(kept / "model.safetensors")
    saved = weights(name, here)
    assert max((saved[key] - stored[key]).abs().max().item() for key in saved) <= ROUNDING


def change(folder: Path, **sections: dict) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    for name, changed in sections.items():
        params[name] |= changed
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
