"""Where a run comes from: the state of git, and DVC's hashes."""

import subprocess

import pytest

from saferflow.tracking import lineage


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "dvc.lock").write_text("a")
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_a_clean_checkout_is_clean(checkout):
    commit, dirty = lineage.git_state(checkout)
    assert len(commit) == 40
    assert not dirty


def test_what_a_run_itself_writes_is_no_uncommitted_work(checkout):
    (checkout / "dvc.lock").write_text("b")
    (checkout / "metrics").mkdir()
    (checkout / "metrics" / "sft.json").write_text("{}")
    assert lineage.git_state(checkout)[1] is False


@pytest.mark.parametrize("name", ["code.py", "new.py"])
def test_changed_or_new_code_is_uncommitted_work(checkout, name):
    (checkout / name).write_text("2")
    assert lineage.git_state(checkout)[1] is True


def test_outside_git_there_is_no_commit_and_nothing_is_clean(tmp_path):
    assert lineage.git_state(tmp_path) == ("none", True)


def test_a_stages_tags_hold_the_hash_of_each_dependency_and_output():
    entry = {
        "cmd": "x",
        "deps": [{"path": "data/tables", "md5": "d1.dir"}],
        "outs": [{"path": "models/sft", "md5": "o1.dir"}],
    }
    tags = lineage.stage_tags(entry)
    assert tags["saferflow.dep.data/tables"] == "d1.dir"
    assert tags["saferflow.out.models/sft"] == "o1.dir"


def test_two_checkouts_are_told_apart(tmp_path):
    assert lineage.checkout_id(tmp_path / "a") != lineage.checkout_id(tmp_path / "b")
