"""What DVC said is said again only while DVC would: each change that it sees, and each that it does not, on a real project."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from saferflow.tracking import dvc_status, standing

STAGES = {
    "made": {
        "cmd": "mkdir -p folder && cp read/first folder/first && cp read/first out && cp read/first counts.json",
        "deps": ["read"],
        "params": ["section.value"],
        "outs": ["folder", "out"],
        "metrics": [{"counts.json": {"cache": False}}],
    }
}

questions: list[Path] = []
"""What DVC was asked since the test began."""


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """A project whose only stage has run, with a file of a .dvc file beside it."""
    root = tmp_path_factory.mktemp("standing") / "project"
    (root / "read").mkdir(parents=True)
    (root / ".saferflow").mkdir()
    (root / ".gitignore").write_text(".saferflow\n")
    (root / ".dvcignore").write_text("__pycache__\n")
    (root / "read" / "first").write_text("1")
    (root / "given").write_text("given")
    (root / "params.yaml").write_text("section: {value: 1}\n")
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": STAGES}))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    repo = Repo.init(str(root))
    repo.config["core"]["analytics"] = False
    before = Path.cwd()
    os.chdir(root)
    try:
        repo.add("given")
        repo.reproduce()
    finally:
        os.chdir(before)
    subprocess.run(["git", "add", "-A"], cwd=root, check=True)
    return root


@pytest.fixture
def project(ready, tmp_path, monkeypatch) -> Path:
    """A copy whose status is remembered, and what counts the questions to DVC, in `questions`."""
    root = shutil.copytree(ready, tmp_path / "project", symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")

    def ask(_: Path, file: Path) -> str:
        """DVC in this process, which has imported it."""
        questions.append(file)
        dvc_status.write_looked_at(file)
        return json.dumps(bare())

    monkeypatch.setattr(standing, "ask", ask)
    standing.status(root)  # DVC write-protects its cache at the first look
    standing.status(root)
    questions.clear()
    return root


def bare() -> dict:
    """What DVC says, with no memory."""
    with Repo() as repo:
        return repo.status()


def objects(root: Path) -> list[Path]:
    return sorted(path for path in (root / ".dvc" / "cache" / "files").rglob("*") if path.is_file())


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


def forge(file: Path, text: str) -> None:
    """Change a file so that its size and the time of its change stay as they were."""
    before = file.stat()
    file.write_text(text)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def track(root: Path) -> None:
    """A .dvc file that git does not know yet, of a file that is not there."""
    shutil.copy(root / "given.dvc", root / "read" / "more.dvc")
    replace(root / "read" / "more.dvc", "path: given", "path: more")


def test_while_nothing_changes_dvc_is_asked_once(project):
    assert json.loads(standing.status(project)) == {} == bare()
    assert questions == []


def test_what_is_stale_is_remembered_too(project):
    (project / "read" / "first").write_text("2")
    told = {json.dumps(json.loads(standing.status(project))) for _ in range(3)}
    assert told == {json.dumps(bare())}
    assert len(questions) == 1


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        pytest.param(lambda root: (root / "read" / "first").write_text("2"), True, id="a-dependency-of-the-same-size"),
        pytest.param(lambda root: (root / "read" / "second").write_text("2"), True, id="a-file-in-a-dependency"),
        pytest.param(lambda root: (root / "read" / "first").unlink(), True, id="a-file-less-in-a-dependency"),
        pytest.param(lambda root: (root / "folder" / "first").unlink(), True, id="a-file-less-in-an-output"),
        pytest.param(lambda root: (root / "out").unlink(), True, id="an-output-deleted"),
        pytest.param(lambda root: (root / "counts.json").write_text("2"), True, id="an-output-that-git-keeps"),
        pytest.param(lambda root: (root / "given").write_text("taken"), True, id="the-file-of-a-dvc-file"),
        pytest.param(lambda root: replace(root / "params.yaml", "1", "2"), True, id="a-parameter"),
        pytest.param(lambda root: append(root / "params.yaml", "other: 1\n"), False, id="another-parameter"),
        pytest.param(lambda root: replace(root / "dvc.yaml", "mkdir -p", "mkdir  -p"), True, id="the-command"),
        pytest.param(lambda root: (root / "dvc.lock").unlink(), True, id="the-lock"),
        pytest.param(lambda root: [path.unlink() for path in objects(root)], True, id="the-cache"),
        pytest.param(lambda root: shutil.rmtree(root / ".dvc" / "cache"), True, id="the-cache-as-a-whole"),
        pytest.param(track, True, id="a-new-dvc-file"),
        pytest.param(lambda root: (root / "given.dvc").unlink(), False, id="a-dvc-file-less"),
        pytest.param(lambda root: append(root / ".dvcignore", "/read/first\n"), True, id="what-dvc-ignores"),
        pytest.param(
            lambda root: append(root / ".dvc" / "config", f"[cache]\n    dir = {root}/elsewhere\n"),
            True,
            id="where-the-cache-is",
        ),
    ],
)
def test_a_change_that_dvc_sees_is_seen(project, change, stale):
    change(project)
    told = json.loads(standing.status(project))
    assert told == bare()
    assert bool(told) == stale
    assert len(questions) == 1


def test_a_change_under_the_old_time_is_looked_at_anew(project):
    """DVC goes by the time and size, and so does not see it; it is asked all the same."""
    forge(project / "read" / "first", "2")
    assert json.loads(standing.status(project)) == bare()
    assert len(questions) == 1


def test_what_python_leaves_changes_nothing(project):
    (project / "read" / "__pycache__").mkdir()
    (project / "read" / "__pycache__" / "first.pyc").write_text("x")
    assert json.loads(standing.status(project)) == {} == bare()
    assert questions == []


@pytest.mark.parametrize("memory", ["", "{", "[]", '{"circumstances": null}'])
def test_a_memory_that_was_cut_off_is_not_believed(project, memory):
    (project / standing.MEMORY).write_text(memory)
    assert json.loads(standing.status(project)) == {}
    assert len(questions) == 1


def test_another_environment_is_asked_of_dvc(project, monkeypatch):
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(project / ".saferflow" / "site"))
    standing.status(project)
    assert len(questions) == 1


def test_a_link_to_a_folder_is_left_to_dvc(project):
    (project / "elsewhere").mkdir()
    (project / "read" / "link").symlink_to(project / "elsewhere")
    for _ in range(2):
        assert json.loads(standing.status(project)) == bare()
    assert len(questions) == 2
