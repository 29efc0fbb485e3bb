"""A profile's rehearsal: what is cut and what is kept, what is counted, and real stages that run or fail beside the checkout."""

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from saferflow.cli.rehearse import rehearse as carry_out
from saferflow.errors import PipelineError
from saferflow.params import VLLMParams, load_params
from saferflow.rehearsal import obstacles
from saferflow.rehearsal.checkpoint import cut, published_config, with_words, write_checkpoint
from saferflow.rehearsal.memory import Counts, kinds
from saferflow.rehearsal.pace import Pace, duration
from saferflow.rehearsal.process import Done
from saferflow.rehearsal.recipe import Machine, rehearsed
from saferflow.rehearsal.whole import disk, whole_rows
from tests.training.published import published

ROOT = Path(__file__).parents[2]
THREE = load_params(ROOT / "profiles" / "qwen2.5-vl-3b.yaml")
BASE = "Qwen/Qwen2.5-VL-3B-Instruct"
CPU = Machine(0, 16 * 10**9)
LEFT_OUT = {".git", ".venv", "__pycache__", ".pytest_cache", ".ruff_cache", ".hypothesis", "logs"}
TINY = ("policy.min_pixels=3136", "policy.max_pixels=12544")
FEW = (*TINY, "grpo.rollout_micro_batch=4", "curate.batch_size=2", "curate.samples=2", "evaluate.batch_size=2")


def rehearse(*arguments: str, settings: tuple[str, ...]) -> tuple[int, str]:
    command = [sys.executable, "-m", "saferflow", "rehearse", *arguments]
    command += [part for setting in settings for part in ("--set", setting)]
    environ = {**os.environ, "COLUMNS": "160", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    environ |= {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environ)
    return done.returncode, done.stdout + done.stderr


def contents() -> dict[str, str]:
    """Each file of the checkout and its hash."""
    found = {}
    for folder, names, files in os.walk(ROOT):
        names[:] = [name for name in names if name not in LEFT_OUT]
        for file in (Path(folder) / name for name in files):
            found[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def test_what_takes_memory_stays_and_rows_and_steps_are_few():
    recipe = rehearsed(THREE, CPU, steps=2, tokens=64, thin=True, base="here")
    small = recipe.params
    assert small.sft.micro_batch_size == THREE.sft.micro_batch_size == 2
    assert recipe.rows["sft"] == 2 * 2  # steps, rows of a micro batch, one process
    assert small.grpo.batch_size == small.grpo.rollout_batch == THREE.grpo.rollout_micro_batch == 32
    assert recipe.rows["curated"] == 2 * 32 // 4  # steps, completions, group
    assert (small.policy.max_pixels, small.curate.samples) == (THREE.policy.max_pixels, THREE.curate.samples)
    assert (small.launch.processes, small.launch.strategy, small.policy.device) == (1, "ddp", "auto")
    assert "judge (Qwen/Qwen3-VL-32B-Instruct) by rules" in recipe.replaced
    assert "what sft, dpo, grpo answer while they train by nothing" in recipe.replaced
    assert (small.watch.share, small.watch.sft) == (0, None)


def test_a_machine_with_enough_gpus_keeps_the_processes():
    recipe = rehearsed(THREE, Machine(8, 80 * 10**9), steps=2, tokens=64, thin=False, base="here")
    assert recipe.params.launch.processes == 8
    assert recipe.params.sft.batch_size == 8 * THREE.sft.micro_batch_size
    assert recipe.params.policy.device == "cuda"


def test_rows_of_the_whole_run_are_those_that_the_profile_speaks_of():
    rows = whole_rows(THREE, None)
    assert rows["sft"] == round(round(6000 / 0.33) * 0.33) == 6000
    assert rows["dpo"] == round(18_182 * 0.34) * 3 == 18_546
    assert rows["evaluation"] == round(18_182 / 0.985 * 0.05 / 0.95) == 972
    assert whole_rows(THREE, 1000)["grpo"] == round(1000 * 0.985 * 0.33) == 325


def test_a_whole_stage_takes_its_micro_steps_at_the_measured_pace():
    small = rehearsed(THREE, CPU, steps=2, tokens=64, thin=False, base="here").params
    trained = duration("sft", Pace(3.0), 0, THREE, small, {"sft": 6000})
    assert trained.seconds == 6000 * 2 / (2 * 8) * 3.0  # rows, epochs; a micro batch on eight processes
    assert trained.sum == "750 micro steps x 3.00 s"


def test_only_the_completion_grows_with_its_tokens_and_the_prompt_is_read_once():
    """5 s of reading and 0.1 s a token: 69.0 s with 640 tokens, 5.1 s with one."""
    small = rehearsed(THREE, CPU, steps=2, tokens=64, thin=False, base="here").params
    pace = Pace.through((1, 5.1), (640, 69.0))
    assert pace.seconds(0) == pytest.approx(5.0)
    drawn = duration("evaluate", pace, 8, THREE, small, {"evaluation": 100})
    assert drawn.seconds == pytest.approx(4 * 100 / 8 * (5.0 + 2048 * 0.1))  # four policies; eight answers were drawn
    assert drawn.sum == "50 x (5.00 s + 2,048 tokens x 0.1 s)"


def test_a_longer_completion_that_took_no_longer_measures_nothing():
    assert Pace.through((1, 2.0), (64, 1.9)) is None


def test_the_first_stage_without_room_on_the_disk_is_named(monkeypatch, tmp_path):
    """3B in bfloat16, full fine-tuning: a policy of 7.5 GB twice a stage, three checkpoints of 52.6 GB while it trains."""
    counts = Counts(3_754_622_976, 3_754_622_976, 0, 0)
    written = disk("sft", counts, THREE)
    assert (written.policy, written.checkpoints) == (2 * counts.parameters, 3 * (2 + 12) * counts.parameters)
    sft = 2 * written.policy + written.checkpoints
    monkeypatch.setattr(obstacles.shutil, "disk_usage", lambda _: SimpleNamespace(free=sft + 1))
    machine = Machine(8, 80 * 10**9)
    found = obstacles.obstacles(tmp_path, THREE, machine, counts, 0, {})
    assert [stage for stage, why in found if "of disk" in why] == ["dpo"]  # its own policy comes beside sft's
    assert found[0][0] == "plan"


def test_activations_that_were_measured_on_a_gpu_count_with_the_whole_run(tmp_path):
    counts = Counts(3_754_622_976, 3_754_622_976, 0, 0)
    held = kinds("sft", counts, THREE, 0).total  # 15.0 GB a process of eight
    found = obstacles.obstacles(tmp_path, THREE, Machine(8, round(held) + 10**9), counts, 0, {"sft": 2e9})
    assert any(stage == "sft" and "and activations 2.0 GB want" in why for stage, why in found)


@pytest.mark.parametrize("there", [True, False])
def test_stages_that_vllm_draws_for_stop_where_it_is_not_installed(monkeypatch, tmp_path, there):
    (program := tmp_path / "vllm").touch(mode=0o755)
    monkeypatch.setenv("SAFERFLOW_VLLM", str(program if there else tmp_path / "nowhere"))
    drawn = THREE.model_copy(update={"run": THREE.run.model_copy(update={"vllm": VLLMParams(concurrency=1, arguments=())})})
    found = obstacles.obstacles(tmp_path, drawn, CPU, Counts(1, 1, 0, 0), 0, {})
    assert any(stage == "curate" and "run.vllm is set: SAFERFLOW_VLLM names" in why for stage, why in found) is not there


def test_as_many_processes_as_are_asked_for_keep_the_strategy_without_a_gpu():
    small = rehearsed(THREE, CPU, steps=2, tokens=64, thin=True, base="here", processes=2).params
    assert (small.launch.processes, small.launch.strategy) == (2, "zero2")
    assert small.sft.batch_size == 2 * THREE.sft.micro_batch_size


def test_bytes_by_kind_are_those_of_the_strategy():
    counts, million = Counts(10**6, 10**6, 0, 100), 10**6
    shared = kinds("dpo", counts, THREE, 0)  # zero2 in bfloat16 over eight processes
    assert (shared.weights, shared.reference) == (2 * million, 2 * million)
    assert (shared.gradients, shared.optimiser) == (4 * million / 8, 12 * million / 8)
    alone = rehearsed(THREE, CPU, steps=2, tokens=64, thin=False, base="here").params
    copied = kinds("sft", counts, alone, 0)  # ddp: float32 masters
    assert copied.total == 16 * million
    assert copied.reference == 0
    drawn = kinds("curate", counts, THREE, 952)
    assert drawn.cache == 8 * 8 * (952 + 2048) * 100 * 2  # prompts, samples, tokens, numbers a token, bytes


def test_the_configuration_written_here_is_that_of_the_published_size():
    from transformers import Qwen2_5_VLConfig

    config = published_config(BASE, None)
    assert Counts.of(Qwen2_5_VLConfig(**config), THREE.policy).parameters == 3_754_622_976
    thin = cut(config)
    assert (thin["num_hidden_layers"], thin["vision_config"]["depth"]) == (2, 2)
    assert (thin["hidden_size"], thin["vocab_size"]) == (2048, 151_936)


def test_a_step_is_timed_without_the_first_one_and_its_save():
    lines = ((9.0, "sft  step 1/3  loss 2"), (15.0, "sft  step 3/3  loss 1"), (30.0, "saved"))
    done = Done(0, 31.0, lines, 10, peaked=20.0)
    assert done.step_seconds == (15.0 - 9.0) / 2
    assert done.peaked_while_saving


def test_a_stage_that_fails_is_named_with_its_remedy_and_the_checkout_stays_as_it_is(tmp_path):
    before = contents()
    settings = (*FEW, f"policy.base={published(tmp_path / 'hub')}", "plan.perturbations={nonsense: 1.0}")
    console, size = Console(file=io.StringIO(), width=200), {"steps": 2, "tokens": 8, "thin": False, "prompts": None}
    with pytest.raises(PipelineError) as error:
        carry_out(console, ROOT, THREE, settings, **size)
    assert "stage plan failed: plan.perturbations: nonsense unknown; the operators are" in str(error.value)
    assert "first to fail: plan" in console.file.getvalue()
    assert contents() == before


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_checkpoint_at_hand_goes_through_every_stage_and_the_checkout_stays_as_it_is(tmp_path):
    before = contents()
    status, output = rehearse(
        "--profile", "qwen2.5-vl-3b", settings=(*FEW, f"policy.base={published(tmp_path / 'hub')}")
    )
    assert status == 0, output
    assert f"real: {tmp_path / 'hub'}" in output
    assert "the first thing that would fail: plan: data/sources/aligned is not there" in output
    assert "then: sft: policy.device is cuda and this machine has no GPU" in output
    assert contents() == before


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_thin_3b_with_an_adapter_goes_through_every_stage(tmp_path):
    """Its published widths; 8,022 words instead of 151,936: 2.5 GB in place of 7 GB, for CI with 16 GB and two tests at once."""
    config = with_words(cut(published_config(BASE, None), 3), 8000)
    write_checkpoint(tmp_path / "hub", config, None, ["What is in the picture? A red cup."] * 4, seed=1)
    adapter = "policy.lora={rank: 8, alpha: 16, dropout: 0.0, targets: [q_proj, v_proj]}"
    settings = (*FEW, f"policy.base={tmp_path / 'hub'}", adapter)
    status, output = rehearse("--profile", "qwen2.5-vl-3b", "--size", "thin", "--tokens", "8", settings=settings)
    assert status == 0, output
    stages = [line.split()[0] for line in output.splitlines() if line.rstrip().endswith(" ran")]
    assert stages == ["base", "plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate"]
