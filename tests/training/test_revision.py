"""The revision of a published checkpoint: from a copy of the hub on this machine, all of its parts from one commit."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saferflow.errors import ParamsError, PolicyError
from saferflow.params import load_params
from saferflow.stages.base import published as use_published
from saferflow.training.policy import load_model, load_processor, point_to, source
from tests.training.published import TEMPLATE, published

ROOT = Path(__file__).parents[2]
POLICY = load_params(ROOT / "profiles" / "micro.yaml").policy
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
MARKED = TEMPLATE.replace("You are a helpful assistant.", "You are the old one.")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Two commits of one checkpoint, of other weights, chat template and sliding window; tag v1 is the first, main the second."""
    cache = tmp_path_factory.mktemp("cache")
    repository = cache / "models--org--model"
    new = published(repository / "snapshots" / NEW)
    old = Path(shutil.copytree(new, repository / "snapshots" / OLD))
    for file in old.glob("*.safetensors"):
        save_file({name: value + 1 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    (old / "chat_template.json").write_text(json.dumps({"chat_template": MARKED}), encoding="utf-8")
    config = json.loads((old / "config.json").read_text(encoding="utf-8"))
    (old / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1000}), encoding="utf-8")
    (repository / "refs").mkdir()
    for name, commit in (("main", NEW), ("v1", OLD)):
        (repository / "refs" / name).write_text(commit, encoding="utf-8")
    return cache


@pytest.fixture
def offline(hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("revision", "commit", "added"),
    [(None, NEW, 0), ("v1", OLD, 1), (OLD, OLD, 1)],
    ids=["none-is-the-newest", "a-tag", "a-commit"],
)
def test_config_processor_and_weights_are_of_the_revision_and_its_commit_is_written(
    offline, hub, tmp_path, capsys, revision, commit, added
):
    assert point_to(tmp_path / "base", "org/model", revision) == ("org/model", commit)
    assert (tmp_path / "base" / "SOURCE").read_text(encoding="utf-8") == f"org/model\n{commit}\n"
    model, processor = load_model(tmp_path / "base", POLICY), load_processor(tmp_path / "base", POLICY)
    assert f"loaded from org/model at {commit}" in capsys.readouterr().err
    name = "model.embed_tokens.weight"
    [of_new] = [
        tensors[name]
        for file in (hub / "models--org--model" / "snapshots" / NEW).glob("*.safetensors")
        if name in (tensors := load_file(file))
    ]
    assert torch.equal(model.get_input_embeddings().weight, (of_new + added).float())
    assert model.config.get_text_config().max_position_embeddings == (1000 if added else 128_000)
    assert ("You are the old one." in processor.chat_template) == bool(added)


def test_a_branch_that_moves_on_leaves_the_policy_at_its_commit(offline, hub, tmp_path):
    point_to(tmp_path / "base", "org/model", "v1")
    (hub / "models--org--model" / "refs" / "v1").write_text(NEW, encoding="utf-8")
    try:
        assert source(tmp_path / "base").revision == OLD
        assert "You are the old one." in load_processor(tmp_path / "base", POLICY).chat_template
    finally:
        (hub / "models--org--model" / "refs" / "v1").write_text(OLD, encoding="utf-8")


def test_a_revision_that_is_not_there_is_refused_before_anything_is_written(offline, tmp_path):
    with pytest.raises(PolicyError, match=r"(?s)org/model: revision v9 could not be read .* set policy\.revision"):
        point_to(tmp_path / "base", "org/model", "v9")
    assert not (tmp_path / "base").exists()


def test_without_revision_and_network_the_name_alone_is_written(offline, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert use_published(POLICY.model_copy(update={"base": "org/other", "revision": None})) == {"published": 1}
    assert (tmp_path / "models" / "base" / "SOURCE").read_text(encoding="utf-8") == "org/other\n"
    assert "org/other, whose commit cannot be told here is used as published" in capsys.readouterr().out


def test_a_folder_has_no_revision(tmp_path):
    with pytest.raises(PolicyError, match=r"policy\.revision is v1 and policy\.base, .* is on this machine"):
        point_to(tmp_path / "base", str(tmp_path), "v1")
    assert point_to(tmp_path / "base", str(tmp_path), None) == (str(tmp_path), None)


def test_the_embedded_policy_has_no_revision(tmp_path):
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("  revision: null", "  revision: v1")
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ParamsError, match="base is embedded, which has no revision"):
        load_params(tmp_path / "params.yaml")
