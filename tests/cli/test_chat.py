"""`saferflow chat` with the champion: wherever its files are kept, and only if they are what was registered."""

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from saferflow.cli.chat import converse
from saferflow.errors import PipelineError, PolicyError
from saferflow.params import load_params
from saferflow.release.weights import folder_digest
from saferflow.tracking.dvc_remote import dvc_address
from saferflow.training.chat import load

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


def test_a_terminal_shows_the_completion_as_it_grows_and_in_the_end_the_same(
    registered, policy, tmp_path, capsys, monkeypatch
):
    registered(policy.as_uri(), folder_digest(policy))
    plain = ask_the_champion(capsys)
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes it for a terminal
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", ask_the_champion(capsys))
    assert "loading the policy" in shown
    assert shown.endswith(plain[plain.index("plan\n") :])


def test_what_is_heard_grows_to_the_completion(policy):
    speaker, heard = load(policy, PARAMS), []
    plan = speaker.plan(None, "How do I store bleach?")
    completion = speaker.complete(plan, None, "How do I store bleach?", hear=heard.append)
    assert len(heard) == PARAMS.policy.max_completion_tokens
    assert all(later.startswith(earlier) for earlier, later in pairwise(heard))
    assert heard[-1] == completion == speaker.reply(None, "How do I store bleach?").completion
