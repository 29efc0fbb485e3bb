"""`saferflow compare`, on a real MLflow store that holds two pipeline runs."""

import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from mlflow import MlflowClient
from saferflow.cli.compare import compare
from saferflow.cli.compare_trainings import compare_trainings
from saferflow.data.rows import Answered
from saferflow.data.tables import write_table
from saferflow.errors import PipelineError
from saferflow.params import load_params
from saferflow.release import pipeline_runs, registry
from saferflow.tracking import lineage, runs

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
MODEL = PARAMS.gate.registered_model
COMMITS = ("a" * 40, "b" * 40)


def answers(safe: int, rows: int = 100) -> list[Answered]:
    return [
        Answered(f"r{i}", "grpo", "safety", f"i{i}", "", 3 if i < safe else 1, 3, 3, False, True, True, "refuse", "none",
                 "none", "none", "", "")
        for i in range(rows)
    ]  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Two registered pipeline runs; the second changed one parameter, one module and its rows' answers."""
    monkeypatch.chdir(tmp_path)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    made = client.create_experiment("align", artifact_location=(tmp_path / "artifacts").as_uri())
    for module in (runs, registry, pipeline_runs):
        monkeypatch.setattr(module, "client", lambda: client)
    monkeypatch.setattr(pipeline_runs, "experiment", lambda: made)
    registry.ensure_model(MODEL)
    found = []
    for number, (commit, rate, code, safe) in enumerate(
        zip(COMMITS, ("0.1", "0.2"), ("c1", "c2"), (60, 90), strict=True)
    ):
        parent = client.create_run(made, tags={pipeline_runs.COMMIT: commit}).info.run_id
        tags = {runs.PARENT: parent, lineage.STAGE: "sft", pipeline_runs.COMMIT: commit}
        hashes = {"dep.src/saferflow/training/sft.py": code, "dep.data/tables": "d", "out.models/sft": f"m{number}"}
        child = client.create_run(
            made, tags=tags | {f"saferflow.{name}": value for name, value in hashes.items()}
        ).info.run_id
        for name, value in {"sft.learning_rate": rate, "sft.epochs": "1"}.items():
            client.log_param(child, name, value)
        if not number:
            client.log_metric(child, "stage_seconds", 75)
        client.log_metric(parent, "safety", safe)
        write_table(tmp_path / "evaluated.parquet", answers(safe), Answered)
        client.log_artifact(parent, str(tmp_path / "evaluated.parquet"))
        version = registry.register(MODEL, "file:///weights", parent, {registry.EVALUATION_RUN: parent})
        registry.nominate(version) if number else registry.promote(version, "the first", None)
        found.append((parent, child))
    return found, client


def told(first: str, second: str) -> str:
    console = Console(record=True, width=140)
    compare(console, PARAMS, first, second)
    return console.export_text()


def test_it_shows_what_differs_and_nothing_else(store):
    text = told("champion", "candidate")
    lines = [line.split() for line in text.splitlines()]
    assert ["sft.learning_rate", "0.1", "0.2"] in lines
    assert "sft.epochs" not in text
    assert ["src/saferflow/training/sft.py", "c1", "c2"] in lines
    assert ["models/sft", "m0", "m1"] in lines
    assert "data/tables" not in text
    assert ["safety", "60.0", "90.0", "+30.0"] in [line[:4] for line in lines]
    assert ["sft", "1", "min", "15", "s", "from", "cache"] in lines


@pytest.mark.parametrize("names", [("v1", "v2"), ("champion", "v2"), (COMMITS[0][:8], COMMITS[1]), None])
def test_runs_are_found_by_what_people_call_them(store, names):
    found, _ = store
    first, second = names or (found[0][0], found[1][1])  # a stage's run stands for its pipeline's
    text = told(first, second)
    assert found[0][0] in text
    assert found[1][0] in text
    assert "+30.0" in text


@pytest.mark.parametrize("name", ["nothing", "previous", "f" * 32, "0123456", "main"])
def test_what_is_not_found_is_told_with_what_can_be_named(store, name):
    with pytest.raises(PipelineError, match="an alias"):
        told("v1", name)


def test_other_rows_have_no_paired_difference(store, tmp_path):
    found, client = store
    write_table(tmp_path / "evaluated.parquet", answers(90, rows=99), Answered)
    client.log_artifact(found[1][0], str(tmp_path / "evaluated.parquet"))
    assert "no paired differences: 1 rows are not the same on both sides, among them r99" in told("v1", "v2")


def test_the_page_shows_what_differs_and_both_curves(store, tmp_path):
    found, client = store
    for (_, child), values in zip(found, ((1.0, 0.5), (0.9, 0.1)), strict=True):
        for step, value in enumerate(values):
            client.log_metric(child, "loss", value, step=step)
    console, page = Console(record=True, width=120), tmp_path / "pages" / "page.html"
    compare(console, PARAMS, "v1", "v2", page)
    text = page.read_text()
    assert "sft.learning_rate" in text
    assert "src/saferflow/training/sft.py" in text
    assert text.count("<polyline") == 2
    assert "sft: loss" in text
    assert "v2 − v1" in text
    assert "dpo: loss" not in text  # nothing was logged
    assert not list(page.parent.glob(".*"))


def test_no_page_where_the_rows_differ(store, tmp_path):
    found, client = store
    write_table(tmp_path / "evaluated.parquet", answers(90, rows=99), Answered)
    client.log_artifact(found[1][0], str(tmp_path / "evaluated.parquet"))
    with pytest.raises(PipelineError, match="not the same on both sides"):
        compare(Console(record=True), PARAMS, "v1", "v2", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_the_lines_that_the_commits_differ_in_are_counted(store, tmp_path):
    (parent, _), (other, _) = store[0]
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run([*git, "init", "-q"], check=True)
    for run, text in ((parent, "a = 1\n"), (other, "a = 2\nb = 3\n")):
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / "a.py").write_text(text)
        subprocess.run([*git, "add", "src"], check=True)
        subprocess.run([*git, "commit", "-qm", "x"], check=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        store[1].set_tag(run, pipeline_runs.COMMIT, head)
    console = Console(record=True, width=160)
    compare(console, PARAMS, "v1", "v2")
    text = console.export_text()
    assert "src/a.py | 3 ++-" in text
    assert "1 file changed, 2 insertions(+), 1 deletion(-)" in text


@pytest.mark.parametrize("second", ["v1", "champion"])
def test_a_run_is_not_compared_with_itself(store, second):
    with pytest.raises(PipelineError, match=f"v1 and {second} are the same pipeline run"):
        told("v1", second)


def train_again(client: MlflowClient, folder: Path, *, safe: int, rate: str, seed: int) -> None:
    """Register another pipeline run."""
    parent = client.create_run(pipeline_runs.experiment()).info.run_id
    child = client.create_run(pipeline_runs.experiment(), tags={runs.PARENT: parent, lineage.STAGE: "sft"}).info.run_id
    for name, value in {"sft.learning_rate": rate, "sft.epochs": "1", "run.seed": str(seed)}.items():
        client.log_param(child, name, value)
    write_table(folder / "evaluated.parquet", answers(safe), Answered)
    client.log_artifact(parent, str(folder / "evaluated.parquet"))
    registry.register(MODEL, "file:///weights", parent, {registry.EVALUATION_RUN: parent})


def compared(first: str, second: str) -> str:
    console = Console(record=True, width=160)
    compare_trainings(console, PARAMS, first.split(","), second.split(","))
    return console.export_text()


def test_several_trainings_of_two_recipes_differ_over_trainings_and_rows(store, tmp_path):
    assert "one training each" in told("v1", "v2")
    for safe, rate, seed in ((70, "0.1", 2), (80, "0.2", 2), (50, "0.2", 3)):
        train_again(store[1], tmp_path, safe=safe, rate=rate, seed=seed)
    text = compared("v1,v3", "v2,v4")
    [line] = [line for line in text.splitlines() if line.split()[:1] == ["safety"]]
    assert "65.0 (60.0-70.0)" in line
    assert "85.0 (80.0-90.0)" in line
    assert "+20.0 [" in line
    assert "not one recipe" not in text
    assert "v1, v5 are not one recipe: they differ in sft.learning_rate" in compared("v1,v5", "v2,v4")
    with pytest.raises(PipelineError, match="v2 is one training"):
        compared("v1,v3", "v2")
    with pytest.raises(PipelineError, match="champion is the same pipeline run as another"):
        compared("v1,champion", "v2,v4")
