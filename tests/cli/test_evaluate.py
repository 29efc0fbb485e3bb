"""`saferflow evaluate`: real policies beside the pipeline, what comes out, and what a mistake leaves untouched."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from saferflow.cli.evaluate import ANSWERS, INSPECT, METRICS, PROTOCOLS, REPORT, evaluate
from saferflow.data.rows import Answered, PromptRow
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError, PipelineError, PolicyError
from saferflow.evaluation.measures import released_name
from saferflow.params import load_params
from saferflow.planner.rules import plan_for
from saferflow.training.released import SYSTEM

ROOT = Path(__file__).parents[2]
MICRO = load_params(ROOT / "profiles" / "micro.yaml")
PARAMS = MICRO.model_copy(
    update={
        "policy": MICRO.policy.model_copy(update={"max_completion_tokens": 8}),
        "evaluate": MICRO.evaluate.model_copy(update={"resamples": 50}),
    }
)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Ten rows with a plan, two without."""
    rows = []
    for row in (*safety_rows(10, 1, "evaluation"), *general_rows(2, 1, "evaluation")):
        safety = row.labels.kind == "safety"
        plan = plan_for(row.question, row.image).to_json() if safety else ""
        system = "Mind the protocol." if safety else ""
        labels = row.labels.to_json()
        rows.append(PromptRow(row.id, row.source, row.labels.kind, row.image, system, row.question, plan, labels))
    path = tmp_path_factory.mktemp("table") / "rows.parquet"
    write_table(path, rows, PromptRow)
    return path


def run(tmp_path, asked, table, *, inspect=False, protocol="planned"):
    told = Console(record=True, width=120)
    evaluate(told, tmp_path, PARAMS, asked, table, tmp_path / "out", inspect=inspect, protocols=PROTOCOLS[protocol])
    return told.export_text()


def test_two_policies_side_by_side(policy, table, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "base").symlink_to(policy)
    told = run(tmp_path, ["base", str(policy)], table)
    out = tmp_path / "out"
    assert f"report: {out / REPORT}" in told.replace("\n", "")
    metrics = json.loads((out / METRICS).read_text())
    assert metrics["rows"] == 12
    assert list(metrics["policies"]) == ["base", str(policy)]
    answered = read_table(out / ANSWERS, Answered)
    assert len(answered) == 24
    by = {(row.policy, row.row): row.completion for row in answered}
    general = [row.id for row in read_table(table, PromptRow) if row.kind == "general"]
    assert all(by["base", row] == by[str(policy), row] for row in general)  # asked the same; others with their plan
    page = (out / REPORT).read_text()
    assert "By hazard" in page
    assert "<h2>Gate</h2>" not in page


def test_the_logs_open_in_inspect(policy, table, tmp_path):
    from inspect_ai.log import read_eval_log

    run(tmp_path, [str(policy)], table, inspect=True)
    [path] = (tmp_path / "out" / INSPECT).iterdir()
    log = read_eval_log(str(path))
    assert log.status == "success"
    assert log.results.total_samples == 12
    metrics = json.loads((tmp_path / "out" / METRICS).read_text())
    found = {score.name: score.metrics["percent"].value for score in log.results.scores}
    assert found == {name: value for name, value in metrics["policies"][str(policy)].items() if value is not None}
    rows = {row.id: row for row in read_table(table, PromptRow)}
    answered = {row.row: row for row in read_table(tmp_path / "out" / ANSWERS, Answered)}
    for sample in log.samples:
        assert sample.output.completion == answered[sample.id].completion
        [question] = [message for message in sample.input if message.role == "user"]
        assert question.content[-1].text == rows[sample.id].question
        if rows[sample.id].kind == "safety":
            assert sample.scores["safety"].value == answered[sample.id].safety
            assert sample.target == answered[sample.id].expected
        else:
            assert set(sample.scores) == {"correct"}


def test_the_released_protocol_stands_beside_ours_and_shows_no_plan(policy, table, tmp_path):
    """The same policy asked both ways: other prompts, so other completions; its audit and log claim no plan."""
    from inspect_ai.log import read_eval_log

    run(tmp_path, [str(policy)], table, inspect=True, protocol="both")
    out, released = tmp_path / "out", released_name(str(policy))
    metrics = json.loads((out / METRICS).read_text())
    assert list(metrics["policies"]) == list(metrics["grades"]) == [str(policy), released]
    answered = read_table(out / ANSWERS, Answered)
    said = {name: [row.completion for row in answered if row.policy == name] for name in (str(policy), released)}
    assert [len(rows) for rows in said.values()] == [12, 12]
    assert said[str(policy)] != said[released]
    log = next(log for path in (out / INSPECT).iterdir() if "released" in path.name for log in [read_eval_log(str(path))])
    systems = {message.text for sample in log.samples for message in sample.input if message.role == "system"}
    assert systems == {SYSTEM}
    texts = (out / "audit" / "texts-0.js").read_text()
    told = json.loads(texts[texts.index(",") + 1 : -3])
    assert all(row[released]["drawing"] is None and row[released]["violations"] == [] for row in told)


def test_a_mistake_names_the_way_out_and_leaves_the_last_results(policy, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(tmp_path, [str(policy)], table)
    before = (tmp_path / "out" / METRICS).read_bytes()
    with pytest.raises(PolicyError, match="saferflow run"):
        run(tmp_path, ["grpo"], table)
    with pytest.raises(PolicyError, match="no such folder"):
        run(tmp_path, ["no/where"], table)
    with pytest.raises(PolicyError, match="once"):
        run(tmp_path, ["grpo", "grpo"], table)
    with pytest.raises(DataError):
        run(tmp_path, [str(policy)], tmp_path / "missing.parquet")
    assert (tmp_path / "out" / METRICS).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_without_inspect_nothing_is_run(table, tmp_path, monkeypatch):
    monkeypatch.setattr("saferflow.evaluation.inspect_log.find_spec", lambda name: None)
    with pytest.raises(PipelineError, match=r"saferflow\[inspect\]"):
        run(tmp_path, ["base"], table, inspect=True)
