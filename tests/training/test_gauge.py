"""What a step cost: tokens without padding, operations by hand, and none where nothing is learnt."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training import gauge as module
from saferflow.training.embedded import build_model, train_tokenizer
from saferflow.training.gauge import Gauge, peak_memory

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
IDS = torch.ones(2, 5, dtype=torch.long)
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])


@pytest.fixture(scope="module")
def model():
    tokenizer = train_tokenizer([row.question for row in general_rows(4, 1, "train")], MICRO.base.vocab_size)
    return build_model(MICRO.base, tokenizer, seed=1)


@pytest.fixture
def watched(model, tmp_path, monkeypatch):
    """A gauge that a GPU with one operation a second stands behind, and what it adds to a log after `seconds`."""
    gauge = Gauge(model)
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(module, "peak_operations", lambda: 1.0)
    args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(), TrainerControl()
    gauge.on_train_begin(args, state, control)

    def logged(seconds):
        now[0] += seconds
        logs = {"loss": 1.0}
        gauge.on_log(args, state, control, logs)
        return logs

    yield logged
    for each in model.modules():
        each._forward_pre_hooks.clear()
        each._forward_pre_hooks_with_kwargs.clear()


def language(model):
    text = model.config.text_config
    return sum(p.numel() for p in model.model.language_model.layers.parameters()) + text.hidden_size * text.vocab_size


def test_tokens_are_counted_without_padding_and_operations_by_hand(model, watched):
    model.train()
    model(input_ids=IDS, attention_mask=MASK)
    logs = watched(4.0)
    assert logs["tokens_per_second"] == 8 / 4
    assert logs["mfu"] == pytest.approx(6 * language(model) * 8 / 4)
    assert logs["mfu_with_vision"] == logs["mfu"]


def test_what_only_looks_forward_costs_a_third_and_is_not_learnt_from(model, watched):
    model.train()
    with torch.no_grad():
        model(input_ids=IDS, attention_mask=MASK)
    logs = watched(2.0)
    assert logs["tokens_per_second"] == 0
    assert logs["mfu"] == pytest.approx(2 * language(model) * 8 / 2)


def test_a_step_of_generation_counts_its_new_tokens(model, watched):
    model.eval()
    with torch.no_grad():
        cache = model(input_ids=IDS, attention_mask=MASK, use_cache=True).past_key_values
        model(
            input_ids=IDS[:, :1], attention_mask=torch.cat([MASK, MASK[:, :1] * 0 + 1], dim=1), past_key_values=cache,
            position_ids=torch.full((3, 2, 1), 5),
        )  # fmt: skip
    assert watched(1.0)["mfu"] == pytest.approx(2 * language(model) * (8 + 2))


def test_each_log_tells_of_what_came_since_the_one_before(model, watched):
    model.train()
    model(input_ids=IDS, attention_mask=MASK)
    watched(1.0)
    assert watched(1.0)["tokens_per_second"] == 0


def test_patches_cost_the_vision_tower(model, watched):
    model.train()
    grid = torch.tensor([[1, 4, 4]])
    vision = model.config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    ids = torch.tensor([[model.config.image_token_id] * 4 + [1]])
    model(
        input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=torch.zeros(16, width), image_grid_thw=grid,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    )  # fmt: skip
    logs = watched(1.0)
    tower = sum(p.numel() for p in model.model.visual.parameters())
    assert logs["mfu_with_vision"] - logs["mfu"] == pytest.approx(6 * tower * 16)


def test_memory_is_that_of_the_process_at_its_highest():
    before = peak_memory()
    block = torch.ones(64 * 2**20 // 4)
    assert peak_memory() >= before
    assert peak_memory() > 2**20
    del block


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("T4", None)],
)
def test_the_peak_is_that_of_the_card(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: name)
    assert module.peak_operations() == peak
