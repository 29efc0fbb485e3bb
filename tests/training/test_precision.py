"""Policies in bfloat16: they are trained in float32, so that small steps count, and their reference starts where they do."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saferflow.data.rows import DPORow, PromptRow, SFTRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.arguments import Job
from saferflow.training.dpo import train_dpo
from saferflow.training.grpo import train_grpo
from saferflow.training.policy import load_model, load_processor
from saferflow.training.sft import train_sft
from tests.training.published import published

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
POLICY = PARAMS.policy.model_copy(update={"dtype": "bfloat16", "max_completion_tokens": 8})
PICTURE = next(iter(general_rows(1, 1, "train"))).image
RECIPE = {"batch_size": 2, "micro_batch_size": 2, "epochs": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return published(tmp_path_factory.mktemp("hub"))


def job(out: Path, curves: list) -> Job:
    return Job(POLICY, PARAMS.launch, 1, out, out / "steps", lambda numbers, step: curves.append(numbers))


def weights(folder) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.parametrize("launch", [PARAMS.launch, None], ids=["masters loaded", "bfloat16 loaded"])
def test_in_bfloat16_small_steps_are_not_rounded_away(checkpoint, tmp_path, launch):
    """At a learning rate of 1e-6 a step is far under bfloat16's spacing at the size of most of these weights."""
    model = load_model(checkpoint, POLICY, launch)
    assert model.dtype == (torch.bfloat16 if launch is None else torch.float32)
    rows = [SFTRow(name, "", "safety", None, "", "What is it?", "A cup.", "", "") for name in "abcd"]
    section = PARAMS.sft.model_copy(update=RECIPE | {"learning_rate": 1e-6})
    train_sft("sft", model, load_processor(checkpoint, POLICY), rows, section, job(tmp_path, []))
    before, after = weights(checkpoint), weights(tmp_path)
    trained = [name for name in after if name.startswith("model.layers.") and "bias" not in name]
    moved = torch.cat([(after[name].float() - before[name].float()).flatten() for name in trained])
    assert (moved != 0).float().mean() > 0.95
    assert '"dtype": "bfloat16"' in (tmp_path / "config.json").read_text(encoding="utf-8")
    assert load_model(tmp_path, POLICY, PARAMS.launch).state_dict().keys() == model.state_dict().keys()


def test_the_reference_of_dpo_says_what_the_policy_says_at_the_start(checkpoint, tmp_path):
    curves: list[dict] = []
    rows = [DPORow(n, "", PICTURE, "", "What is it?", "A cup.", "No.", "", "", "") for n in "ab"]
    models = [load_model(checkpoint, POLICY) for _ in range(2)]
    section = PARAMS.dpo.model_copy(update=RECIPE)
    train_dpo(*models, load_processor(checkpoint, POLICY), rows, section, job(tmp_path, curves))
    [margin] = [each["rewards/margins"] for each in curves if "rewards/margins" in each]
    assert margin == 0.0


def test_grpo_draws_and_trains_in_bfloat16(checkpoint, tmp_path):
    curves: list[dict] = []
    changes = {
        "rollout_batch": 4,
        "group": 2,
        "rewards": {"length": 1.0},
        "kl": 0.01,
        "updates": 1,
        "min_validity": 0.0,
    }
    section = PARAMS.grpo.model_copy(update=RECIPE | changes)
    rows = [PromptRow(n, "", "safety", PICTURE if n == "a" else None, "", "What is it?", "", "") for n in "ab"]
    rewards = {"length": lambda completions, **columns: [float(n % 2) for n in range(len(completions))]}
    model = load_model(checkpoint, POLICY, PARAMS.launch)
    train_grpo(
        model, load_processor(checkpoint, POLICY), rows, rewards, section, job(tmp_path, curves), tmp_path / "r.jsonl"
    )
    assert next(each["kl"] for each in curves if "kl" in each) == pytest.approx(0.0, abs=1e-6)
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}
