"""What is computed once: the same numbers from the store, for the same rows and weights alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from saferflow.data.images import open_rgb
from saferflow.data.rows import DPORow
from saferflow.data.scenes.corpus import general_rows
from saferflow.params import load_params
from saferflow.training.arguments import Job
from saferflow.training.dpo import train_dpo
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.models import remembered
from saferflow.training.policy import load_model, save_policy
from saferflow.training.remembered import Remembered, digest, remember_vision

MICRO = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
FROZEN = MICRO.policy.model_copy(update={"train_vision": False, "max_completion_tokens": 20})
RECIPE = {"batch_size": 2, "micro_batch_size": 2, "epochs": 2, "save_every": 100, "near_miss": None}


@pytest.fixture
def store(tmp_path):
    return Remembered(tmp_path / "remembered", 10**9)


@given(st.lists(st.floats(allow_nan=False, width=32), max_size=8))
def test_what_is_put_is_what_is_got(tmp_path_factory, values):
    store = Remembered(tmp_path_factory.mktemp("store"), 10**9)
    store.put("a", torch.tensor(values))
    assert store.get("a").tolist() == torch.tensor(values).tolist()
    assert store.get("b") is None


def test_a_damaged_file_is_as_none(store, tmp_path):
    store.put("a", torch.ones(3))
    [path] = (tmp_path / "remembered").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    assert store.get("a") is None
    store.put("a", torch.ones(3))
    assert store.get("a").tolist() == [1, 1, 1]


def test_the_oldest_goes_where_there_are_too_many(tmp_path):
    store = Remembered(tmp_path, 5000)
    for name in "abcdefghij":
        store.put(name, torch.ones(200))
        store.get("a")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 5000
    assert store.get("a") is not None
    assert store.get("b") is None
    assert store.get("j") is not None


def test_processes_that_share_a_folder_keep_to_the_bound_together_and_miss_it_by_a_hundredth_each(tmp_path):
    size = 100_000
    stores = [Remembered(tmp_path, 20 * size) for _ in range(4)]
    most = 0
    for number in range(25):  # 100 files, five times what there may be
        for process, store in enumerate(stores):
            store.put(f"{number}-{process}", torch.ones(size // 4 - 30))  # 4 bytes each, 100 for the header
            most = max(most, sum(path.stat().st_size for path in tmp_path.iterdir()))
    assert 18 * size <= most <= (20 + len(stores)) * size  # a file is more than a hundredth here, 0.2 of its 20


def test_a_folder_is_read_seldom_while_little_is_written(tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(
        Remembered, "_make_room", lambda self, make=Remembered._make_room: (reads.append(1), make(self))
    )
    store = Remembered(tmp_path, 10**6)  # a hundredth: 10,000
    for number in range(40):
        store.put(str(number), torch.ones(230))  # 4 x 230 + 80 for the header: 1,000
    assert len(reads) == 1 + 40 * 1000 // 11_000  # at the start, and with each eleventh file


def test_a_bound_that_was_lowered_holds_from_the_start(tmp_path):
    store = Remembered(tmp_path, 10**6)
    for number in range(10):
        store.put(str(number), torch.ones(1000))
    Remembered(tmp_path, 20_000)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 20_000


def test_a_folder_that_cannot_be_written_keeps_nothing_and_stops_nobody(store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saferflow.training.remembered.save_file", full)
    store.put("a", torch.ones(3))
    assert store.get("a") is None
    assert not list(store._folder.iterdir())


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    rows = list(general_rows(4, 1, "train"))
    tokenizer = train_tokenizer([text for row in rows for text in (row.question, row.answer)], MICRO.base.vocab_size)
    processor, folder = build_processor(tokenizer, FROZEN), tmp_path_factory.mktemp("policy")
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), processor)
    pairs = [
        DPORow(row.id, "", row.image if number % 4 else None, "", row.question, row.answer, "no", "", "", "{}")
        for number, row in enumerate(rows)
    ]
    return folder, processor, pairs


def looks(model):
    """How many images the tower is shown, from now on."""
    seen = []
    plain = model.model.visual.forward

    def forward(pixels, grid_thw, **kwargs):
        seen.extend(grid_thw.tolist())
        return plain(pixels, grid_thw=grid_thw, **kwargs)

    model.model.visual.forward = forward
    return seen


def test_a_frozen_tower_looks_at_an_image_once_and_says_the_same(parts, store):
    folder, processor, pairs = parts
    pictures = [pair.image for pair in pairs if pair.image]
    told = processor(
        images=[open_rgb(pictures[0]), open_rgb(pictures[1]), open_rgb(pictures[0])],
        text=["<|image_pad|>"] * 3,
        return_tensors="pt",
    )
    model = load_model(folder, FROZEN)
    expected = model.model.visual(told["pixel_values"], grid_thw=told["image_grid_thw"]).pooler_output
    seen = looks(model)
    remember_vision(model, store)
    for _ in range(2):
        found = model.model.visual(told["pixel_values"], grid_thw=told["image_grid_thw"]).pooler_output
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert len(seen) == 2
    other = build_model(MICRO.base, processor.tokenizer, seed=2)
    for parameter in other.model.visual.parameters():
        parameter.requires_grad_(False)
    anew = looks(other)
    remember_vision(other, store)
    other.model.visual(told["pixel_values"], grid_thw=told["image_grid_thw"])
    assert len(anew) == 2


def test_a_tower_that_is_trained_is_left_alone(parts, store):
    model = load_model(parts[0], FROZEN.model_copy(update={"train_vision": True}))
    seen = looks(model)
    before = model.model.visual.forward
    remember_vision(model, store)
    assert model.model.visual.forward is before
    assert seen == []


def test_a_digest_is_of_the_weights(parts):
    first, second = (load_model(parts[0], FROZEN) for _ in range(2))
    assert digest(first) == digest(second)
    with torch.no_grad():
        next(second.parameters())[0] += 1e-6
    assert digest(first) != digest(second)


@pytest.mark.parametrize("packed", [True, False])
def test_dpo_learns_the_same_with_what_it_remembers(parts, tmp_path, monkeypatch, packed):
    folder, processor, pairs = parts
    monkeypatch.chdir(tmp_path)
    asked = []

    def trained(name, cache_gb):
        policy = FROZEN.model_copy(update={"cache_gb": cache_gb, "packed": packed})
        model, reference = load_model(folder, policy), load_model(folder, policy)
        asked.append([])
        reference.model.language_model.register_forward_hook(lambda *_: asked[-1].append(1))
        job = Job(policy, MICRO.launch, 1, tmp_path / name, tmp_path / f"{name}-steps", lambda *_: None)
        train_dpo(model, reference, processor, pairs, MICRO.dpo.model_copy(update=RECIPE), job)
        return load_model(tmp_path / name, policy).state_dict()

    plain, first, again = trained("plain", 0), trained("first", 1), trained("again", 1)
    assert [len(calls) for calls in asked] == [4, 2, 0]
    for name, value in plain.items():
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-5)
        torch.testing.assert_close(again[name], first[name], rtol=0, atol=1e-5)


def test_nothing_is_kept_unless_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert remembered(FROZEN) is None
    assert remembered(FROZEN.model_copy(update={"cache_gb": 1})) is not None
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["remembered"]
