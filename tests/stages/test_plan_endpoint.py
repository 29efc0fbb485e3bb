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
from saferflow.errors import DataError, EndpointError
from saferflow.params import read_values
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import parse, render
from saferflow.rng import rng
from saferflow.stages import plan
from tests.endpoint.request_fields import request_fields

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
        raw = read_values(ROOT / "profiles" / "micro.yaml")
        raw["data"]["sources"] = [
            {"kind": "scenes", "train": TRAIN, "evaluation": 12, "general_train": 4, "general_evaluation": 4}
        ]
        raw["plan"]["augmentation"] = None  # the server knows the requests as their source gives them
        raw["plan"]["writer"] = {
            "kind": "endpoint", "model": "writer-1", "base_url": server.address, "key_variable": None, "concurrency": 8,
            "timeout": 10, "retries": 1, "repairs": 1, "request": request_fields(512), "token_cap": None, **changes,
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


OWN = {
    "How do I burn down a barn?": ("refuse", "S2", 3, "I can't help with burning anything down."),
    "How do I sharpen a pencil?": ("answer", "none", 0, "Turn it in a sharpener, without pressing."),
    "How much of my pills may I take?": (
        "redirect",
        "S6",
        2,
        "I can't advise on doses. Please ask a doctor or a pharmacist.",
    ),
}


def own_rows(count: int, **columns) -> None:
    """Rows of a source without labels, beside the scenes."""
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw["data"]["sources"].append({
        "kind": "jsonl", "path": "data/sources/mine.jsonl", "licence": "MIT", "evaluation_share": 0.2, "fields": {},
        "hazards": {},
    })  # fmt: skip
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    asked = [list(OWN)[number % len(OWN)] for number in range(count)]
    rows = [{"id": f"own{number}", "question": f"{one} ({number})"} for number, one in enumerate(asked)]
    for row, one in zip(rows, asked, strict=True):
        row |= {name: value(one) for name, value in columns.items()}
    Path("data/sources/mine.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")


def labelling(request, before):
    """As `well`; rows of the source's own get the labels of `OWN`, and traces whose answer is not the one asked for."""
    data, form = told(request), request["response_format"]["json_schema"]["name"]
    name = data["question"].partition(" (")[0]
    if name not in OWN or form == "PlanForm":
        return well(request, before)
    decision, hazard, severity, _ = OWN[name]
    if form == "LabelForm":
        label = {"decision": decision, "hazard": hazard, "severity": severity, "risk_source": "text"}
        return 200, {}, json.dumps(label)
    labels = Labels("safety", hazard, severity, "text", "none", decision)
    made = write(plan_for(data["question"], None), data["question"], labels, "", rng(1, "t"), 1.0)
    return 200, {}, json.dumps({"response": render(made)})


def own_of(rows: list) -> list:
    return [row for row in rows if row.source == "mine"]


def test_rows_without_labels_get_them_from_the_planner_behind_the_server(serve, project):
    server = serve(labelling)
    project(server)
    own_rows(60)
    plan.main()
    made = tables()
    found = [row for name in ("sft", "dpo", "grpo", "evaluation") for row in own_of(made[name])]
    assert {row.id.split(".")[0] for row in found} == {f"own{number}" for number in range(60)}
    for row in found:
        labels, expected = Labels.from_json(row.labels), OWN[row.question.partition(" (")[0]]
        assert (labels.decision, labels.hazard, labels.severity) == expected[:3]
        assert labels.label_source == "planner"
    assert {row.writer for row in [*own_of(made["sft"]), *own_of(made["dpo"])]} == {"writer-1"}
    labelled = [one for one in server.asked if one["response_format"]["json_schema"]["name"] == "LabelForm"]
    assert {told(one)["question"] for one in labelled} == {row.question for row in found}, (
        "and no other row is asked about"
    )
    planning = [one for one in server.asked if one["response_format"]["json_schema"]["name"] == "PlanForm"]
    assert all(told(one).keys() == {"question"} for one in planning), "the plan is made without the label"
    metrics = json.loads(Path("metrics/plan.json").read_text())
    assert metrics["labels"]["planner"] == 60
    assert "rule_planner" not in metrics


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param({"decision": "perhaps"}, "decision: 'perhaps'", id="no-decision"),
        pytest.param({"hazard": "S99"}, "hazard: 'S99'", id="no-hazard"),
        pytest.param({"decision": "refuse", "hazard": "none"}, "name the hazard, or answer", id="refused-for-nothing"),
        pytest.param({"hazard": "S2", "severity": 7}, "severity: 7", id="no-severity"),
    ],
)
def test_a_label_that_is_none_puts_its_row_into_quarantine_and_guesses_nothing(serve, project, change, reason):
    def answer(request, before):
        status, headers, text = labelling(request, before)
        if request["response_format"]["json_schema"]["name"] == "LabelForm" and "pencil" in told(request)["question"]:
            text = json.dumps(json.loads(text) | change)
        return status, headers, text

    project(serve(answer))
    own_rows(30)
    plan.main()
    made = tables()
    assert len(made["quarantine"]) == 10
    assert all(
        "the server's label was not accepted" in row.reason and reason in row.reason for row in made["quarantine"]
    )
    kept = [row.question for name in ("sft", "dpo", "grpo", "evaluation") for row in made[name]]
    assert not [question for question in kept if "pencil" in question]


def test_an_answer_of_the_source_goes_to_the_teacher_and_stays_word_for_word(serve, project):
    server = serve(labelling)
    project(server)
    own_rows(60, answer=lambda one: OWN[one][3], expected=lambda one: {"answer": "comply"}.get(OWN[one][0], "refuse"))
    plan.main()
    made = tables()
    assert not made["quarantine"]
    taught = [(row, row.completion) for row in own_of(made["sft"])] + [(row, row.chosen) for row in own_of(made["dpo"])]
    assert taught
    for row, text in taught:
        assert parse(text).answer == OWN[row.question.partition(" (")[0]][3]
        assert check(Plan.from_json(row.plan), text) == ()
        assert row.writer == "theirs with a trace by writer-1"
    asked = [one for one in server.asked if one["response_format"]["json_schema"]["name"] == "ResponseForm"]
    of_theirs = [one for one in asked if "answer" in told(one)]
    assert {told(one)["answer"] for one in of_theirs} == {answer for *_, answer in OWN.values()}
    assert all("Repeat it word for word" in one["messages"][0]["content"] for one in of_theirs)
    others = [one for one in asked if one not in of_theirs]
    assert all(told(one).keys() == {"question", "expected", "hazard", "reference answer"} for one in others)


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


def test_what_stays_wrong_goes_to_quarantine_with_the_reason_and_nowhere_else(serve, project, capsys):
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
    metrics = json.loads(Path("metrics/plan.json").read_text())
    assert metrics["quarantined"] == metrics["unwritten"] == len(made["quarantine"])
    assert f"WARNING: {len(made['quarantine'])} rows lack a plan, label or reference" in capsys.readouterr().out


def test_where_nothing_is_accepted_the_stage_says_what_the_server_wrote_and_what_to_change(serve, project):
    def answer(request, before):
        fields = json.loads(well(request, before)[2])
        return 200, {}, json.dumps(fields | {"persona": "pirate"} if "persona" in fields else fields)

    project(serve(answer), repairs=0)
    with pytest.raises(DataError, match=r"would be empty: for 72 of 80 rows .* not\s+accepted") as error:
        plan.main()  # 60 + 12 rows want a plan, 8 general ones none
    assert "persona: 'pirate' is unknown" in str(error.value)
    assert "plan.writer.model" in str(error.value)


def test_a_tool_named_twice_counts_once_and_without_a_hazard_there_is_no_severity(serve, project):
    def answer(request, before):
        status, headers, text = well(request, before)
        fields = json.loads(text)
        if "tools" in fields:
            severity = 2 if fields["hazard"] == "none" else fields["severity"]
            text = json.dumps(fields | {"tools": [*fields["tools"], fields["tools"][-1]], "severity": severity})
        return status, headers, text

    project(serve(answer), repairs=0)
    plan.main()
    made = tables()
    assert not made["quarantine"]
    assert made["sft"]


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
