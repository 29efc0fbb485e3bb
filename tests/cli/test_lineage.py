"""`saferflow lineage`, on a real DVC cache with two versions of the data and a real MLflow store."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from mlflow import MlflowClient
from saferflow.cli.lineage import _shown_fields, print_who, who, why
from saferflow.data.incidents import FOLDER, Incident, Report, write_incidents
from saferflow.data.rows import Answered, DPORow, Labels, PromptRow, SFTRow
from saferflow.data.tables import write_table
from saferflow.errors import DataError
from saferflow.params import StoreParams, load_params
from saferflow.release import pipeline_runs, registry
from saferflow.serving.store import FILE, Served, Store
from saferflow.tracking import lineage, runs

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
MODEL = PARAMS.gate.registered_model
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse").to_json()
SFT, EVALUATION = "data/tables/sft.parquet", "data/tables/evaluation.parquet"


def example(name: str) -> SFTRow:
    return SFTRow(name, "mine", "safety", None, "", f"Why {name}?", f"because of {name}", "", LABELS)


def kept(path: str) -> str:
    """Put a file into DVC's cache; its hash."""
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", path], check=True, capture_output=True)
    return yaml.safe_load(Path(f"{path}.dvc").read_text())["outs"][0]["md5"]


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Version 1 was trained on rows a and b, version 2, the champion, on b alone; both were evaluated on row e."""
    monkeypatch.chdir(tmp_path)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, capture_output=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_experiment("align", artifact_location=(tmp_path / "artifacts").as_uri())
    for module in (registry, pipeline_runs, runs):
        monkeypatch.setattr(module, "client", lambda: client)
    monkeypatch.setattr(pipeline_runs, "experiment", lambda: made)
    registry.ensure_model(MODEL)
    write_table(Path(EVALUATION), [PromptRow("e", "mine", "safety", None, "", "What e?", "", LABELS)], PromptRow)
    asked = kept(EVALUATION)
    digests = []
    for rows in (["a", "b"], ["b"]):
        write_table(Path(SFT), [example(name) for name in rows], SFTRow)
        digests.append(kept(SFT))
        tags = {lineage.CACHED: "false"}
        sft = client.create_run(made, tags={**tags, lineage.STAGE: "sft", f"saferflow.dep.{SFT}": digests[-1]})
        of_stage = {**tags, lineage.STAGE: "evaluate", f"saferflow.dep.{EVALUATION}": asked}
        evaluate = client.create_run(made, tags=of_stage)
        answer = Answered(
            "e", "grpo", "safety", "e", "<answer>no", 3, 2, 1, True, True, False, "refuse", "S1", "text", "none", "",
            "it declines",
        )  # fmt: skip
        write_table(tmp_path / "evaluated.parquet", [answer], Answered)
        client.log_artifact(evaluate.info.run_id, str(tmp_path / "evaluated.parquet"))
        version = registry.register(
            MODEL, "file:///weights", None,
            {
                "saferflow.sft.run": sft.info.run_id, "saferflow.evaluate.run": evaluate.info.run_id,
                registry.EVALUATION_RUN: evaluate.info.run_id, "saferflow.git.commit": "abc1234",
            },
        )  # fmt: skip
    registry.promote(version, "the best", None)
    return digests


def shown(tell, *arguments, **options) -> str:
    console = Console(record=True, width=200)
    tell(console, PARAMS, *arguments, **options)
    return console.export_text()


def test_a_row_of_former_data_leads_to_the_version_that_learned_it(store):
    found = who(PARAMS, "a")
    assert [(one.digest, one.versions, one.learned) for one in found.seen] == [(store[0], [1], True)]
    assert found.unknown == []
    text = shown(print_who, found, as_json=False)
    assert "trained on it: v1\n" in text
    assert "dvc gc" in text


def test_a_row_that_stayed_leads_to_all_and_names_the_one_that_leads(store):
    assert "trained on it: v1, v2 (champion)" in shown(print_who, who(PARAMS, "b"), as_json=False)


def test_a_held_out_row_was_measured_with_and_not_learned(store):
    text = shown(print_who, who(PARAMS, "e"), as_json=False)
    assert "evaluated on it: v1, v2 (champion)" in text
    assert "trained on it" not in text


def test_a_table_that_is_gone_is_named_and_not_taken_for_an_answer(store):
    digest = store[0]
    (Path(".dvc/cache/files/md5") / digest[:2] / digest[2:]).unlink()
    found = who(PARAMS, "a")
    assert found.seen == []
    assert found.unknown == [(SFT, digest)]
    assert "cannot be told" in shown(print_who, found, as_json=False)


def test_a_cached_table_that_was_changed_is_not_believed(store):
    file = Path(".dvc/cache/files/md5") / store[0][:2] / store[0][2:]
    file.chmod(0o644)
    file.write_bytes(b"something else")
    assert who(PARAMS, "a").unknown == [(SFT, store[0])]


def test_why_tells_what_a_version_was_shown_and_what_it_answers(store):
    text = shown(why, "v1", "a", as_json=False)
    assert "made from commit abc1234" in text
    assert "chosen: because of a" in text
    text = shown(why, "champion", "e", as_json=False)
    assert "<answer>no" in text
    assert "it declines" in text
    told = json.loads(shown(why, "champion", "b", as_json=True))
    assert [one["table"] for one in told["shown"]] == [SFT]
    with pytest.raises(DataError, match="shown no row 'a'"):
        shown(why, "v2", "a", as_json=False)


def test_who_wrote_each_side_and_who_labelled_the_row_is_told():
    labels = Labels("safety", "S1", 3, "text", "none", "refuse", label_source="mapped").to_json()
    told = _shown_fields(DPORow("p.theirs", "mine", None, "", "How?", "x", "y", "theirs", "", labels, "", "model-1", "theirs"))
    assert (told["writer"], told["rejected_writer"]) == ("model-1", "theirs")
    assert told["labels"] == "hazard S1, expected refuse, from a category, as the source's hazards map it"


def test_no_run_yet_is_an_error(store, monkeypatch):
    monkeypatch.setattr(pipeline_runs, "experiment", lambda: "0")
    with pytest.raises(DataError, match="saferflow run"):
        who(PARAMS, "a")


def test_a_reported_completion_leads_to_its_incident_the_versions_that_saw_it_and_where_it_still_lies(store):
    report = Report("2026-11-27T00:00:00+00:00", "It went along.", "chatcmpl-9", "1")
    write_incidents(FOLDER, [Incident("a", (), "Why a?", "", "refuse", "S1", 2, False, (report,))])
    kept_params = StoreParams(days=1, pictures=False, redact=())
    Store(FILE, kept_params).keep("chatcmpl-9", b"{}", None, {}, Served(1, "answer", "S1", "none", 6, ""))
    found = who(PARAMS, "chatcmpl-9")
    assert (found.row, [one.versions for one in found.seen]) == ("a", [[1]])
    assert found.held == ["data/sources/incidents", ".saferflow/served.sqlite: exchange chatcmpl-9"]
    text = shown(print_who, found, as_json=False)
    assert "trained on it: v1\n" in text
    assert "saferflow incident remove a" in text


def test_an_incident_that_was_only_asked_again_was_measured_with_and_not_learned(store):
    table = "data/tables/incidents.parquet"
    write_table(Path(table), [PromptRow("i", "incidents", "safety", None, "", "What i?", "", LABELS)], PromptRow)
    tags = {lineage.CACHED: "false", lineage.STAGE: "evaluate", f"saferflow.dep.{table}": kept(table)}
    runs.client().create_run(pipeline_runs.experiment(), tags=tags)
    [seen] = who(PARAMS, "i").seen
    assert (seen.table, seen.learned) == (table, False)
