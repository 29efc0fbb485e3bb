"""A stage's process: lines as they come, and nothing left when the flow goes."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows import process

ROOT = Path(__file__).parents[2]
FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_lines_arrive_in_order_and_are_kept(tmp_path):
    lines, log = [], tmp_path / "logs" / "x.log"
    status = process.run(["sh", "-c", "echo one; echo two >&2; exit 3"], ROOT, log, {}, lines.append)
    assert (status, lines) == (3, ["one", "two"])
    assert log.read_text() == "one\ntwo\n"


def test_the_environment_is_handed_over(tmp_path):
    lines = []
    process.run(["sh", "-c", "echo $MLFLOW_RUN_ID"], ROOT, tmp_path / "x.log", {"MLFLOW_RUN_ID": "abc"}, lines.append)
    assert lines == ["abc"]


def test_a_command_speaks_utf8_to_us_and_gets_what_this_process_was_freed_of(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    monkeypatch.setitem(process.held_back, "ALL_PROXY", "socks5://proxy:1080")
    lines, program = [], "import os; print('│ → π', os.environ['ALL_PROXY'])"
    status = process.run([sys.executable, "-c", program], ROOT, tmp_path / "x.log", {}, lines.append)
    assert (status, lines) == (0, ["│ → π socks5://proxy:1080"])


def test_an_exception_ends_the_whole_family(tmp_path):
    pids = []

    def interrupted(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.run([sys.executable, "-c", FAMILY], ROOT, tmp_path / "x.log", {}, interrupted)
    assert _gone(pids[0])


def test_what_a_command_leaves_behind_is_ended(tmp_path):
    lines = []
    status = process.run(["sh", "-c", "sleep 60 & echo $!"], ROOT, tmp_path / "x.log", {}, lines.append)
    assert status == 0
    assert _gone(int(lines[0]))


def test_the_guard_ends_the_family_when_its_input_closes():
    """The flow was killed: nobody is left to end the stage."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "flows.guard", sys.executable, "-c", FAMILY],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(guard.stdout.readline())
    guard.stdin.close()
    assert guard.wait(timeout=30) == 128 + 15
    guard.stdout.close()
    assert _gone(child)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param("\x1b[31mred\x1b[0m\n", "red", id="colours"),
        pytest.param("10%\r20%\r30%\n", "30%", id="a-redrawn-line"),
        pytest.param("a\x00b\n", "ab", id="control-characters"),
        pytest.param("  two  \n", "  two", id="indentation-stays"),
    ],
)
def test_a_line_becomes_plain_text(line, expected):
    assert process.plain(line) == expected


def _gone(pid: int) -> bool:
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False
