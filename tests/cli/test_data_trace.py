"""`saferflow data trace`, on tables, a lock file and a real MLflow store."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mlflow import MlflowClient
from saferflow.cli.data import print_trace, trace
from saferflow.data.rows import DPORow, Labels, PromptRow, SFTRow, turns_to_json
from saferflow.data.tables import write_table
from saferflow.errors import DataError
from saferflow.params import load_params
from saferflow.planner.reflection import KIND, SUFFIXES
from saferflow.protocol.reflection import MISSED
from saferflow.release import pipeline_runs, registry
from saferflow.tracking import lineage

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
MODEL = PARAMS.gate.registered_model
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse").to_json()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Row a in sft, with a row that teaches reflection; row b in dpo under two perturbations; one run read that sft table,
    another an older one."""
    row = SFTRow("a", "mine", "safety", None, "", "Why?", "x", "", LABELS, writer="theirs")
    lesson = replace(
        row, id=f"a{SUFFIXES[0]}", kind=KIND, question=f"Why?\n{MISSED}", earlier=turns_to_json([("Why?", "x")])
    )
    write_table(tmp_path / "data/tables/sft.parquet", [row, lesson], SFTRow)
    pairs = [
        DPORow(f"b.{fault}", "mine", None, "", "How?", "x", "y", fault, "", LABELS, "", "rules", "policy")
        for fault in ("cut_off", "wrong_tool")
    ]
    write_table(tmp_path / "data/tables/dpo.parquet", pairs, DPORow)
    write_table(tmp_path / "data/tables/grpo.parquet", [], PromptRow)
    lock = {"stages": {"sft": {"deps": [{"path": "data/tables/sft.parquet", "md5": "now"}]}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_experiment("align")
    for module in (registry, pipeline_runs):
        monkeypatch.setattr(module, "client", lambda: client)
    monkeypatch.setattr(pipeline_runs, "experiment", lambda: made)
    registry.ensure_model(MODEL)
    found = []
    for digest, cached in (("now", "false"), ("before", "false"), ("now", "true")):
        tags = {lineage.STAGE: "sft", lineage.CACHED: cached, "saferflow.dep.data/tables/sft.parquet": digest}
        found.append(client.create_run(made, tags=tags).info.run_id)
        registry.register(MODEL, "file:///weights", None, {"saferflow.sft.run": found[-1]})
    return tmp_path, found


def test_a_row_leads_to_its_table_the_runs_that_read_it_and_the_versions_made_of_them(project):
    root, runs = project
    found = trace(root, PARAMS, "a")
    [place] = found.places
    assert (found.source, found.hazard, found.expected) == ("mine", "S1", "refuse")
    assert place.rows == ["a", "a.reflection"]
    assert (place.table, place.digest, place.runs, place.versions) == (
        "data/tables/sft.parquet",
        "now",
        {"sft": [runs[0]]},
        [1],
    )
    console = Console(record=True, width=160)
    print_trace(console, found, as_json=False)
    told = console.export_text()
    assert f"read by sft in 1 MLflow runs: {runs[0]}" in told
    assert "behind versions v1" in told
    assert "label from the source itself" in told
    assert "a (by theirs)" in told


def test_a_row_of_pairs_is_found_by_its_own_id(project):
    [place] = trace(project[0], PARAMS, "b").places
    assert place.rows == ["b.cut_off", "b.wrong_tool"]
    assert place.writers == ["rules / policy"] * 2
    assert place.runs == {}, "no stage has read that table yet"


def test_the_json_holds_all_of_it(project, capsys):
    print_trace(Console(), trace(project[0], PARAMS, "a"), as_json=True)
    assert json.loads(capsys.readouterr().out)["places"][0]["versions"] == [1]


@pytest.mark.parametrize(
    ("row", "told"), [("aa", "ids like it are a"), ("bb", "ids like it are b"), ("zzzz", "no table holds")]
)
def test_a_row_that_is_not_there_is_told_with_ids_like_it(project, row, told):
    with pytest.raises(DataError, match=told):
        trace(project[0], PARAMS, row)


def test_without_tables_it_says_how_to_make_them(tmp_path):
    with pytest.raises(DataError, match="run saferflow run to make the tables"):
        trace(tmp_path, PARAMS, "a")
