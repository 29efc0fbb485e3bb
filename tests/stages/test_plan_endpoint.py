"""Stage `plan` with a planner and a teacher behind a server."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from saferflow.data.rows import BadRow, DPORow, Labels, PromptRow, SFTRow
from saferflow.data.scenes.corpus import safety_rows
from saferflow.data.tables import read_table
from saferflow.errors import EndpointError
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import render
from saferflow.rng import rng
from saferflow.stages import plan

ROOT = Path(__file__).parents[2]
TABLES = Path("data/tables")
TYPES = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "evaluation": PromptRow, "quarantine": BadRow}
TRAIN = 60
LABELS = {
    row.question: row.labels
    for split, rows in (("train", TRAIN), ("evaluation", 12))
    for row in safety_rows(rows, 7, split)
}


def told(request) -> dict:
    """The object in the user's first message."""
    return json.loads(request["messages"][1]["content"][-1]["text"])


def well(request, before):
    """Answers as the rule planner and the rule teacher would, from the question alone."""
    question = told(request)["question"]
    made = plan_for(question, None)
    if request["response_format"]["json_schema"]["name"] == "PlanForm":
        fields = json.loads(made.to_json())
        return (
            200,
            {},
            json.dumps({name: fields[name] for name in ("hazard", "severity", "persona", "tools", "topology")}),
        )
    labels: Labels = LABELS[question]
    return 200, {}, json.dumps({"response": render(write(made, question, labels, "Use soap.", rng(1, "t"), 1.0))})


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder whose params name a server for plans and references."""
    monkeypatch.chdir(tmp_path)
    Path("data/sources").mkdir(parents=True)

    def configure(server, **changes):
        raw = yaml.safe_load((ROOT / "profiles" / "micro.yaml").read_text(encoding="utf-8"))
        raw["data"]["sources"] = [
            {"kind": "scenes", "train": TRAIN, "evaluation": 12, "general_train": 4, "general_evaluation": 4}
        ]
        raw["plan"]["augmentation"] = None  # the server knows the requests as their source gives them
        raw["plan"]["writer"] = {
            "kind": "endpoint", "model": "writer-1", "base_url": server.address, "key_variable": None, "concurrency": 8,
            "timeout": 10, "retries": 1, "repairs": 1, "max_tokens": 512, "token_cap": None, **changes,
        }  # fmt: skip
        Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")

    return configure


def tables() -> dict[str, list]:
    return {name: read_table(TABLES / f"{name}.parquet", row_type) for name, row_type in TYPES.items()}


def test_plans_and_references_come_from_the_server_and_are_paid_for_once(serve, project):
    server = serve(well)
    project(server)
    plan.main()
    made = tables()
    assert not made["quarantine"]
    for row in made["sft"]:
        assert row.kind == "general" or check(Plan.from_json(row.plan), row.completion) == ()
    asked, before = len(server.asked), {path.name: path.read_bytes() for path in TABLES.iterdir()}
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    Path("params.yaml").write_text(yaml.safe_dump({**raw, "run": {**raw["run"], "workers": 2}}), encoding="utf-8")
    plan.main()
    assert len(server.asked) == asked
    assert {path.name: path.read_bytes() for path in TABLES.iterdir()} == before, "whatever the number of processes"
    planning = [one for one in server.asked if one["response_format"]["json_schema"]["name"] == "PlanForm"]
    assert all(told(one).keys() == {"question"} for one in planning), "the planner sees no label"
    teaching = [one for one in server.asked if one not in planning]
    assert all("expected" in told(one) for one in teaching)
    assert {one["messages"][0]["content"].count("[TOOL-NAME]") for one in teaching} == {1}, (
        "the teacher reads the whole plan"
    )


def test_a_response_that_breaks_its_plan_is_sent_back_with_what_is_wrong(serve, project):
    def answer(request, before):
        status, headers, text = well(request, before)
        if len(request["messages"]) == 2:
            text = text.replace("SAFETY-GATE", "SAFETY-GATES")
        return status, headers, text

    server = serve(answer)
    project(server)
    plan.main()
    assert not tables()["quarantine"]
    assert json.loads(Path("metrics/plan.json").read_text())["tokens"] > 0
    plan.main()
    assert json.loads(Path("metrics/plan.json").read_text())["tokens"] == 0, "nothing is paid for twice"
    repaired = [one["messages"][-1]["content"] for one in server.asked if len(one["messages"]) == 4]
    assert any("SAFETY-GATES" in one and "T1" in one for one in repaired), "violations of the response"
    assert any("the plan is incoherent" in one and "SAFETY-GATES" in one for one in repaired), "problems of the plan"


def test_what_stays_wrong_goes_to_quarantine_with_the_reason_and_nowhere_else(serve, project):
    spoilt = sorted(LABELS)[:20]

    def answer(request, before):
        status, headers, text = well(request, before)
        return status, headers, text.replace("<answer>", "") if told(request)["question"] in spoilt else text

    project(serve(answer))
    plan.main()
    made = tables()
    assert made["quarantine"]
    assert {row.content for row in made["quarantine"]} <= set(spoilt)
    assert all("the server's reference was not accepted" in row.reason for row in made["quarantine"])
    assert all("T001" in row.reason for row in made["quarantine"])
    kept = {row.question for name in ("sft", "dpo") for row in made[name]}
    assert not kept & set(spoilt)
    assert json.loads(Path("metrics/plan.json").read_text())["quarantined"] == len(made["quarantine"])


def test_rows_that_the_server_refuses_go_to_quarantine_as_refused_and_the_stage_goes_on(serve, project):
    refused = sorted(LABELS)[:5]

    def answer(request, before):
        if told(request)["question"] in refused:
            return 400, {}, b'{"error": {"message": "The prompt was filtered", "code": "content_filter"}}'
        return well(request, before)

    server = serve(answer)
    project(server)
    plan.main()
    made = tables()["quarantine"]
    assert {row.content for row in made} == set(refused)
    assert all(f"{server.address}: The prompt was filtered" in row.reason for row in made)
    assert all("refused by" in row.reason for row in made)
    assert json.loads(Path("metrics/plan.json").read_text())["quarantined"] == len(made)


def test_a_server_that_answers_with_errors_alone_leaves_the_tables_of_before(serve, project):
    broken = []
    server = serve(lambda request, before: (200, {}, b'{"error": "worker died"}') if broken else well(request, before))
    project(server, retries=0)
    plan.main()
    before = {path.name: path.read_bytes() for path in TABLES.iterdir()}
    Path(".saferflow/answers.sqlite").unlink()
    broken.append(True)
    with pytest.raises(EndpointError, match="worker died"):
        plan.main()
    assert {path.name: path.read_bytes() for path in TABLES.glob("[!.]*")} == before
    broken.clear()
    plan.main()
    assert {path.name: path.read_bytes() for path in TABLES.iterdir()} == before


def test_after_a_kill_the_tables_are_the_same_byte_for_byte(serve, project, tmp_path):
    server = serve(well, delay=0.05)
    project(server)
    command = [sys.executable, "-m", "saferflow.stages.plan"]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL)
    while len(server.asked) < 30:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.2)
    [kept] = sqlite3.connect(".saferflow/answers.sqlite").execute("SELECT count(*) FROM answers").fetchone()
    assert kept >= 15
    assert not list(TABLES.glob("[!.]*"))
    before = len(server.asked)
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    after_the_kill = {path.name: path.read_bytes() for path in TABLES.iterdir()}
    [all_of_them] = sqlite3.connect(".saferflow/answers.sqlite").execute("SELECT count(*) FROM answers").fetchone()
    assert len(server.asked) - before == all_of_them - kept
    for path in (*TABLES.iterdir(), *Path(".saferflow").iterdir()):
        path.unlink()
    plan.main()
    assert {path.name: path.read_bytes() for path in TABLES.iterdir()} == after_the_kill
