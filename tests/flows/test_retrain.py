"""Scheduled retraining: nothing new runs nothing, a failure or a refusal leaves the champion, and someone is told."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from saferflow.release import registry

from .cluster import end

ROOT = Path(__file__).parents[2]


@pytest.fixture
def receiver(serve):
    """The address of a server, and what it was sent."""
    server = serve(lambda request, before: (200, {}, b""))
    return server.address, server.asked


def retrain(project, *arguments: str, **environ: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "saferflow", "retrain", *arguments],
        cwd=project.root, env=project.environ(**environ), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def champion(project) -> int | None:
    return project.mlflow().get_registered_model("saferflow").aliases.get(registry.CHAMPION)


def remembered(project):
    return project.stage_runs()["retrain"]


def test_nothing_new_runs_nothing_tells_nobody_and_is_on_the_record(project, receiver):
    address, received = receiver
    status, output = retrain(project, SAFERFLOW_WEBHOOK=address)
    assert status == 0, output
    assert project.calls() == []
    assert "unchanged: neither data nor code nor parameters changed" in output
    assert received == []
    run = remembered(project)
    assert run.data.tags["saferflow.outcome"] == "unchanged"
    assert run.data.metrics["champion_days"] >= 0


def test_a_better_version_is_promoted_and_someone_is_told(project, receiver):
    address, received = receiver
    project.set("grpo.learning_rate", 0.0005)
    status, output = retrain(project, SAFERFLOW_WEBHOOK=address)
    assert status == 0, output
    assert project.calls() == ["grpo", "evaluate", "gate"]
    assert len(received) == 1, output
    [told] = received
    assert told["outcome"] == "promoted"
    assert told["champion"] == 2
    assert list(told["changed"]) == ["grpo"]
    assert "params" in told["changed"]["grpo"][0] or "grpo" in told["changed"]["grpo"][0]


def test_a_version_that_may_not_lead_leaves_the_champion_and_someone_is_told(project, receiver):
    address, received = receiver
    project.set("grpo.kl", 0.5)
    status, output = retrain(project, SAFERFLOW_WEBHOOK=address)
    assert status == 0, output
    assert champion(project) == 1
    assert [told["outcome"] for told in received] == ["rejected"]
    assert "not better than champion version 1" in received[0]["text"]


def test_a_stage_that_was_run_again_for_nothing_leaves_the_champion_unchanged_and_someone_is_told(project, receiver):
    address, received = receiver
    status, output = retrain(project, "--force", "gate", SAFERFLOW_WEBHOOK=address)
    assert status == 0, output
    assert project.calls() == ["gate"]
    assert [told["text"] for told in received] == ["saferflow: unchanged: it is the champion already"]
    assert (remembered(project).data.tags["saferflow.outcome"], champion(project)) == ("unchanged", 1)
    assert project.stage_runs()["align"].data.tags["mlflow.note.content"].startswith("Unchanged: it is the champion")


def test_a_failed_run_leaves_the_champion_and_someone_is_told(project, receiver):
    address, received = receiver
    project.set("grpo.kl", 0.25)
    status, _ = retrain(project, SAFERFLOW_WEBHOOK=address, STUB_FAIL="grpo")
    assert status == 1
    assert champion(project) == 1
    [told] = received
    assert told["outcome"] == "failed"
    assert "stage grpo failed" in told["reason"]
    assert "for a reason" in told["reason"]
    assert remembered(project).info.status == "FAILED"


def test_a_webhook_that_cannot_be_reached_stops_nothing_and_its_address_is_not_printed(project):
    project.set("grpo.learning_rate", 0.0005)
    status, output = retrain(project, SAFERFLOW_WEBHOOK="http://127.0.0.1:9/secret-path")
    assert status == 0, output
    assert champion(project) == 2
    assert "SAFERFLOW_WEBHOOK was not reached" in output
    assert "secret-path" not in output


def test_new_rows_in_an_imported_source_are_fetched_and_run_what_reads_them(project, tmp_path, receiver):
    address, received = receiver
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "rows.jsonl").write_text('{"question": "one"}\n')
    sources = project.root / "data" / "sources"
    sources.mkdir(parents=True, exist_ok=True)
    dvc = [sys.executable, "-m", "dvc"]
    imported = [*dvc, "import-url", str(feed / "rows.jsonl"), "data/sources/rows.jsonl"]
    done = subprocess.run(
        imported, cwd=project.root, env=project.environ(), check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (project.root / "dvc.yaml").write_text(
        (project.root / "dvc.yaml").read_text().replace("cmd: python stub.py plan\n    deps: []", PLAN_READS)
    )
    status, output = retrain(project)
    assert status == 0, output
    project.calls()
    (feed / "rows.jsonl").write_text('{"question": "one"}\n{"question": "two"}\n')
    status, output = retrain(project, SAFERFLOW_WEBHOOK=address)
    assert status == 0, output
    assert (sources / "rows.jsonl").read_text().count("question") == 2
    assert project.calls()[0] == "plan"
    assert "plan" in received[0]["changed"]


PLAN_READS = "cmd: python stub.py plan\n    deps: [data/sources/rows.jsonl]"


@pytest.mark.slow
def test_a_worker_runs_the_deployment_that_prefect_yaml_names_by_the_clock(project):
    """As docs/operations.md tells: saferflow init, a worker in this checkout; but every minute instead of every week."""
    deployments = (ROOT / "prefect.yaml").read_text(encoding="utf-8")
    assert '- cron: "0 3 * * 1"' in deployments
    minutely = deployments.replace('- cron: "0 3 * * 1"', '- cron: "* * * * *"')
    (project.root / "prefect.yaml").write_text(minutely, encoding="utf-8")
    environ = project.environ(PWD=str(project.root), PREFECT_HOME=str(project.root / ".saferflow" / "prefect"))

    def prefect(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
            cwd=project.root, env=environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    for _ in range(2):  # a second time changes nothing
        done = subprocess.run(
            [sys.executable, "-m", "saferflow", "init", "--gpus", "3"],
            cwd=project.root, env=environ, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "retrain/weekly" in prefect("deployment", "ls")
    assert "crashed" in prefect("automation", "ls")
    assert json.loads(prefect("work-pool", "inspect", "gpu", "--output", "json"))["concurrency_limit"] == 3
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "pipelines", "--limit", "1"]
    with (project.root / ".saferflow" / "worker.log").open("w") as log:
        worker = subprocess.Popen(
            command, cwd=project.root, env=environ, stdout=log, stderr=log, start_new_session=True
        )
    try:
        limit = time.monotonic() + 240
        while not (run := project.stage_runs().get("retrain")) or run.info.status != "FINISHED":
            assert time.monotonic() < limit, (project.root / ".saferflow" / "worker.log").read_text()[-3000:]
            time.sleep(1)
    finally:
        end(worker)
    assert remembered(project).data.tags["saferflow.outcome"] == "unchanged"
