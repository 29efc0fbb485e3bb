"""Several processes: results in order, what is raised comes through, and nobody is left behind."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from saferflow.errors import DataError, PipelineError
from saferflow.parallel import AHEAD, mapped

ROOT = Path(__file__).parents[1]


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # the later ones are done first
    return number * number


def refuses(number: int) -> int:
    if number == 3:
        raise DataError("row 3 is no good")
    return number


def dies(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def waits(number: int, folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(60)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers):
    assert list(mapped(square, range(12), workers)) == [number * number for number in range(12)]


def test_few_jobs_are_taken_ahead_of_the_results():
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield number

    results = mapped(square, jobs(), 2)
    next(results)
    assert len(taken) <= 2 * AHEAD
    results.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_job_raises_is_raised_here(workers):
    with pytest.raises(DataError, match="row 3 is no good"):
        list(mapped(refuses, range(6), workers))


def test_a_killed_process_is_an_error_that_says_what_to_do():
    with pytest.raises(PipelineError, match=r"lower run\.workers"):
        list(mapped(dies, range(2), 2))


def test_the_processes_end_with_the_one_that_started_them_however_it_ends(tmp_path):
    code = f"from tests.test_parallel import *; list(mapped(partial(waits, folder={str(tmp_path)!r}), range(2), 2))"
    guarded = f"if __name__ == '__main__':\n    {code.replace('; ', chr(10) + '    ')}\n"
    (tmp_path / "run.py").write_text(guarded.replace("import *", "import mapped, partial, waits"), encoding="utf-8")
    path = os.pathsep.join((str(ROOT), str(ROOT / "src")))
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], env={**os.environ, "PYTHONPATH": path})
    while len(workers := [int(file.name) for file in tmp_path.iterdir() if file.name.isdigit()]) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in workers if psutil.pid_exists(pid)], timeout=10)
    assert not alive


assert partial  # for the script of the last test
