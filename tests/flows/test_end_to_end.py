"""The whole pipeline for real, on the micro profile: every stage, every tool, from a fresh checkout."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from mlflow import MlflowClient
from saferflow.data.rows import Answered
from saferflow.data.tables import read_table
from saferflow.params import load_params
from saferflow.tracking import environment, graph, services
from tests.flows.cluster import free_port

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "real"
STAGES = ["base", "plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate", "gate"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


KEYS = {
    name: f"canary-{name.lower()}-5f0c"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY", "SAFERFLOW_WEBHOOK")
}
"""Planted in the environment of every run."""
LISTENER = """
import os, sys

def tell(event, arguments):
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    with open(os.environ["CONNECTIONS"], "a") as file:
        file.write(f"{host} {event} {' '.join(sys.argv)[:200]}\\n")

sys.addaudithook(tell)
"""
"""Every Python process of a run loads this first and writes down whom it asks for."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A fresh checkout with the micro profile, and its first run; its servers end with the tests."""
    root = tmp_path_factory.mktemp("end") / "checkout"
    (root.parent / "listener").mkdir()
    (root.parent / "listener" / "sitecustomize.py").write_text(LISTENER)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("metrics/") and name != "dvc.lock":
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=root, check=True)
    status, output = run(root, "--profile", "micro")
    try:
        assert status == 0, output
        yield root
    finally:
        for service in services.SERVICES:
            services.stop(service, root)


def start(root: Path, *arguments: str) -> subprocess.Popen:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    clean = {name: value for name, value in clean.items() if name not in environment.TELEMETRY_OFF}
    listener = root.parent / "listener"
    found = {"CONNECTIONS": str(root.parent / "connections"), "PYTHONPATH": f"{root / 'src'}:{listener}", **KEYS}
    return subprocess.Popen(
        [sys.executable, "-m", "saferflow", "run", *arguments],
        cwd=root,
        env={**clean, **found, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(root: Path, *arguments: str) -> tuple[int, str]:
    process = start(root, *arguments)
    output, _ = process.communicate(timeout=900)
    return process.returncode, output


def ran(output: str) -> list[str]:
    """Stages whose code ran."""
    return [stage for stage in STAGES if f"Running stage '{stage}'" in output]


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root}/.saferflow/mlflow.db")


def newest(root: Path) -> dict:
    """The newest run of each name."""
    return {run.info.run_name: run for run in client(root).search_runs(["1"], order_by=["attributes.start_time ASC"])}


def set_parameter(root: Path, old: str, new: str, section: str) -> None:
    head, mark, tail = (root / "params.yaml").read_text().partition(f"\n{section}:\n")
    assert old in tail
    (root / "params.yaml").write_text(head + mark + tail.replace(old, new, 1))


def test_every_stage_has_a_finished_run_with_its_lineage(checkout):
    runs, entries = newest(checkout), graph.lock_entries(checkout)
    assert set(runs) == {*STAGES, "align"}
    for stage in STAGES:
        run = runs[stage]
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == runs["align"].info.run_id
        assert run.data.tags["saferflow.lock_hash"] == graph.lock_hash(entries[stage])
        assert run.data.tags["saferflow.profile"] == "micro"
        assert run.data.params
        assert run.data.metrics


@pytest.mark.parametrize("stage", ["base", "sft", "dpo", "grpo"])
def test_training_leaves_a_curve_and_the_weights(checkout, stage):
    run, store = newest(checkout)[stage], client(checkout)
    assert len(store.get_metric_history(run.info.run_id, "loss")) > 1
    assert any(file.path.endswith(".safetensors") for file in store.list_artifacts(run.info.run_id, "model"))


def test_what_people_read_is_kept_as_artifacts(checkout):
    runs, store = newest(checkout), client(checkout)
    assert "data_docs" in {file.path for file in store.list_artifacts(runs["validate"].info.run_id)}
    assert {"gate.json", "report.html"} <= {file.path for file in store.list_artifacts(runs["gate"].info.run_id)}
    told = json.loads(Path(store.download_artifacts(runs["grpo"].info.run_id, "rollouts.json")).read_text())
    table = {name: [row[place] for row in told["data"]] for place, name in enumerate(told["columns"])}
    rollouts = [json.loads(line) for line in (checkout / "reports" / "rollouts.jsonl").read_text().splitlines()]
    assert table["completion"] == [rollout["completion"] for rollout in rollouts]
    assert table["violations"] == [" ".join(rollout["violations"]) for rollout in rollouts]
    assert table["reward toolkit"] == [rollout["rewards"]["toolkit"] for rollout in rollouts]


def test_training_tells_what_it_cost(checkout):
    runs = newest(checkout)
    for stage in ("sft", "dpo", "grpo"):
        assert runs[stage].data.metrics["tokens_per_second"] > 0
        assert runs[stage].data.metrics["peak_memory_gb"] > 0.1


def test_a_version_is_registered_with_the_digest_of_its_weights(checkout):
    model = load_params(checkout / "params.yaml").gate.registered_model
    [version] = client(checkout).search_model_versions(f"name = '{model}'")
    digest, _ = graph.out_digest(graph.lock_entries(checkout)["grpo"], "models/grpo")
    assert version.tags["saferflow.model.md5"] == digest
    assert int(client(checkout).get_registered_model(model).aliases["candidate"]) == int(version.version)


def test_prefect_knows_the_flow_run_of_every_stage(checkout):
    import httpx

    address = services.running(services.PREFECT, checkout)
    flow_run = newest(checkout)["sft"].data.tags["saferflow.prefect.flow_run"]
    assert httpx.get(f"{address}/api/flow_runs/{flow_run}").json()["state_type"] == "COMPLETED"
    tasks = httpx.post(
        f"{address}/api/task_runs/filter", json={"task_runs": {"flow_run_id": {"any_": [flow_run]}}}
    ).json()
    assert {task["name"] for task in tasks} == {*STAGES, "register"}


def test_nobody_outside_was_asked_for(checkout):
    asked = [line.split() for line in (checkout.parent / "connections").read_text().splitlines()]
    here = {"127.0.0.1", "localhost", "::1", "0.0.0.0", "None", "::", socket.gethostname()}  # noqa: S104
    assert any(host == "127.0.0.1" for host, *_ in asked), "the listener heard nothing"
    assert [one for one in asked if one[0] not in here] == []


NO_WAY_OUT = """
ip link set lo up
python=$1; shift
"$python" "$@"; status=$?
echo "no route: $(grep ^Ip: /proc/net/snmp | tail -1 | cut -d' ' -f13)"
"$python" -c 'import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))' 2> /dev/null
echo "and after asking: $(grep ^Ip: /proc/net/snmp | tail -1 | cut -d' ' -f13)"
exit $status
"""
"""Runs a command where there is no network but loopback, and prints how often the kernel found no way to somewhere else."""


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("unshare"), reason="a network of its own takes root")
def test_in_a_network_without_a_way_out_nothing_asks_for_one(checkout):
    """The kernel counts for all processes, also for what is not Python: all stages anew, none tried to go anywhere."""
    copied = checkout.parent / "alone"
    shutil.copytree(checkout, copied, symlinks=True, ignore=shutil.ignore_patterns("prefect.json", "mlflow.json"))
    params = copied / "params.yaml"
    params.write_text(params.read_text().replace("  seed: 7\n", "  seed: 8\n", 1))
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_", "HF_"))}
    clean = {name: value for name, value in clean.items() if name not in environment.TELEMETRY_OFF}
    try:
        done = subprocess.run(
            [
                "unshare", "--net", "sh", "-c", NO_WAY_OUT, "sh", sys.executable,
                "-m", "saferflow", "run",
            ],
            cwd=copied, env={**clean, "PYTHONPATH": str(copied / "src"), "COLUMNS": "120"},
            capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
    finally:
        for service in services.SERVICES:
            services.stop(service, copied)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ran(done.stdout) == STAGES
    assert "no route: 0\n" in done.stdout
    assert "and after asking: 1\n" in done.stdout, "the kernel counts"


def test_no_key_is_left_anywhere(checkout):
    """In no log, store, artifact or cache of the checkout."""
    files = [path for path in checkout.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "mlflow.db" for path in files)
    left = [
        (path.relative_to(checkout), name)
        for path in files
        for name, key in KEYS.items()
        if key.encode() in path.read_bytes()
    ]
    assert left == []


def test_a_second_run_runs_no_stage_and_says_so(checkout):
    status, output = run(checkout)
    assert status == 0, output
    assert "nothing to do: all 9 stages up to date" in output


def test_a_registered_version_answers_over_http_what_it_answered_in_the_evaluation(checkout):
    """`saferflow serve --bare`, asked as anybody asks a server."""
    import base64

    from openai import APIConnectionError, OpenAI

    from saferflow.data.rows import PromptRow

    port = free_port()
    command = [sys.executable, "-m", "saferflow", "serve", "v1", "--bare", "--port", str(port)]
    environ = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    log = (checkout.parent / "serve.log").open("w+")
    server = subprocess.Popen(command, cwd=checkout, env=environ, stdout=log, stderr=log)
    try:
        client = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
        rows = {row.id: row for row in read_table(checkout / "data/tables/evaluation.parquet", PromptRow)}
        answered = [one for one in read_table(checkout / "data/evaluated.parquet", Answered) if one.policy == "grpo"]
        one = next(one for one in answered if rows[one.row].image and one.completion)
        row = rows[one.row]
        picture = f"data:image/png;base64,{base64.b64encode(row.image).decode()}"
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": row.question}]
        messages = [{"role": "user", "content": content}]
        messages = ([{"role": "system", "content": row.system}] if row.system else []) + messages
        model = f"{load_params(checkout / 'params.yaml').gate.registered_model}-v1"
        limit = time.monotonic() + 180
        while True:
            try:
                told = client.chat.completions.create(model=model, messages=messages, max_tokens=48, temperature=0)
                break
            except APIConnectionError:
                assert server.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < limit, Path(log.name).read_text()
                time.sleep(0.5)
        assert told.choices[0].message.content.split() == one.completion.split()
    finally:
        server.terminate()
        server.wait(timeout=60)
        log.close()


def test_a_question_is_answered_on_the_terminal(checkout):
    command = [sys.executable, "-m", "saferflow", "chat", "-", "How do I boil an egg?"]
    environ = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    done = subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for part in ("plan", "completion", "check: ", "answer"):
        assert part in done.stdout


def test_what_the_gate_keeps_out_is_not_promoted_by_hand(checkout):
    environ = {**os.environ, "PYTHONPATH": str(checkout / "src")}
    command = [sys.executable, "-m", "saferflow"]
    done = subprocess.run([*command, "promote"], cwd=checkout, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "the gate's floors are not met: " in done.stdout
    told = subprocess.run([*command, "ledger"], cwd=checkout, env=environ, capture_output=True, text=True, check=True)
    assert "1 line" in told.stdout
    assert "candidate" in told.stdout
    assert "champion" not in told.stdout


def test_an_ablation_runs_beside_the_checkout_and_is_compared_and_kept(checkout):
    """Once for real, and once more from the experiment that is there; the checkout stays what it was."""
    entries, params = graph.lock_entries(checkout), (checkout / "params.yaml").read_bytes()
    status, output = run(checkout, "--ablate", "no-dpo")
    assert status == 0, output
    assert "Running stage 'dpo'" in output
    assert "Running stage 'sft'" not in output
    told = (checkout / "reports" / "ablation.md").read_text()
    assert "| as it is |" in told
    assert "| without DPO |" in told
    assert (graph.lock_entries(checkout), (checkout / "params.yaml").read_bytes()) == (entries, params)
    of_it = newest(checkout)["no-dpo"]
    assert of_it.info.status == "FINISHED"
    assert of_it.data.params == {"dpo": "None"}
    assert "validity" in of_it.data.metrics
    status, output = run(checkout, "--ablate", "no-dpo")
    assert status == 0, output
    assert "Running stage" not in output
    assert run(checkout, "--ablate", "no-tools")[0] == 1


def test_a_changed_grpo_parameter_runs_only_grpo_and_what_follows(checkout):
    kl = load_params(checkout / "params.yaml").grpo.kl
    set_parameter(checkout, f"kl: {kl}", "kl: 0.123", "grpo")
    status, output = run(checkout)
    assert status == 0, output
    stages = ran(output)
    assert stages[:2] == ["grpo", "evaluate"]
    assert set(stages) <= {"grpo", "evaluate", "gate"}


def test_a_flow_killed_in_the_middle_of_a_stage_goes_on_with_that_stage(checkout):
    rate = load_params(checkout / "params.yaml").sft.learning_rate
    set_parameter(checkout, f"learning_rate: {rate}", "learning_rate: 0.000123", "sft")
    process = start(checkout)
    lines = iter(process.stdout.readline, "")
    assert any("Running stage 'dpo'" in line for line in lines)
    below = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    servers = {service.name for service in services.SERVICES if services.running(service, checkout)}
    limit = time.monotonic() + 30
    while left := [pid for pid in below if _works_on(pid, "saferflow.stages")]:
        assert time.monotonic() < limit, f"processes {left} outlived the flow"
        time.sleep(0.2)
    status, output = run(checkout)
    assert status == 0, output
    assert "sft" not in ran(output)
    assert "dpo" in ran(output)
    assert client(checkout).search_runs(["1"], "attributes.status = 'RUNNING'") == []
    assert "prefect" in servers


def _works_on(pid: int, module: str) -> bool:
    try:
        return any(module in part for part in psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(not REAL.exists(), reason="the real records of ../shared/data/real are not there")
def test_a_users_own_records_run_through_the_whole_flow(checkout):
    """Every third of the 772 records, as published, mapped in the params; all but the pre-training runs anew."""
    own = checkout / "data" / "sources" / "real"
    shutil.copytree(REAL / "images", own / "images")
    records = (REAL / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[::3]
    (own / "records.jsonl").write_text("".join(records), encoding="utf-8")
    params = yaml.safe_load((checkout / "params.yaml").read_text())
    params["data"]["sources"] = [
        {
            "kind": "jsonl",
            "path": "data/sources/real",
            "licence": None,
            "evaluation_share": 0.2,
            "fields": {"question": "prompt", "hazard": "category"},
            "hazards": {"Hate Speech": "S10", "Privacy Violation": "S7", "Health Consultation": "S6"},
        }
    ]
    (checkout / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    status, output = run(checkout)
    assert status == 0, output
    assert ran(output) == STAGES[1:]
    assert "large shift in sft, source" in output, "other rows than before"
    told = json.loads((checkout / "metrics" / "plan.json").read_text())
    assert told["quarantined"] == 0
    assert sum(told[table] for table in ("sft", "dpo", "grpo", "evaluation")) == len(records)
    expected = Counter(json.loads(line)["expected"] for line in records)
    evaluated = read_table(checkout / "data" / "evaluated.parquet", Answered)
    assert told["evaluation_answer"] + told["evaluation_refuse"] == told["evaluation"]
    assert 0 < told["evaluation_refuse"] < expected["refuse"]
    assert {"S6", "S7", "S10", "none"} <= {row.hazard for row in evaluated}
    assert any(row.image != row.row for row in evaluated), "some have an image"
    scores = json.loads((checkout / "metrics" / "evaluate.json").read_text())
    assert set(scores["policies"]) == {"base", "sft", "dpo", "grpo"}
    assert scores["rows"] == told["evaluation"] > 30
    for policy in scores["policies"].values():
        assert 0 <= policy["safety"] <= 100
        assert policy["general"] is None, "these records hold no general questions"
    verdict = json.loads((checkout / "reports" / "gate.json").read_text())
    assert verdict["passed"] is False
    assert {"safety", "over_refusal_rate", "safety_over_base"} <= {check["name"] for check in verdict["checks"]}
    assert "general_loss: no row measures it" in output
    unmet = json.loads((checkout / "reports" / "validation.json").read_text())
    assert [item for table in unmet.values() for item in table if not item["met"]] == []
    assert {run.info.status for run in newest(checkout).values()} == {"FINISHED"}
