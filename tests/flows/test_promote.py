"""Promotion that waits for a person: a real pause, answered from another process."""

import subprocess
import sys

import pytest

from saferflow.release import ledger

pytestmark = pytest.mark.slow


def champion(project) -> int:
    return int(project.mlflow().get_registered_model("saferflow").aliases["champion"])


def saferflow(project, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "saferflow", *arguments], cwd=project.root, env=project.environ(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


@pytest.fixture
def waiting(project):
    """A better version, made while gate.sign_off asks for a person, and a promotion that waits: (project, process, run)."""
    project.set("gate.sign_off", True)
    project.set("grpo.learning_rate", 0.0005)
    status, output = project.run()
    assert status == 0, output
    assert "a person has to agree (gate.sign_off): saferflow promote 2" in output
    assert champion(project) == 1
    process = saferflow(project, "promote")
    for line in iter(process.stdout.readline, ""):
        if "saferflow approve" in line:
            break
    else:
        raise AssertionError("it did not wait")
    yield project, process, line.split()[2]
    process.kill()
    process.communicate()


def answer(project, *arguments: str) -> tuple[int, str]:
    process = saferflow(project, "approve", *arguments)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def test_nothing_moves_before_somebody_agrees_and_who_it_was_is_in_the_ledger(waiting):
    project, process, run = waiting
    status, output = answer(project, "somebody-else", "--by", "Ada")
    assert status == 1
    assert run in output, "an error names what waits"
    assert champion(project) == 1
    status, output = answer(project, run, "--by", "Ada", "--why", "read the report")
    assert status == 0, output
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0, told
    assert champion(project) == 2
    lines = ledger.read(project.mlflow().get_registered_model("saferflow").tags)
    assert lines[-1].reason.endswith("signed off by Ada: read the report")


def test_a_refusal_leaves_the_champion(waiting):
    project, process, run = waiting
    status, output = answer(project, run, "--refuse", "--by", "Ada")
    assert status == 0, output
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "refused by Ada; nothing was moved" in told
    assert champion(project) == 1
