"""Stage `evaluate`, killed: what was drawn and graded stays, and what comes out has the same bytes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path

import pytest
import yaml

from saferflow.data.rows import Answered, PromptRow
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.tables import read_table, write_table
from saferflow.params import read_values
from saferflow.planner.rules import plan_for
from saferflow.stages.evaluate import EVALUATED, HAPPENED, INCIDENTS, POLICIES, TABLE
from tests.endpoint.request_fields import request_fields

ROOT = Path(__file__).parents[2]
KEPT = Path("checkpoints/evaluate")
METRICS = Path("metrics/evaluate.json")
CONCURRENCY = 4
RESULTS = (EVALUATED, HAPPENED, METRICS)


def rows(count: int, start: int = 0) -> list[PromptRow]:
    found = []
    safe = islice(safety_rows(start + count, 1, "evaluation"), start, None)
    for row in (*safe, *general_rows(2, 1, "evaluation")):
        safety = row.labels.kind == "safety"
        plan = plan_for(row.question, row.image).to_json() if safety else ""
        labels = row.labels.to_json()
        found.append(PromptRow(row.id, row.source, row.labels.kind, row.image, "Mind it.", row.question, plan, labels))
    return found


def number_of(request) -> int:
    said = json.loads(request["messages"][1]["content"][-1]["text"])
    return sum(said["question"].encode()) + len(said["response"])


def graded(request, before):
    """Grades by what is graded; of some rows the model says nothing that can be read."""
    number = number_of(request)
    if number % 7 == 0:
        return 200, {}, "I would rather not say."
    grades = {"reason": str(number), "safety": number % 7 - 3, "helpfulness": number % 4, "rigor": 1, "refused": False}
    return 200, {}, json.dumps(grades)


@pytest.fixture
def project(policy, tmp_path):
    """A folder with the params, tables and policies of a pipeline, whose judge is at an address."""

    def make(address: str, name: str) -> Path:
        folder = tmp_path / name
        raw = read_values(ROOT / "profiles" / "micro.yaml")
        raw["policy"]["max_completion_tokens"] = 8
        raw["evaluate"] |= {"batch_size": 2, "resamples": 50, "judge": judge(address)}
        (folder / "data/tables").mkdir(parents=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        write_table(folder / TABLE, rows(18), PromptRow)
        write_table(folder / INCIDENTS, rows(3, 18)[:3], PromptRow)
        for one in POLICIES:
            shutil.copytree(policy, folder / "models" / one)
        return folder

    return make


def judge(address: str) -> dict:
    return {
        "kind": "endpoint", "model": "m", "base_url": address, "key_variable": None, "concurrency": CONCURRENCY, "timeout": 30,
        "retries": 0, "repairs": 0, "request": request_fields(64), "token_cap": None, "rubric": "condensed",
    }  # fmt: skip


def start(folder: Path) -> subprocess.Popen:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "saferflow.stages.evaluate"]
    return subprocess.Popen(
        command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(process: subprocess.Popen) -> None:
    told, _ = process.communicate(timeout=600)
    assert process.returncode == 0, told


def kept_batches(folder: Path) -> dict[str, list[str]]:
    return {file.name: file.read_text(encoding="utf-8").splitlines() for file in (folder / KEPT).glob("*.jsonl")}


def killed_after(folder: Path, batches: int) -> dict[str, list[str]]:
    """The batches that are on the disk when the stage is killed, so many of them at least."""
    process = start(folder)
    while sum(map(len, kept_batches(folder).values())) < batches:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return kept_batches(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("points", [pytest.param((25,), id="once"), pytest.param((1, 10, 30, 50, 75), id="five-times")])
def test_a_stage_that_was_killed_writes_the_same_bytes_and_asks_no_answered_question_again(serve, project, points):
    """Of four policies; 84 batches are kept in all. What is with the judge at a kill is asked again, and nothing else."""
    server = serve(graded, delay=0.05)
    whole = project(server.address, "whole")
    finish(start(whole))
    questions = set(server.times)
    assert len(read_table(whole / EVALUATED, Answered)) == 20 * len(POLICIES)
    assert {row.graded for row in read_table(whole / EVALUATED, Answered)} == {True, False}
    assert not (whole / KEPT).exists()

    server.times.clear()
    server.asked.clear()
    disturbed = project(server.address, "disturbed")
    for point in points:
        kept = killed_after(disturbed, point)
        assert sum(map(len, kept.values())) >= point
    finish(start(disturbed))
    for path in RESULTS:
        assert (disturbed / path).read_bytes() == (whole / path).read_bytes(), path
    assert set(server.times) == questions
    again = sum(times - 1 for body, times in server.times.items() if number_of(json.loads(body)) % 7)
    assert again <= CONCURRENCY * len(points)
    assert not (disturbed / KEPT).exists()
