"""Adapters: they reach what is trained and nothing else, and their change is not rounded away when it is merged."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file
from torch import nn

from saferflow.data.rows import SFTRow
from saferflow.errors import PolicyError
from saferflow.params import LoraParams, load_params
from saferflow.training.adapters import lora
from saferflow.training.arguments import Job
from saferflow.training.policy import load_model, load_processor, save_policy
from saferflow.training.sft import train_sft
from tests.training.published import published

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
LANGUAGE = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return published(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def whole(checkpoint):
    return load_model(checkpoint, PARAMS.policy)


def policy(targets, train_vision=False, dtype="float32", **changes):
    adapter = LoraParams(rank=2, alpha=4, dropout=0.0, targets=tuple(targets))
    return PARAMS.policy.model_copy(
        update={"lora": adapter, "train_vision": train_vision, "dtype": dtype, "max_completion_tokens": 8} | changes
    )


def adapted(checkpoint, params) -> set[str]:
    """The modules that have an adapter, by their names without the layer's number."""
    model = load_model(checkpoint, params)
    wrapped = get_peft_model(model, lora(params, model))
    names = {name.partition(".lora_A")[0] for name, parameter in wrapped.named_parameters() if parameter.requires_grad}
    return {name.partition(".lora_B")[0].removeprefix("base_model.model.model.") for name in names}


@pytest.mark.parametrize("targets", [["gate_proj", "q_proj"], ["all-linear"], ["ALL-linear"], ["mlp.gate_proj"]])
def test_without_train_vision_no_adapter_reaches_the_tower(checkpoint, targets):
    names = adapted(checkpoint, policy(targets))
    assert names
    assert all(name.startswith("language_model.") for name in names)


def test_all_linear_is_every_linear_module_but_the_head(checkpoint, whole):
    assert {name.rpartition(".")[2] for name in adapted(checkpoint, policy(["all-linear"]))} == LANGUAGE
    linear = {name for name, module in whole.named_modules() if isinstance(module, nn.Linear)} - {"lm_head"}
    with_vision = adapted(checkpoint, policy(["all-linear"], train_vision=True))
    assert {f"model.{name}" for name in with_vision} == linear


def test_with_train_vision_shared_names_reach_both(checkpoint):
    names = adapted(checkpoint, policy(["gate_proj", "qkv"], train_vision=True))
    assert {name.partition(".")[0] for name in names} == {"language_model", "visual"}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["qproj"], r"qproj: no linear module .* There are down_proj, gate_proj, .*, v_proj; or take all-linear"),
        (
            ["q_proj", "qkv", "nope"],
            r"qkv, nope: no linear .* \(qkv: in the vision tower alone, and policy.train_vision",
        ),
        (["lm_head"], "lm_head: no linear module"),
        (["embed_tokens"], "embed_tokens: no linear module"),
        (["self_attn"], "self_attn: no linear module"),
        (["all-linear", "q_proj"], "all-linear: no linear module"),
        ([], "they are none. There are down_proj"),
        ([".*"], "no linear module"),
        ([""], "no linear module"),
    ],
)
def test_targets_that_name_nothing_trained_are_refused_with_the_names_there_are(whole, targets, message):
    with pytest.raises(PolicyError, match=message) as raised:
        lora(policy(targets), whole)
    assert str(raised.value).startswith("policy.lora.targets: ")


def test_a_stage_refuses_unknown_targets_before_it_trains(checkpoint, tmp_path):
    params = policy(["nope"])
    with pytest.raises(PolicyError, match="nope"):
        train(checkpoint, tmp_path / "out", params)
    assert not (tmp_path / "out").exists()


def train(start, out, params, learning_rate=1e-3):
    rows = [SFTRow(name, "", "safety", None, "", "What is it?", "A cup.", "", "") for name in "abcd"]
    recipe = {"batch_size": 2, "micro_batch_size": 2, "epochs": 1, "learning_rate": learning_rate}
    section = PARAMS.sft.model_copy(update=recipe)
    job = Job(params, PARAMS.launch, 1, out, out.with_name(f"{out.name}-steps"), lambda numbers, step: None)
    model = load_model(start, params, PARAMS.launch)
    return train_sft("sft", model, load_processor(start, params), rows, section, job)


def weights(folder) -> dict[str, torch.Tensor]:
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


def change_of(adapter, seed: int, size: float):
    """Give the adapters of a model known values; return what they add, by the published names of the weights."""
    source = torch.Generator().manual_seed(seed)
    added = {}
    for name, module in adapter.named_modules():
        if not hasattr(module, "lora_A"):
            continue
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        with torch.no_grad():
            down.copy_(torch.randn(down.shape, generator=source) * size)
            up.copy_(torch.randn(up.shape, generator=source))
        plain = name.removeprefix("base_model.model.").replace("model.language_model.", "model.")
        added[f"{plain}.weight"] = (up.double() @ down.double()) * module.scaling["default"]
    return added


def test_small_changes_of_three_stages_add_up_in_float32(checkpoint, tmp_path):
    """Each change is far under bfloat16's spacing: rounded after each stage, nothing would be left of most of it."""
    params = policy(["q_proj", "v_proj"], dtype="bfloat16")
    processor, folder = load_processor(checkpoint, params), checkpoint
    total: dict[str, torch.Tensor] = {}
    for stage in range(3):
        model = load_model(folder, params)
        assert model.dtype == torch.bfloat16
        adapter = get_peft_model(model, lora(params, model))
        for name, added in change_of(adapter, stage, 1e-5).items():
            total[name] = total.get(name, 0) + added
        folder = tmp_path / str(stage)
        save_policy(folder, adapter, processor, dtype=params.dtype)
    before, after = weights(checkpoint), weights(folder)
    assert before.keys() == after.keys()
    for name, value in after.items():
        moved = value.double() - before[name].double()
        if name in total:
            assert value.dtype == torch.float32
            assert (moved - total[name]).norm() < 1e-2 * total[name].norm()
        else:
            assert value.dtype == torch.bfloat16
            assert not moved.any()
    assert '"dtype": "bfloat16"' in (folder / "config.json").read_text(encoding="utf-8")


def test_a_merge_reads_the_tensors_of_the_stage_before_and_not_a_second_model(checkpoint, tmp_path, capsys):
    params = policy(["q_proj"], dtype="bfloat16")
    processor = load_processor(checkpoint, params)
    for before, folder in ((checkpoint, tmp_path / "sft"), (tmp_path / "sft", tmp_path / "dpo")):
        model = load_model(before, params)
        capsys.readouterr()
        save_policy(folder, get_peft_model(model, lora(params, model)), processor, dtype=params.dtype)
        assert "tensors loaded" not in capsys.readouterr().err
    after = weights(tmp_path / "dpo")
    assert all(torch.equal(value.float(), after[name].float()) for name, value in weights(checkpoint).items())


def test_a_stage_with_an_adapter_saves_its_change_unrounded(checkpoint, tmp_path):
    params = policy(["all-linear"], dtype="bfloat16")
    train(checkpoint, tmp_path / "sft", params, learning_rate=1e-5)
    before, after = weights(checkpoint), weights(tmp_path / "sft")
    changed = {name for name, value in after.items() if value.dtype == torch.float32}
    assert {name.split(".")[-2] for name in changed} == LANGUAGE
    moved = torch.cat([(after[name] - before[name].float()).flatten() for name in changed])
    assert (moved != 0).float().mean() > 0.9
    again = load_model(tmp_path / "sft", params)
    assert again.dtype == torch.bfloat16


def test_in_float32_an_adapter_merges_as_peft_does(checkpoint, tmp_path):
    params = policy(["q_proj", "down_proj"])
    models = [load_model(checkpoint, params) for _ in range(2)]
    adapters = [get_peft_model(model, lora(params, model)) for model in models]
    for adapter in adapters:
        change_of(adapter, 1, 0.1)
    save_policy(tmp_path, adapters[0], load_processor(checkpoint, params))
    theirs = adapters[1].merge_and_unload().state_dict()
    mine = load_model(tmp_path, params).state_dict()
    assert all(torch.allclose(mine[name], value, atol=1e-6) for name, value in theirs.items())
