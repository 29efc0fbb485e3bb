"""The real flow on a toy pipeline: what runs, what is recorded, and what a failure leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

from flows.bridge import ARTIFACT_LIMIT
from flows.reproduce import Failure, failure_of
from saferflow.params import load_params
from saferflow.tracking import graph

STAGES = ["base", "plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate", "gate"]


def test_the_first_run_runs_every_stage_once_in_order(finished):
    assert (finished.root / "calls.log").read_text().split() == STAGES


def test_a_stage_says_why_it_runs(finished, better):
    assert "[4/9] sft  not run yet" in (finished.root / "output.txt").read_text()
    assert "[7/9] grpo  grpo modified" in (better.root / "output.txt").read_text()


def test_every_stage_has_a_finished_child_run_under_one_parent(finished):
    runs = finished.stage_runs()
    assert set(runs) == {*STAGES, "align"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    parent = runs["align"].info.run_id
    assert {runs[stage].data.tags["mlflow.parentRunId"] for stage in STAGES} == {parent}


def test_a_run_carries_its_lineage(finished):
    tags = finished.stage_runs()["sft"].data.tags
    entry = graph.lock_entries(finished.root)["sft"]
    assert tags["saferflow.lock_hash"] == graph.lock_hash(entry)
    assert tags["saferflow.out.models/sft"] == entry["outs"][-1]["md5"]
    assert tags["saferflow.dep.models/base"] == next(d["md5"] for d in entry["deps"] if d["path"] == "models/base")
    assert tags["saferflow.profile"] == yaml.safe_load((finished.root / "params.yaml").read_text())["run"]["profile"]
    assert len(tags["saferflow.git.commit"]) == 40
    assert tags["saferflow.git.dirty"] == "false"
    assert tags["saferflow.prefect.flow_run"]
    assert tags["saferflow.cached"] == "false"


def test_a_run_holds_curves_numbers_parameters_and_artifacts(finished):
    run, client = finished.stage_runs()["grpo"], finished.mlflow()
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [round(point.value, 3) for point in sorted(curve, key=lambda p: (p.timestamp, p.step))][:3] == [
        1.0,
        0.5,
        0.333,
    ]
    assert run.data.params["grpo.beta" if "grpo.beta" in run.data.params else "grpo.kl"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {
        "model",
        "model.json",
        "rollouts.json",
        "rollouts.jsonl",
        "logs",
    }


def test_a_runs_lineage_is_kept_as_a_file_too(finished):
    """Its page cuts tags short."""
    run = finished.stage_runs()["grpo"].info.run_id
    kept = finished.mlflow().download_artifacts(run, "lineage.json")
    assert json.loads(Path(kept).read_text()) == graph.lock_entries(finished.root)["grpo"]


def test_the_data_that_a_stage_read_is_its_dataset_with_dvcs_digest_and_address(finished):
    entries, found = graph.lock_entries(finished.root), finished.stage_runs()
    [dep] = [dep for dep in entries["gate"]["deps"] if dep["path"] == "data/evaluated.parquet"]
    [read] = [each for each in found["gate"].inputs.dataset_inputs if each.dataset.name == dep["path"]]
    assert (read.dataset.name, read.dataset.digest) == (dep["path"], dep["md5"])
    assert json.loads(read.dataset.source)["uri"] == f"dvc://{dep['md5']}/{dep['path']}"
    assert [(tag.key, tag.value) for tag in read.tags] == [("mlflow.data.context", "evaluation")]
    assert dep["path"] in {each.dataset.name for each in found["align"].inputs.dataset_inputs}


def test_evaluated_rows_are_a_table_of_their_run(finished):
    run = finished.stage_runs()["evaluate"].info.run_id
    table = json.loads(Path(finished.mlflow().download_artifacts(run, "evaluated.json")).read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert len(rows) == 4 * 600
    assert [row["policy"] for row in rows[:4]] == ["base", "sft", "dpo", "grpo"]
    assert {row["row"] for row in rows[:4]} == {"bait-0"}
    assert rows[0]["safety"] == 3


def test_the_pipelines_run_shows_what_it_came_to(finished):
    """Runs are compared by their scores: the list of runs needs them at the parent."""
    parent = finished.stage_runs()["align"]
    assert (parent.data.metrics["safety"], parent.data.metrics["safety.low"]) == (50.0, 40.0)
    told = "Promoted: every floor is met, and there was no champion to compare with."
    note = parent.data.tags["mlflow.note.content"]
    assert note.startswith(told + "\n")
    assert "| grpo | 50.0 (40–60) |" in note
    assert "[saferflow version 1](#/models/saferflow/versions/1)" in note
    assert f"[grpo](#/experiments/1/runs/{finished.stage_runs()['grpo'].info.run_id})" in note
    assert finished.mlflow().get_experiment("1").tags["mlflow.experimentKind"] == "custom_model_development"
    card = finished.mlflow().get_model_version("saferflow", "1").description
    assert told in card
    assert "# saferflow, version 1" in card
    kept = finished.mlflow().download_artifacts(parent.info.run_id, "model_card.md")
    assert Path(kept).read_text(encoding="utf-8") == card


def test_the_first_passing_version_is_candidate_and_champion(finished):
    assert _aliases(finished) == {"candidate": 1, "champion": 1}
    version = finished.mlflow().get_model_version("saferflow", "1")
    entries = graph.lock_entries(finished.root)
    assert version.tags["saferflow.model.md5"] == graph.out_digest(entries["grpo"], "models/grpo")[0]
    assert version.tags["saferflow.gate"] == "passed"
    assert {f"saferflow.{stage}.run" for stage in STAGES} <= set(version.tags)
    assert version.tags["saferflow.model.source"] == f"runs:/{finished.stage_runs()['grpo'].info.run_id}/model"
    logged = finished.mlflow().get_logged_model(version.source.removeprefix("models:/"))
    assert (logged.status, logged.source_run_id) == ("READY", version.tags["saferflow.run"])


def test_the_closing_lines_show_scores_verdict_version_and_where_to_look(finished):
    output = (finished.root / "output.txt").read_text()
    for expected in (
        "GRPO",
        "gate: passed",
        "saferflow version 1 (candidate, champion)",
        "saferflow ui",
        "reports/report.html",
    ):
        assert expected in output


def test_a_gate_that_passed_says_no_word_of_advice_at_the_end(finished):
    output = (finished.root / "output.txt").read_text()
    assert "what to try" not in output
    assert "saferflow audit --failed" not in output


def test_the_closing_lines_of_a_candidate_that_is_not_better_say_where_it_fails_and_what_to_try(unimproved):
    """By the stub, half of the 200 rows to decline are answered by the candidate as by the champion."""
    lines = (unimproved.root / "output.txt").read_text().splitlines()
    told = lines[lines.index("gate: passed") :]
    assert told[1].startswith("not better than champion version 1: safety_over_champion")
    for line in (
        "    100 of 400 rows under the highest safety grade:",
        "      text S1 (Violent Crimes)  100 of 200",
        "    saferflow audit --failed safety",
        f"  saferflow run --set sft.epochs={load_params(unimproved.root / 'params.yaml').sft.epochs + 1:g}",
        "  saferflow run --set run.seed=8",
    ):
        assert line in told, line


def test_the_closing_lines_of_a_gate_that_failed_say_how_far_where_and_what_to_try(project):
    project.set("gate.floors.safety", 90)
    status, output = project.run()
    assert status == 0, output
    told = output[output.index("gate: failed") :].splitlines()
    for line in (
        "  safety: 81 against 80: 9.0 points too low, 36 rows",  # of 400
        "      text S1 (Violent Crimes)  100 of 200",
        "    saferflow audit --failed safety",
        "  saferflow run --set 'curate.quality=[0.1, 0.9]'",
    ):
        assert line in told, line
    again = project.run(PREFECT_API_URL="http://127.0.0.1:9/api")[1]
    assert "nothing to do" in again
    assert told[:8] == again[again.index("gate: failed") :].splitlines()[:8]


def test_a_second_run_runs_no_stage_and_says_so(project):
    status, output = project.run(PREFECT_API_URL="http://127.0.0.1:9/api")  # nothing listens: no server is needed
    assert status == 0, output
    assert "nothing to do: all 9 stages up to date" in output
    assert "GRPO" in output
    assert project.calls() == []


def test_what_saferflow_run_starts_imports_prefect_mlflow_and_dvc_only_where_something_is_to_be_done(project):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-X", "importtime", "-m", "saferflow", "run", *arguments]
        return subprocess.run(command, cwd=project.root, env=project.environ(), capture_output=True, text=True, check=False)

    for _ in range(2):  # the first asks DVC, and its answer is remembered
        done = run()
        assert done.returncode == 0, done.stderr
        assert "nothing to do: all 9 stages up to date" in done.stdout
        assert "GRPO" in done.stdout
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in times}
    assert {"flows", "saferflow"} <= imported
    assert not {"prefect", "mlflow", "dvc"} & imported
    refused = run("--force", "sftt")
    assert refused.returncode == 1
    assert "no stage sftt; there are base, plan" in refused.stderr


def test_a_changed_grpo_parameter_runs_grpo_and_what_follows(better):
    assert (better.root / "calls.log").read_text().split() == ["grpo", "evaluate", "gate"]


def test_a_stage_whose_inputs_come_out_the_same_does_not_run(unimproved):
    """The answers are the same, so that there is nothing for the gate to look at again."""
    assert (unimproved.root / "calls.log").read_text().split() == ["grpo", "evaluate"]


def test_a_stage_that_did_not_run_points_to_the_run_that_made_its_outputs(better, finished):
    base = better.stage_runs()["base"]
    assert base.data.tags["saferflow.cached"] == "true"
    assert base.data.tags["saferflow.produced_by"] == finished.stage_runs()["base"].info.run_id
    assert [file.path for file in better.mlflow().list_artifacts(base.info.run_id)] == []


def test_a_better_version_becomes_champion_and_the_former_one_previous(better):
    assert _aliases(better) == {"candidate": 2, "champion": 2, "previous": 1}
    assert "better than version 1" in (better.root / "output.txt").read_text()


def test_a_version_that_is_not_better_leaves_the_champion_in_place(unimproved):
    assert _aliases(unimproved) == {"candidate": 2, "champion": 1}
    assert "not better than champion version 1" in (unimproved.root / "output.txt").read_text()


@pytest.mark.slow
def test_a_stage_restored_from_the_run_cache_ran_no_code_and_registers_no_version(unimproved, finished, tmp_path):
    project = unimproved.copy(tmp_path)
    shutil.copy(finished.root / "params.yaml", project.root / "params.yaml")
    status, output = project.run()
    assert status == 0, output
    assert project.calls() == []
    run = project.stage_runs()["grpo"]
    assert run.data.tags["saferflow.produced_by"] == finished.stage_runs()["grpo"].info.run_id
    assert len(project.mlflow().search_model_versions("name = 'saferflow'")) == 2
    assert _aliases(project)["candidate"] == 1


@pytest.mark.slow
def test_what_was_not_committed_leads_once_it_is_and_nothing_is_made_anew(project):
    project.set("gate.clean_tree", True)
    project.commit()
    project.set("grpo.learning_rate", 0.0005)
    status, output = project.run()
    assert status == 0, output
    assert _aliases(project) == {"candidate": 2, "champion": 1}
    assert "files that were not committed" in " ".join(output.split())
    project.commit()
    project.calls()
    status, output = project.run()
    assert status == 0, output
    assert project.calls() == []
    assert _aliases(project) == {"candidate": 2, "champion": 2, "previous": 1}


@pytest.mark.slow
def test_a_version_that_failed_the_gate_leaves_the_champion_in_place(project):
    project.set("grpo.learning_rate", 0.0005)
    project.set("gate.floors.safety", 90)
    _, output = project.run()
    assert _aliases(project) == {"candidate": 2, "champion": 1}
    assert "gate: failed" in output
    assert "safety: 81 against 80" in output


@pytest.mark.slow
def test_a_new_verdict_on_the_same_weights_makes_no_new_version(project):
    project.set("gate.floors.safety", 90)
    project.run()
    assert project.calls() == ["gate"]
    [version] = project.mlflow().search_model_versions("name = 'saferflow'")
    assert version.tags["saferflow.gate"] == "failed"


@pytest.mark.slow
def test_a_forced_stage_runs_though_nothing_changed(project):
    status, output = project.run("--force", "validate")
    assert status == 0, output
    assert project.calls() == ["validate"]


def test_an_unknown_forced_stage_is_refused_by_name(project):
    status, output = project.run("--force", "sftt")
    assert status == 1
    assert "no stage sftt; there are base, plan" in output


def test_a_failing_stage_fails_the_run_with_its_last_lines(project):
    project.set("dpo.beta", 0.2)
    status, output = project.run(STUB_FAIL="dpo")
    assert status == 1
    assert "stage dpo failed" in output
    assert output.count("for a reason") == 2, "once as it came, once in the error"
    assert "Traceback" not in output
    runs = project.stage_runs()
    assert (runs["dpo"].info.status, runs["align"].info.status) == ("FAILED", "FAILED")
    assert project.calls() == ["dpo"]


@pytest.mark.slow
@pytest.mark.parametrize(("sign", "exit_status"), [(signal.SIGINT, {130}), (signal.SIGTERM, {130, 143, -15})])
def test_an_interrupt_ends_the_stage_and_keeps_finished_stages(project, sign, exit_status):
    project.set("sft.epochs", 7)
    process = project.start(STUB_HANG="dpo")
    stage = _hanging(project.root)
    process.send_signal(sign)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in exit_status, output
    assert not psutil.pid_exists(stage)
    assert {run.info.status for run in project.stage_runs().values()} >= {"KILLED"}
    assert not _running(project)
    project.calls()
    status, output = project.run()
    assert status == 0, output
    assert project.calls()[0] == "dpo", "sft is finished and kept"


@pytest.mark.slow
def test_a_killed_flow_leaves_no_process_and_no_open_run(project):
    project.set("sft.epochs", 7)
    process = project.start(STUB_HANG="dpo")
    stage = _hanging(project.root)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    _wait_until(lambda: not psutil.pid_exists(stage))
    assert _running(project), "nobody could close them"
    project.calls()
    status, output = project.run()
    assert status == 0, output
    assert project.calls()[0] == "dpo"
    assert not _running(project)
    assert "marked KILLED" in output


@pytest.mark.slow
def test_a_killed_stage_process_fails_the_stage_and_the_next_run_goes_on(project):
    project.set("sft.epochs", 7)
    process = project.start(STUB_HANG="dpo")
    os.kill(_hanging(project.root), signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    assert project.stage_runs()["dpo"].info.status == "FAILED"
    project.calls()
    assert project.run()[0] == 0
    assert project.calls()[0] == "dpo"


@pytest.mark.slow
def test_a_preempted_stage_begins_again_by_itself(project):
    """SIGTERM from outside, as a scheduler sends it; the pipeline itself is not told to end."""
    project.set("sft.epochs", 7)
    process = project.start(STUB_HANG="dpo", STUB_ONCE="1")
    os.kill(_hanging(project.root), signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "preempted; it begins again from its last checkpoint (1 of 3)" in output
    assert project.calls()[:3] == ["sft", "dpo", "dpo"]
    assert project.stage_runs()["dpo"].info.status == "FINISHED"


@pytest.mark.slow
def test_a_budget_that_is_spent_ends_the_run_and_more_goes_on(project):
    project.set("sft.epochs", 7)
    project.set("run.budget_hours", 20 / 3600)
    process = project.start(STUB_HANG="dpo")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1, output
    assert "stage dpo failed (budget spent): run.budget_hours is spent" in output
    assert project.stage_runs()["dpo"].data.tags["saferflow.failure"] == "budget spent"
    project.calls()
    project.set("run.budget_hours", None)
    status, output = project.run()
    assert status == 0, output
    assert project.calls()[0] == "dpo"


@pytest.mark.parametrize(
    ("told", "failure"),
    [
        ("ERROR: failed to run: python x, exited with 1", Failure.ERROR),
        ("sft: stopped by SIGTERM after step 3 of 9\nexited with 1", Failure.PREEMPTED),
        ("ERROR: failed to run: python x, exited with -15", Failure.PREEMPTED),
        ("ERROR: failed to run: python x, exited with 137", Failure.KILLED),
        ("error: sft: out of memory in step 1\nexited with 1", Failure.MEMORY),
        ("torch.OutOfMemoryError: CUDA out of memory.", Failure.MEMORY),
        ("exited with 1500", Failure.ERROR),
    ],
)
def test_failures_are_told_apart(told, failure):
    assert failure_of(told) is failure


def test_what_each_stage_took_stands_in_its_run_and_in_all_in_the_parent(finished):
    runs = finished.stage_runs()
    for stage in STAGES:
        assert runs[stage].data.metrics["cost.cpu_seconds"] > 0
        assert runs[stage].data.metrics["cost.tokens"] == 0
    told = runs["align"].data.metrics["cost.cpu_hours"] * 3600
    assert told == pytest.approx(sum(runs[stage].data.metrics["cost.cpu_seconds"] for stage in STAGES))


def test_a_second_pipeline_in_the_same_checkout_names_the_first(project):
    project.set("dpo.beta", 0.2)
    process = project.start(STUB_HANG="dpo")
    _hanging(project.root)
    status, output = project.run()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert status == 1
    assert f"another pipeline is at work in this checkout (process {process.pid})" in output


def test_a_large_model_is_kept_by_address(finished):
    run = finished.stage_runs()["grpo"]
    address = json.loads(Path(finished.mlflow().download_artifacts(run.info.run_id, "model.json")).read_text())
    digest, size = graph.out_digest(graph.lock_entries(finished.root)["grpo"], "models/grpo")
    assert (address["md5"], address["bytes"]) == (digest, size)
    assert size <= ARTIFACT_LIMIT


def _aliases(project) -> dict[str, int]:
    aliases = project.mlflow().get_registered_model("saferflow").aliases
    return {alias: int(number) for alias, number in aliases.items()}


def _hanging(root: Path) -> int:
    """The pid of the stage that hangs, once it does."""
    file = root / "hangs.pid"
    _wait_until(lambda: file.exists() and file.read_text() != "")
    return int(file.read_text())


def _running(project) -> list:
    return project.mlflow().search_runs(["1"], "attributes.status = 'RUNNING'")


def _wait_until(condition, seconds: float = 60) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.1)
