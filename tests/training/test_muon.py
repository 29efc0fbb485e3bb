"""Muon: directions learn equally fast, the rest is AdamW, and a resumed state goes on as it was."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from saferflow.training.muon import MOMENTUM, SCALE, Muon, is_layer_matrix, orthogonalize

SETTINGS = {"lr": 0.01, "betas": (0.9, 0.99), "weight_decay": 0.1}


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.embedding = nn.Embedding(5, 6)
        self.layers = nn.ModuleList([nn.Linear(6, 4), nn.Linear(4, 4)])


class Named(nn.Module):
    """Puts a module one level down, so that its layers are named as a model's are."""

    def __init__(self):
        super().__init__()
        self.model = Tiny()

    def forward(self, ids):
        hidden = self.model.embedding(ids)
        for layer in self.model.layers:
            hidden = layer(hidden)
        return hidden.square().mean()


def step(model, optimizer, ids):
    optimizer.zero_grad()
    model(ids).backward()
    optimizer.step()


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), seed=st.integers(0, 999))
def test_singular_values_come_near_one_and_singular_vectors_stay(rows, columns, seed):
    torch.manual_seed(seed)
    matrix = torch.randn(1, rows, columns) + torch.eye(rows, columns)
    found = orthogonalize(matrix)
    left, values, right = torch.linalg.svd(matrix[0].double(), full_matrices=False)
    kept = values > 0.05 * values.max()  # smaller ones want more iterations
    seen = (left.T @ found[0].double() @ right.T).diagonal()[kept]
    assert found.shape == matrix.shape
    assert ((seen > 0.3) & (seen < 1.3)).all()


def test_a_matrix_without_gradient_signal_stays_zero():
    assert torch.equal(orthogonalize(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_matrices_of_layers_are_muons_and_all_others_adamws():
    names = {name for name, value in Named().named_parameters() if is_layer_matrix(name, value)}
    assert names == {"model.layers.0.weight", "model.layers.1.weight"}


def test_everything_else_moves_as_torchs_adamw_moves_it():
    ours, theirs = Named(), Named()
    optimizer = Muon(ours, **SETTINGS)
    embedding = torch.optim.AdamW([theirs.model.embedding.weight], **SETTINGS)
    ids = torch.tensor([0, 1, 3])
    for _ in range(3):
        step(ours, optimizer, ids)
        theirs.model.layers.load_state_dict(ours.model.layers.state_dict())
        before = copy.deepcopy(ours.model.embedding.weight.grad)
        embedding.zero_grad()
        theirs.model.embedding.weight.grad = before
        embedding.step()
    torch.testing.assert_close(ours.model.embedding.weight, theirs.model.embedding.weight)


def test_the_first_update_of_a_matrix_has_the_size_that_the_formula_gives():
    model = Named()
    weight = model.model.layers[0].weight  # (4, 6)
    before = weight.detach().clone()
    step(model, Muon(model, **SETTINGS), torch.tensor([0, 1, 3]))
    gradient = weight.grad
    momentum = (1 - MOMENTUM) * gradient  # lerp from zero
    direction = orthogonalize(((1 - MOMENTUM) * gradient + MOMENTUM * momentum)[None])[0]
    expected = before * (1 - 0.01 * 0.1) - 0.01 * SCALE * 6**0.5 * direction
    torch.testing.assert_close(weight.detach(), expected)


def test_a_state_that_was_saved_goes_on_as_if_never_stopped():
    ids = torch.tensor([0, 2])
    whole, stopped = Named(), Named()
    through, first = Muon(whole, **SETTINGS), Muon(stopped, **SETTINGS)
    for _ in range(2):
        step(whole, through, ids)
        step(stopped, first, ids)
    resumed = Muon(stopped, **SETTINGS)
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    step(whole, through, ids)
    step(stopped, resumed, ids)
    for left, right in zip(whole.parameters(), stopped.parameters(), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("frozen", ["model.layers.0.weight", "model.embedding.weight"])
def test_what_needs_no_gradient_stays(frozen):
    model = Named()
    model.get_parameter(frozen).requires_grad_(False)
    before = model.get_parameter(frozen).clone()
    step(model, Muon(model, **SETTINGS), torch.tensor([0, 1]))
    assert torch.equal(model.get_parameter(frozen), before)
