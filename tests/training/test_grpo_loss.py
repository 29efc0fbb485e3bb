"""GRPO as published, against tensors computed by hand: advantage, clip, dual clip, KL, and the mean over tokens."""

import math

import pytest
import torch
from trl import GRPOTrainer

from saferflow.errors import TrainingError
from saferflow.training.arguments import Job
from saferflow.training.grpo import grpo_trainer, train_grpo

from .length_policy import MICRO, length, parts_in

RECIPE = {
    "batch_size": 2, "micro_batch_size": 2, "rollout_batch": 2, "group": 2, "kl": 0.01,
    "clip_low": 0.2, "clip_high": 0.3, "dual_clip": 3.0, "rewards": {"length": 1.0},
}  # fmt: skip
MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
ADVANTAGES = torch.tensor([1.0, -2.0])
RATIOS = torch.tensor([[0.5, 1.1, 2.0], [5.0, 1.0, 1.0]])
REFERENCE = torch.tensor([[0.0, math.log(2), 0.0], [0.0, 0.0, 0.0]])
"""Of the log-probability, reference less policy."""
PER_TOKEN = torch.tensor(
    [
        # advantage 1: min(r, clip(r)) = 0.5, 1.1, 1.3; the second token's KL is exp(ln 2) - ln 2 - 1
        [-0.5, -1.1 + 0.01 * (2 - math.log(2) - 1), -1.3],
        # advantage -2 and ratio 5: the plain bound is 2 * 5 = 10, dual clip makes it 2 * 3 = 6
        [6.0, 0.0, 0.0],
    ]
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return parts_in(tmp_path_factory.mktemp("policy"))


def trainer(parts, tmp_path, **changed):
    params = MICRO.grpo.model_copy(update={**RECIPE, **changed})
    job = Job(MICRO.policy, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    return grpo_trainer(*parts, {"length": length}, params, job)


def loss(trainer, monkeypatch):
    old = torch.full((2, 3), -1.0)
    now = old + RATIOS.log()
    monkeypatch.setattr(
        trainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (now, torch.zeros_like(now), None)
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    inputs = {
        "prompt_ids": torch.ones(2, 1, dtype=torch.long), "prompt_mask": torch.ones(2, 1, dtype=torch.long),
        "completion_ids": torch.ones(2, 3, dtype=torch.long), "completion_mask": MASK, "advantages": ADVANTAGES,
        "old_per_token_logps": old, "ref_per_token_logps": now + REFERENCE, "num_items_in_batch": MASK.sum(),
    }  # fmt: skip
    return trainer._compute_loss(trainer.model, inputs).item()


def test_every_token_weighs_the_same(parts, tmp_path, monkeypatch):
    expected = (PER_TOKEN * MASK).sum() / 4
    assert loss(trainer(parts, tmp_path, loss_mean="token"), monkeypatch) == pytest.approx(expected.item(), abs=1e-6)


def test_every_completion_weighs_the_same(parts, tmp_path, monkeypatch):
    expected = (PER_TOKEN[0].mean() + PER_TOKEN[1, 0]) / 2
    assert loss(trainer(parts, tmp_path, loss_mean="sequence"), monkeypatch) == pytest.approx(expected.item(), abs=1e-6)


def test_without_dual_clip_a_bad_token_counts_as_far_as_it_has_moved(parts, tmp_path, monkeypatch):
    expected = (PER_TOKEN[0].mean() + 10.0) / 2
    found = loss(trainer(parts, tmp_path, loss_mean="sequence", dual_clip=None), monkeypatch)
    assert found == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(("advantage", "scale"), [("group", math.sqrt(2)), ("none", 2.0)])
def test_the_advantage_is_centred_in_its_group_and_divided_by_its_deviation(
    parts, tmp_path, monkeypatch, advantage, scale
):
    """Rewards 1 and 5: centred -2 and 2; the group's standard deviation (n - 1) is the root of 8."""
    made = trainer(parts, tmp_path, advantage=advantage)
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda *_: torch.tensor([[1.0], [5.0]]))
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    row = {"prompt": [{"role": "user", "content": "What is this?"}], "row": "x", "plan": ""}
    found = made._generate_and_score_completions([row, dict(row)])["advantages"]
    expected = [-scale, scale] if advantage == "none" else [-2 / math.sqrt(8), 2 / math.sqrt(8)]
    assert found.tolist() == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("cut", ["", '{"step": 2, "row": "x", "rew'])
def test_a_resumed_run_forgets_the_rollouts_that_it_draws_again(parts, tmp_path, monkeypatch, cut):
    """Whether the kill came before the step under way was whole, after it, or in the middle of a line."""
    made = trainer(parts, tmp_path)
    lines = [f'{{"step": {step}, "row": "x"}}\n' for step in (0, 0, 1, 2, 2)]
    file = tmp_path / "steps" / "rollouts-0.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines) + cut, encoding="utf-8")
    monkeypatch.setattr(GRPOTrainer, "train", lambda self, resume_from_checkpoint=None, **_: resume_from_checkpoint)
    assert made.train(resume_from_checkpoint=str(tmp_path / "steps" / "checkpoint-2")).endswith("checkpoint-2")
    made.keep_rollouts(tmp_path / "kept.jsonl")
    assert (tmp_path / "kept.jsonl").read_text(encoding="utf-8") == "".join(lines[:3])
    made.train()
    assert file.read_text(encoding="utf-8") == ""


def test_fewer_prompts_than_a_rollout_batch_are_refused_with_the_counts_and_the_way_out(parts, tmp_path):
    """4 prompts; a rollout batch of 10 completions in groups of 2 wants 5."""
    model, processor, rows = parts
    params = MICRO.grpo.model_copy(update={**RECIPE, "rollout_batch": 10})
    job = Job(MICRO.policy, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    with pytest.raises(
        TrainingError, match=r"4 curated prompts.* wants 5 .*Lower grpo.rollout_batch to at most 8.*curate.keep"
    ):
        train_grpo(model, processor, rows, {"length": length}, params, job, tmp_path / "rollouts.jsonl")
