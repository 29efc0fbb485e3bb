"""`saferflow chat` with the champion: wherever its files are kept, and only if they are what was registered."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from saferflow.cli.chat import converse
from saferflow.errors import PipelineError, PolicyError
from saferflow.params import load_params
from saferflow.tracking.weights import dvc_address, folder_digest

ROOT = Path(__file__).parents[2]
MICRO = load_params(ROOT / "profiles" / "micro.yaml")
PARAMS = MICRO.model_copy(update={"policy": MICRO.policy.model_copy(update={"max_completion_tokens": 2})})


def ask_the_champion(capsys) -> str:
    converse(Path.cwd(), PARAMS, "-", "How do I store bleach?", "champion", constrained=False, drawing=None)
    return capsys.readouterr().out


def test_a_champion_that_dvc_keeps_answers(registered, policy, tmp_path, capsys):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    shutil.copytree(policy, tmp_path / "model")
    for command in (["init", "-q"], ["add", "-q", "model"]):
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True, capture_output=True)
    shutil.rmtree(tmp_path / "model")  # later runs have replaced it
    registered(dvc_address(folder_digest(policy), "models/grpo"), folder_digest(policy))
    assert "completion" in ask_the_champion(capsys)


def test_a_champion_whose_files_were_changed_does_not_answer(registered, policy, tmp_path, capsys):
    shutil.copytree(policy, tmp_path / "model")
    registered((tmp_path / "model").as_uri(), folder_digest(policy))
    assert "completion" in ask_the_champion(capsys)
    (tmp_path / "model" / "generation_config.json").write_text("{}")
    with pytest.raises(PipelineError, match="are not those that were registered"):
        ask_the_champion(capsys)


def test_without_a_champion_another_policy_is_named(registered, capsys):
    with pytest.raises(PolicyError, match="no champion yet"):
        ask_the_champion(capsys)
