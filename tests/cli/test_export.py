"""`saferflow export`: what comes out loads without saferflow, and what was changed does not come out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from llguidance import LLMatcher, LLTokenizer
from rich.console import Console

from mlflow import MlflowClient
from saferflow.cli.export import export, sign, verify
from saferflow.errors import PipelineError
from saferflow.params import load_params
from saferflow.release import registry
from saferflow.release.weights import folder_digest
from saferflow.tracking import runs

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
MODEL = PARAMS.gate.registered_model
BARE = """
import sys
sys.modules["saferflow"] = None  # an import of it fails
from PIL import Image
from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration
from transformers.models.qwen2_vl import Qwen2VLImageProcessorPil
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
image = Qwen2VLImageProcessorPil.from_pretrained(sys.argv[1])(Image.new("RGB", (112, 112), "red"), return_tensors="pt")
count = int(image["image_grid_thw"].prod()) // 4
content = [{"type": "image"}, {"type": "text", "text": "What is this?"}]
text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
text = text.replace("<|image_pad|>", "<|image_pad|>" * count)
said = model.generate(**tokenizer(text, return_tensors="pt"), **image, max_new_tokens=4, do_sample=False)
print(said.shape[1])
"""


@pytest.fixture
def weights(policy):
    return policy


@pytest.fixture
def version(weights, tmp_path, monkeypatch):
    """A registered champion whose files are the run's artifact."""
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    for module in (runs, registry):
        monkeypatch.setattr(module, "client", lambda: client)
    experiment = client.create_experiment("align", artifact_location=(tmp_path / "artifacts").as_uri())
    registry.ensure_model(MODEL)
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(weights), "model")
    client.log_text(run, "# the card", "model_card.md")
    tags = {registry.MODEL_DIGEST: folder_digest(weights), registry.EVALUATION_RUN: run}
    made = registry.register(MODEL, f"runs:/{run}/model", run, tags)
    registry.promote(made, "the first", None)
    return made


def written(asked: str, to: Path) -> str:
    console = Console(record=True, width=200)
    export(console, Path.cwd(), PARAMS, asked, to)
    return console.export_text()


def test_dvcs_hash_of_a_folder_is_the_one_that_dvc_computes(weights, tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copytree(weights, tmp_path / "model")
    for command in (["init", "-q"], ["add", "-q", "model"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True, capture_output=True)
    told = yaml.safe_load((tmp_path / "model.dvc").read_text())["outs"][0]["md5"]
    assert folder_digest(weights) == told


@pytest.mark.parametrize("asked", ["champion", "1", "v1"])
def test_the_folder_holds_the_files_the_card_and_the_lineage(version, weights, tmp_path, asked):
    assert "version 1 is in" in written(asked, tmp_path / "out")
    for path in weights.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert (tmp_path / "out" / "README.md").read_text() == "# the card"
    assert json.loads((tmp_path / "out" / "saferflow.json").read_text())["version"] == 1
    grammar = (tmp_path / "out" / "protocol.lark").read_text()
    assert not LLMatcher(LLTokenizer("byte"), LLMatcher.grammar_from_lark(grammar)).get_error()
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith(".out")} == set()


def test_it_loads_and_speaks_with_plain_transformers(version, tmp_path):
    written("champion", tmp_path / "out")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(tmp_path / "out")],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4


def test_files_that_were_changed_are_refused_and_nothing_is_written(version, tmp_path):
    stored = next((tmp_path / "artifacts").rglob("config.json"))
    stored.write_text(stored.read_text().replace("qwen2_5_vl", "another"))
    with pytest.raises(PipelineError, match="are not those that were registered"):
        written("champion", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_left_alone(version, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(PipelineError, match="is there and not empty"):
        written("champion", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_version_that_is_not_there_is_told(version, tmp_path):
    with pytest.raises(PipelineError, match="has no version 7"):
        written("7", tmp_path / "out")
    with pytest.raises(PipelineError, match="has no version 'previous'"):
        written("previous", tmp_path / "out")


@pytest.fixture
def keys(tmp_path):
    """Two pairs of keys: the owner's, and another's."""
    from cryptography.hazmat.primitives import serialization as written_as
    from cryptography.hazmat.primitives.asymmetric import ec

    for name in ("owner", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        secret = key.private_bytes(written_as.Encoding.PEM, written_as.PrivateFormat.PKCS8, written_as.NoEncryption())
        public = key.public_key().public_bytes(written_as.Encoding.PEM, written_as.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(secret)
        (tmp_path / f"{name}.pub").write_bytes(public)
    return tmp_path


WANTS = PARAMS.model_copy(update={"gate": PARAMS.gate.model_copy(update={"public_key": "owner.pub"})})


def test_a_signed_version_comes_out_with_its_signature_and_holds_against_it(version, keys):
    sign(Console(), PARAMS, "champion", keys / "owner.pem")
    export(Console(), keys, WANTS, "champion", keys / "out")
    console = Console(record=True, width=200)
    verify(console, keys / "out", keys / "owner.pub")
    assert "every file is what the owner of" in console.export_text()
    with pytest.raises(PipelineError, match="do not serve it"):
        verify(Console(), keys / "out", keys / "other.pub")
    (keys / "out" / "extra.py").write_text("")
    with pytest.raises(PipelineError, match=r"extra\.py"):
        verify(Console(), keys / "out", keys / "owner.pub")
    (keys / "out" / "extra.py").unlink()
    (keys / "out" / "config.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"config\.json"):
        verify(Console(), keys / "out", keys / "owner.pub")


def test_where_a_signature_is_asked_for_nothing_unsigned_or_of_another_comes_out(version, keys):
    with pytest.raises(PipelineError, match="is not signed; sign it: saferflow sign v1"):
        export(Console(), keys, WANTS, "champion", keys / "out")
    sign(Console(), PARAMS, "champion", keys / "other.pem")
    with pytest.raises(PipelineError, match="is not what the owner of"):
        export(Console(), keys, WANTS, "champion", keys / "out")
    assert not (keys / "out").exists()


def test_a_key_that_is_none_is_told_with_how_to_make_one(version, keys):
    (keys / "no.pem").write_text("no key")
    with pytest.raises(PipelineError, match="openssl ecparam"):
        sign(Console(), PARAMS, "champion", keys / "no.pem")
    with pytest.raises(PipelineError, match="openssl ecparam"):
        sign(Console(), PARAMS, "champion", keys / "missing.pem")
    sign(Console(), PARAMS, "champion", keys / "owner.pem")
    with pytest.raises(PipelineError, match="no public key"):
        export(
            Console(),
            keys,
            PARAMS.model_copy(update={"gate": PARAMS.gate.model_copy(update={"public_key": "no.pem"})}),
            "champion",
            keys / "out",
        )
