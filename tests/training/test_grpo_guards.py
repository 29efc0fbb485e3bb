"""The released code's guards, against numbers computed by hand, and what stays as it is without them."""

import math
from pathlib import Path

import pytest
import torch
from trl import GRPOTrainer

from saferflow.params import load_params
from saferflow.training.arguments import Job
from saferflow.training.grpo import grpo_trainer
from saferflow.training.guards import k3_bounds, scaled_advantages

from .length_policy import MICRO, length, parts_in

PROFILES = Path(__file__).parents[2] / "profiles"
RELEASED = load_params(PROFILES / "qwen2.5-vl-3b.yaml").grpo.guards
RECIPE = {"batch_size": 2, "micro_batch_size": 2, "rollout_batch": 2, "group": 2, "kl": 1.0, "rewards": {"length": 1.0}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    return parts_in(tmp_path_factory.mktemp("policy"))


def trainer(parts, tmp_path, guards=RELEASED, **changed):
    params = MICRO.grpo.model_copy(update={**RECIPE, "guards": guards, **changed})
    job = Job(MICRO.policy, MICRO.launch, 1, tmp_path / "out", tmp_path / "steps", lambda *_: None)
    made = grpo_trainer(*parts, {"length": length}, params, job)
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def loss(made, monkeypatch, ratios, references):
    """Of two completions of one token, of advantage -1; and the gradient of the policy's log-probabilities."""
    now = torch.zeros(2, 1, requires_grad=True)
    monkeypatch.setattr(
        GRPOTrainer, "_get_per_token_logps_and_entropies", lambda *_, **__: (now, torch.zeros_like(now), None)
    )
    token = torch.ones(2, 1, dtype=torch.long)
    inputs = {
        "prompt_ids": token, "prompt_mask": token, "completion_ids": token, "completion_mask": token,
        "advantages": torch.tensor([-1.0, -1.0]), "old_per_token_logps": -torch.tensor(ratios).unsqueeze(1),
        "ref_per_token_logps": torch.tensor(references).unsqueeze(1), "num_items_in_batch": token.sum(),
    }  # fmt: skip
    value = made._compute_loss(made.model, inputs)
    return value.item(), torch.autograd.grad(value, now)[0].flatten().tolist()


def test_the_logarithm_of_the_ratio_is_at_most_the_bound(parts, tmp_path, monkeypatch):
    """Logarithms 3 and 1, bound 2: advantage -1 makes the loss (exp(2) + exp(1)) / 2; what is bounded has no gradient."""
    guards = RELEASED.model_copy(update={"log_ratio": 2.0})
    value, gradient = loss(trainer(parts, tmp_path, guards, dual_clip=None), monkeypatch, [3.0, 1.0], [0.0, 0.0])
    assert value == pytest.approx((math.exp(2) + math.exp(1)) / 2, rel=1e-6)
    assert gradient == pytest.approx([0.0, math.exp(1) / 2], rel=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_kl_of_a_token_is_at_most_the_bound(parts, tmp_path, monkeypatch, sign):
    """Ratio 1 gives 1 a completion; x = +-40 has a k3 over 10, and x = +-1 has exp(x) - x - 1, with gradient 1 - exp(x)."""
    x = float(sign)
    made = trainer(parts, tmp_path)
    value, gradient = loss(made, monkeypatch, [0.0, 0.0], [40 * x, x])
    assert value == pytest.approx((1 + 10 + 1 + math.exp(x) - x - 1) / 2, rel=1e-5)
    assert gradient == pytest.approx([0.5, (1 + 1 - math.exp(x)) / 2], rel=1e-5)


def test_without_bounds_the_loss_is_that_of_trl_to_the_bit(parts, tmp_path, monkeypatch):
    """Also with bounds that nothing reaches."""
    asked = ([0.3, -0.7], [0.2, -1.1])
    off = loss(trainer(parts, tmp_path, MICRO.grpo.guards), monkeypatch, *asked)
    on = loss(trainer(parts, tmp_path), monkeypatch, *asked)
    monkeypatch.delattr("saferflow.training.guards.Guarded._compute_loss")
    assert loss(trainer(parts, tmp_path), monkeypatch, *asked) == off == on


@pytest.mark.parametrize("most", [0.01, 1.0, 10.0])
def test_between_the_roots_k3_is_at_most_the_bound(most):
    for x in k3_bounds(most):
        assert math.exp(x) - x - 1 == pytest.approx(most)
    low, high = k3_bounds(most)
    assert low < 0 < high


def test_the_advantages_epsilon_shows_where_rewards_hardly_differ():
    """Rewards 0 and 2e-4: centred -+1e-4, deviation (n - 1) sqrt(2)e-4; then a group without marks for one of three."""
    deviation = math.sqrt(2) * 1e-4
    for epsilon in (1e-4, 1e-6):
        expected = 1e-4 / (deviation + epsilon)
        found = scaled_advantages(torch.tensor([0.0, 2e-4]), 2, epsilon)
        assert found.tolist() == pytest.approx([-expected, expected], rel=1e-4)
    found = scaled_advantages(torch.tensor([1.0, math.nan, 5.0]), 3, 1e-6)
    assert found.tolist() == pytest.approx([-2 / math.sqrt(8), 0.0, 2 / math.sqrt(8)], rel=1e-4)


def test_the_trainer_divides_by_the_epsilon_of_the_params(parts, tmp_path, monkeypatch):
    made = trainer(parts, tmp_path, advantage="group")
    monkeypatch.setattr(GRPOTrainer, "_calculate_rewards", lambda *_: torch.tensor([[0.0], [2e-4]]))
    row = {"prompt": [{"role": "user", "content": "What is this?"}], "row": "x", "plan": ""}
    found = made._generate_and_score_completions([row, dict(row)])["advantages"]
    expected = 1e-4 / (math.sqrt(2) * 1e-4 + 1e-6)
    assert found.tolist() == pytest.approx([-expected, expected], rel=1e-4)


@pytest.mark.parametrize(("guards", "everywhere"), [(RELEASED, True), (MICRO.grpo.guards, False)])
def test_weight_decay_is_on_norms_and_biases_where_the_params_say_all(parts, tmp_path, guards, everywhere):
    made = trainer(parts, tmp_path, guards)
    decayed = set(made.get_decay_parameter_names(made.model))
    names = {name for name, _ in made.model.named_parameters()}
    spared = {name for name in names if name.endswith("bias") or "layernorm" in name}
    assert len({name.rpartition(".")[2] for name in spared}) == 2  # weights of norms, and biases
    assert (decayed == names) is everywhere
    assert bool(decayed & spared) is everywhere


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_whose_gradient_norm_is_no_number_changes_nothing(parts, tmp_path, bad):
    made = trainer(parts, tmp_path)
    made.create_optimizer()
    before = [weight.detach().clone() for weight in made.model.parameters()]
    for weight in made.model.parameters():
        weight.grad = torch.full_like(weight, bad)
    assert not math.isfinite(made._clip_grad_norm(made.model))
    made.optimizer.step()
    assert all(map(torch.equal, before, made.model.parameters()))
    assert made._metrics["train"]["steps_skipped"] == [1.0]


def test_each_update_divides_by_its_own_tokens(parts, tmp_path, monkeypatch):
    """Two updates of 4 and 2 tokens. TRL divides `num_items_in_batch` by the 2 updates: 4 and 2 are left, not twice 3."""
    made = trainer(parts, tmp_path, rollout_batch=4, loss_mean="token")
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 0, 0], [1, 0, 0]])
    drawn = {"completion_mask": mask, "advantages": torch.zeros(4), "num_items_in_batch": mask.sum()}
    monkeypatch.setattr(made, "_generate_and_score_completions", lambda _: dict(drawn))
    made._prepare_inputs([])
    found = {
        int(part["completion_mask"].sum()): part["num_items_in_batch"].item() / 2 for part in made._buffered_inputs
    }
    assert found == {4: 4.0, 2: 2.0}


@pytest.mark.parametrize("on", [True, False])
def test_trls_correction_for_vllm_is_on_where_the_params_say_so(parts, tmp_path, on):
    made = trainer(parts, tmp_path, MICRO.grpo.guards.model_copy(update={"vllm_correction": on}))
    assert made.args.vllm_importance_sampling_correction is on
