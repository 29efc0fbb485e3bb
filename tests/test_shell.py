"""What shells, schedulers and containers leave behind: ignored, put right, or refused by name. Real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow import shell
from saferflow.commands.profiles import complete
from saferflow.errors import PipelineError
from saferflow.tracking import environment

ROOT = Path(__file__).parents[1]
LEFT = {
    "RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "none", "ACCELERATE_USE_FSDP": "true", "ACCELERATE_MIXED_PRECISION": "fp8", "PET_NNODES": "2",
    "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "LOCAL_WORLD_SIZE": "4",
}  # fmt: skip


def run(*arguments: str, cwd: Path = ROOT, **changes: str | None) -> subprocess.CompletedProcess:
    environ = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    for name, value in changes.items():
        environ.pop(name, None) if value is None else environ.update({name: value})
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, errors="replace"
    )


def test_what_another_launcher_left_is_forgotten():
    environ = {**LEFT, "PATH": "/bin", "NCCL_DEBUG": "WARN"}
    shell.settle(environ)
    assert {"PATH": "/bin", "NCCL_DEBUG": "WARN"}.items() <= environ.items()
    assert shell.ranks_of(environ) == {}


def test_what_our_own_launcher_says_stays_in_the_processes_that_it_starts():
    environ = {**LEFT, shell.LAUNCHER: str(os.getppid())}
    assert shell.launched(environ)
    shell.settle(environ)
    assert LEFT.items() <= environ.items()
    inherited = {**LEFT, shell.LAUNCHER: str(os.getpid())}
    shell.settle(inherited)
    assert not {*LEFT, shell.LAUNCHER} & inherited.keys(), "a shell that inherited them is none of these"


@pytest.mark.parametrize(
    ("left", "processes", "wrong"),
    [
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, 1, set()),
        ({"WORLD_SIZE": "4", "RANK": "0"}, 1, {"WORLD_SIZE"}),
        ({"RANK": "1"}, 1, {"RANK"}),
        ({"LOCAL_RANK": "2"}, 1, {"LOCAL_RANK"}),
        ({"WORLD_SIZE": "2", "RANK": "1"}, 2, set()),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_RANK": "7"}, 1, {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}),
        ({"WORLD_SIZE": "", "RANK": "many", "MASTER_ADDR": "x"}, 1, set()),
    ],
)
def test_what_contradicts_the_number_of_processes_is_named(left, processes, wrong):
    assert set(shell.contradictions(left, processes)) == wrong


@pytest.mark.parametrize("value", ["0", "-1", "", "many", "2.5", "1,0", " "])
def test_a_number_of_threads_that_is_none_is_forgotten(value):
    environ = {"OMP_NUM_THREADS": value, "MKL_NUM_THREADS": "2"}
    shell.settle(environ)
    assert "OMP_NUM_THREADS" not in environ
    assert environ["MKL_NUM_THREADS"] == "2"


@given(st.lists(st.integers(1, 512), min_size=1, max_size=3))
def test_a_number_of_threads_stays(counts):
    environ = {"OMP_NUM_THREADS": ",".join(map(str, counts))}
    shell.settle(environ)
    assert environ["OMP_NUM_THREADS"] == ",".join(map(str, counts))


@pytest.mark.parametrize(
    ("value", "hidden"), [(None, False), ("0", False), ("0,1", False), ("", True), (" ", True), ("-1", True)]
)
def test_hidden_gpus_are_named(value, hidden):
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert bool(shell.hides_gpus(environ)) == hidden
    assert not hidden or "CUDA_VISIBLE_DEVICES=" in shell.hides_gpus(environ)


SPREAD = """
import os, sys
from pathlib import Path
from saferflow.params import load_params
from saferflow.stages.entry import run_stage
from saferflow.training.launch import is_main_process, spread

def main():
    params = load_params(Path("micro.yaml"))
    spread("started", params.launch.model_copy(update={"processes": int(sys.argv[1] if sys.argv[1:] else 2)}), params.policy)
    Path("wrote-" + os.environ.get("RANK", "alone")).write_text(os.environ.get("WORLD_SIZE", "1") + " " + str(is_main_process()))

if __name__ == "__main__":
    run_stage(main, spreads=True)
"""


@pytest.fixture
def stage(tmp_path):
    (tmp_path / "started.py").write_text(SPREAD, encoding="utf-8")
    (tmp_path / "micro.yaml").write_text(complete(ROOT / "profiles" / "micro.yaml"), encoding="utf-8")
    return tmp_path


def test_a_stage_of_one_process_refuses_by_name_what_speaks_of_several(stage):
    done = run("started.py", "1", cwd=stage, **LEFT)
    assert done.returncode == 1
    assert "RANK=3, WORLD_SIZE=4" in done.stderr
    assert "unset" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(stage.glob("wrote-*"))


def test_a_stage_of_one_process_ignores_what_speaks_of_one(stage):
    done = run("started.py", "1", cwd=stage, **{**LEFT, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1",
               "OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (stage / "wrote-alone").read_text() == "1 True"


def test_a_stage_that_starts_several_processes_ignores_what_another_launcher_left(stage):
    more = {"OMP_NUM_THREADS": "0", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": f"{ROOT / 'src'}:."}
    done = run("started.py", cwd=stage, **LEFT, **more)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {path.name: path.read_text() for path in stage.glob("wrote-*")} == {
        "wrote-0": "2 True", "wrote-1": "2 False",
    }  # fmt: skip


PRINT = (
    "import sys; from saferflow.shell import settle; settle(); print('\\u2502 \\u2192 \\u03c0 \\udcff'); "
    "print('\\u2192 \\udcff', file=sys.stderr)"
)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8", "cp1252:strict"])
def test_whatever_is_printed_in_whatever_encoding_ends_no_command(encoding):
    done = run("-c", PRINT, PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_whatever_is_printed_in_the_c_locale_ends_no_command():
    done = run("-c", PRINT, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING=None)
    assert done.returncode == 0, done.stderr
    assert "\\u2192" in done.stdout


def test_an_argument_that_is_not_utf8_is_refused_by_name():
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable.encode(), b"-m", b"saferflow", b"check", b"rows\xff.jsonl"]
    done = subprocess.run(command, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: an argument is not UTF-8: 'rows\\udcff.jsonl'; write it as UTF-8, or rename the file\n"


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a\nb", os.fsdecode(b"a\xff")])
def test_a_folder_whose_name_means_something_in_an_address_is_refused(tmp_path, name):
    folder = tmp_path / name
    (folder / "mlflow").mkdir(parents=True)
    (folder / "mlflow" / "server.env").write_bytes((ROOT / "mlflow" / "server.env").read_bytes())
    with pytest.raises(PipelineError, match="rename the folder"):
        environment.prepare({}, folder)
    assert [path.name for path in folder.iterdir()] == ["mlflow"], "nothing was made in it"


def test_a_folder_with_spaces_and_letters_of_any_language_is_none_of_these(tmp_path):
    for name in ("my project", "Straße", "проект", "a+b=c & d", "[v1]"):
        environment.refuse_folder(tmp_path / name)


NOBODY = """
import getpass, os
from pathlib import Path
from saferflow.shell import settle
from saferflow.release.ledger import user
os.setuid(54321)
settle()
print(getpass.getuser(), user(), Path.home())
"""


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="only root may become a user that there is not")
def test_a_user_without_an_entry_in_passwd_has_a_name_and_a_home(tmp_path):
    nameless = dict.fromkeys(shell.NAMES)
    done = run("-c", NOBODY, cwd=tmp_path, **nameless, HOME=None)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["uid54321", "uid54321", str(tmp_path / ".saferflow" / "home")]
    done = run("-c", NOBODY, cwd=tmp_path, **nameless | {"USER": "ada"}, HOME="/home/ada")
    assert done.stdout.split() == ["ada", "ada", "/home/ada"]
