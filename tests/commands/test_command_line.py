"""The command `saferflow` as a person meets it: its help, its errors, its speed."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from saferflow import commands
from saferflow.commands import folder

ROOT = Path(__file__).parents[2]
PROFILE = "run:\n  profile: other\n"


def saferflow(*arguments: str, cwd: Path = ROOT) -> tuple[int, str]:
    environ = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "saferflow", *arguments]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=environ)
    return done.returncode, done.stdout + done.stderr


def test_the_help_loads_none_of_the_slow_libraries():
    code = (
        "import sys; from typer.testing import CliRunner; from saferflow import commands; "
        "shown = CliRunner().invoke(commands.app, ['--help']); assert not shown.exception, shown.exception; "
        "print(*sorted({'torch', 'mlflow', 'prefect', 'dvc', 'datasets', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_command_imports_no_other_command():
    code = (
        "import sys; from typer.testing import CliRunner; from saferflow import commands; "
        "CliRunner().invoke(commands.app, ['chat', '--help']); "
        "print(*sorted(name for name in commands.NAMES if f'saferflow.commands.{name}' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["chat"]


def test_the_help_names_every_command():
    status, output = saferflow("--help")
    assert status == 0
    for command in commands.NAMES:
        assert f" {command} " in output


@pytest.mark.parametrize("name", commands.NAMES)
def test_each_command_is_a_file_of_its_name(name):
    app = import_module(f"saferflow.commands.{name}").app
    [*declared] = app.registered_commands
    assert app.info.help or [command.callback.__name__ for command in declared] == [name]


def test_without_arguments_it_teaches():
    _, output = saferflow()
    assert "saferflow doctor" in output


@pytest.mark.parametrize("command", ["run", "retrain", "chat", "check", "compare", "promote", "export"])
def test_the_help_of_a_command_shows_examples(command):
    status, output = saferflow(command, "--help")
    assert status == 0
    assert "Examples" in output
    assert f"saferflow {command} " in output


@pytest.mark.parametrize("command", [("run",), ("status",), ("chat", "-", "hello"), ("ui",)], ids=lambda c: c[0])
def test_outside_a_project_it_says_so_without_a_traceback(command, tmp_path):
    status, output = saferflow(*command, cwd=tmp_path)
    assert status == 1
    assert output.startswith("error: ")
    assert "run saferflow in the project's folder" in output


@pytest.fixture
def project(tmp_path):
    """A git checkout with two profiles, one of them in place."""
    (tmp_path / "profiles").mkdir()
    (tmp_path / "flows").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("run:\n  profile: mine\n")
    (tmp_path / "profiles" / "other.yaml").write_text(PROFILE)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def test_from_a_subfolder_it_runs_in_the_project_on_paths_of_the_subfolder(project):
    below = project / "notes" / "deep"
    below.mkdir(parents=True)
    (below / "traces.jsonl").write_text('{"id": "r1", "completion": "no tags"}\n')
    status, output = saferflow("check", "traces.jsonl", cwd=below)
    assert (status, "r1" in output) == (1, True)
    _, output = saferflow("run", "--profile", "other", cwd=below)
    assert (project / "params.yaml").read_text() == PROFILE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Path("out"), Path("notes/out")),  # a path, whether or not it is there yet
        (Path("/data/out"), Path("/data/out")),
        (Path("-"), Path("-")),
        ("/data/rows.jsonl", "/data/rows.jsonl"),
        ("rows.jsonl", "notes/rows.jsonl"),  # a text that is the path of a file
        ("gone.jsonl", "gone.jsonl"),
        ("v3", "v3"),
        (["base", "./rows.jsonl"], ["base", "notes/rows.jsonl"]),
        ("https://host/rows.jsonl", "https://host/rows.jsonl"),
    ],
    ids=str,
)
def test_paths_are_those_of_the_folder_that_the_command_came_from(value, expected, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "rows.jsonl").touch()
    assert folder.moved(value, tmp_path / "notes", tmp_path) == expected


def test_a_project_that_somebody_else_put_above_a_folder_is_none(project):
    below = project / "notes"
    below.mkdir()
    assert folder.project_above(below) == project
    if os.geteuid() == 0:  # only root can give files away
        os.chown(project / "dvc.yaml", 12345, -1)
        assert folder.project_above(below) is None


def test_a_profile_takes_the_place_of_the_parameters_and_the_way_back_is_told(project):
    _, output = saferflow("run", "--profile", "other", cwd=project)
    assert (project / "params.yaml").read_text() == PROFILE
    assert "git checkout -- params.yaml" in output


def test_a_profile_that_extends_another_is_written_complete(project):
    (project / "profiles" / "more.yaml").write_text("extends: other\nrun:\n  seed: 1\ndpo: null\n")
    saferflow("run", "--profile", "more", cwd=project)
    text = (project / "params.yaml").read_text()
    assert yaml.safe_load(text) == {"run": {"profile": "other", "seed": 1}, "dpo": None}
    assert "profiles/more.yaml" in text
    saferflow("run", "--profile", "other", cwd=project)
    assert (project / "params.yaml").read_text() == PROFILE, "what a profile holds is lost nowhere"


def test_guessed_labels_are_allowed_by_an_option_that_is_loud_and_stands_in_the_params(project):
    held = "run:\n  profile: mine\nplan:\n  allow_guessed_labels: false # by hand\n  pairs: 1\n"
    (project / "params.yaml").write_text(held)
    _, output = saferflow("run", "--allow-guessed-labels", cwd=project)
    assert (project / "params.yaml").read_text() == held.replace("false", "true")
    assert "WARNING" in output
    assert "knows the drawn corpus alone" in output


def test_a_profile_does_not_overwrite_changes_that_are_nowhere_else(project):
    (project / "params.yaml").write_text("run:\n  profile: tuned\n")
    status, output = saferflow("run", "--profile", "other", cwd=project)
    assert status == 1
    assert "has changes that are not in git" in output
    assert (project / "params.yaml").read_text() == "run:\n  profile: tuned\n"


def test_an_unknown_profile_is_refused_with_those_there_are(project):
    status, output = saferflow("run", "--profile", "huge", cwd=project)
    assert status == 1
    assert "no profile 'huge'; there are: other" in output


def test_chat_refuses_an_image_that_is_not_there():
    status, output = saferflow("chat", "nowhere.png", "what is this?")
    assert status == 1
    assert output == "error: nowhere.png: No such file or directory; give an image file, or - for none\n"


def test_the_doctor_finds_this_machine_fit_or_names_a_remedy():
    status, output = saferflow("doctor")
    missing = [line for line in output.splitlines() if line.startswith("missing")]
    assert (status == 0) == (missing == [])
    for what in (
        "python",
        "packages",
        "disk",
        "memory",
        "cores",
        "GPU",
        "git state",
        "dvc state",
        "fonts",
        "port prefect",
    ):
        assert what in output
    for line in missing:
        assert "→" in output.splitlines()[output.splitlines().index(line) + 1]
