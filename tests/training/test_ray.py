"""Completions over a real Ray cluster of two nodes, one of which is killed while it has a batch in hand."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from saferflow.data.rows import Answered, PromptRow
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.data.tables import write_table
from saferflow.errors import PipelineError
from saferflow.params import RayParams, load_params
from saferflow.planner.rules import plan_for
from saferflow.stages.evaluate import dialogues
from saferflow.training.embedded import build_model, build_processor, train_tokenizer
from saferflow.training.engines import Drawing, Engine, drawn_over_ray, fingerprint, sampler
from saferflow.training.generate import Batch, Prompt
from saferflow.training.policy import save_policy
from saferflow.training.ray_cluster import over_ray
from tests.flows.cluster import free_port

ROOT = Path(__file__).parents[2]
MICRO = load_params(ROOT / "profiles" / "micro.yaml")
ROWS = [*safety_rows(9, 1, "evaluation"), *general_rows(3, 1, "evaluation")]
DEATHS = 3


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tokenizer = train_tokenizer([text for row in ROWS for text in (row.question, row.answer)], MICRO.base.vocab_size)
    save_policy(folder, build_model(MICRO.base, tokenizer, seed=1), build_processor(tokenizer, MICRO.policy))
    return folder


@pytest.fixture(autouse=True)
def _one_thread():
    """As the engines have it, which get one CPU each: sums are added up in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Cluster:
    """Nodes of a Ray cluster on this machine, each a process group; no dashboard, no telemetry."""

    def __init__(self, folder: Path):
        self.address = f"127.0.0.1:{free_port()}"
        self._folder, self._nodes = folder, []

    def start(self, *options: str, **environ: str) -> subprocess.Popen:
        """A node; Ray gives it 30 seconds to start, which a busy machine may not have, so there are more tries."""
        for _ in range(4):
            node = self._begin(*options, **environ)
            log = self._folder / f"node{len(self._nodes)}.log"
            while node.poll() is None and "Ray runtime started" not in log.read_text():
                time.sleep(0.3)
            if node.poll() is None:
                self._nodes.append(node)
                return node
        raise AssertionError(log.read_text())

    def _begin(self, *options: str, **environ: str) -> subprocess.Popen:
        head = ("--head", f"--port={self.address.split(':')[1]}", "--include-dashboard=false", f"--temp-dir={self._folder}")
        where = (f"--address={self.address}",) if self._nodes else head
        log = self._folder / f"node{len(self._nodes)}.log"
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "ray"), "start", "--block", "--disable-usage-stats", "--num-cpus=1",
             "--node-ip-address=127.0.0.1", f"--object-store-memory={100 * 2**20}", *where, *options],
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}", **environ}, start_new_session=True, cwd=self._folder,
            stdout=log.open("w"), stderr=subprocess.STDOUT,
        )  # fmt: skip

    def stop(self) -> None:
        for node in self._nodes:
            kill(node)


def kill(node: subprocess.Popen) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGKILL)
    node.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Its head, a node of one CPU; a test adds the second."""
    import ray

    folder = Path(tempfile.mkdtemp(prefix="r", dir="/tmp"))  # paths of its sockets have to be short
    nodes = Cluster(folder)
    try:
        nodes.start()
        yield nodes
    finally:
        ray.shutdown()
        nodes.stop()
        shutil.rmtree(folder, ignore_errors=True)


def ray_params(cluster: Cluster, engines: int = 2) -> RayParams:
    return RayParams(address=cluster.address, engines=engines, cpus=1, gpus=0)


def with_ray(cluster: Cluster, engines: int = 2):
    run = MICRO.run.model_copy(update={"ray": ray_params(cluster, engines)})
    return PARAMS.model_copy(update={"run": run})


PARAMS = MICRO.model_copy(
    update={
        "policy": MICRO.policy.model_copy(update={"max_completion_tokens": 12}),
        "evaluate": MICRO.evaluate.model_copy(update={"batch_size": 4}),
    }
)


def asked() -> list[Batch]:
    prompts = [Prompt("Mind the protocol.", row.question, row.image) for row in ROWS]
    return [Batch(prompts[start : start + 2], seed=start) for start in range(0, len(prompts), 2)]


def watched(folder: Path) -> type:
    """An engine that notes each batch it begins, and on the node that is to die goes no further."""

    class Watched(Engine):
        def __call__(self, batch):
            doomed = "DOOMED" in os.environ
            (folder / f"{batch.seed}{'-in-hand' if doomed else ''}").touch()
            if doomed:
                time.sleep(600)
            while not list(folder.glob("*-in-hand")):
                time.sleep(0.1)  # else this node may have done everything before the other has begun
            return super().__call__(batch)

    return Watched


@pytest.mark.slow
def test_the_batches_of_a_node_that_died_are_drawn_again_and_the_completions_are_those_of_one_process(
    policy, cluster, tmp_path
):
    """The second node has a batch in hand and will never finish it: what comes out can only have been drawn anew."""
    second = cluster.start(DOOMED="1")

    def kill_when_at_work() -> None:
        while not list(tmp_path.glob("*-in-hand")):
            time.sleep(0.1)
        kill(second)

    threading.Thread(target=kill_when_at_work, daemon=True).start()
    how = Drawing(12, samples=3, temperature=1.0)
    arguments = (str(policy), fingerprint(policy), PARAMS.policy, how)
    texts = list(over_ray(watched(tmp_path), arguments, asked(), ray_params(cluster), DEATHS))
    in_hand = {file.name.split("-")[0] for file in tmp_path.glob("*-in-hand")}
    assert in_hand
    assert in_hand <= {file.name for file in tmp_path.iterdir()}  # begun anew elsewhere
    assert [json.loads(text) for text in texts] == list(sampler(policy, PARAMS, 3, 1.0)(asked()))


@pytest.mark.slow
def test_the_evaluated_table_has_the_same_bytes_over_ray(policy, cluster, tmp_path):
    """The second turn is shown what the first one's answer was."""
    cluster.start()
    turns = []
    for row in ROWS[:9]:
        plan = plan_for(row.question, row.image).to_json()
        labels = row.labels.to_json()
        first = PromptRow(row.id, row.source, "safety", row.image, "Mind the protocol.", row.question, plan, labels)
        later = PromptRow(f"{row.id}-2", row.source, "safety", row.image, "Mind it.", f"{row.question}\nAnd now?", plan, labels)
        turns.append([first, later])
    tables = []
    for name, params in (("here", PARAMS), ("one", with_ray(cluster, 1)), ("two", with_ray(cluster, 2))):
        write_table(tmp_path / name, dialogues("sft", policy, turns, params), Answered)
        tables.append((tmp_path / name).read_bytes())
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.slow
def test_what_is_wrong_at_an_engine_is_said_here_and_not_tried_again(policy, cluster, tmp_path):
    with pytest.raises(PipelineError, match="not on this machine of the cluster"):
        list(over_ray(Engine, (str(tmp_path / "away"), "", PARAMS.policy, Drawing(4)), asked(), ray_params(cluster), DEATHS))
    with pytest.raises(PipelineError, match="another policy there"):
        list(over_ray(Engine, (str(policy), "another", PARAMS.policy, Drawing(4)), asked(), ray_params(cluster), DEATHS))


@pytest.mark.slow
def test_a_batch_that_kills_every_engine_ends_the_stage(cluster):
    class Deadly:  # a class of a function travels whole: engines do not import this file
        def __call__(self, job):
            os._exit(1)

    with pytest.raises(PipelineError, match="could not do its part"):
        list(over_ray(Deadly, (), [1], ray_params(cluster, 1), 1))


def test_no_cluster_is_an_error_that_names_the_address(policy, tmp_path):
    """In a process of its own: another test of this one may have joined a cluster."""
    script = (
        "from saferflow.training.ray_cluster import over_ray; from saferflow.params import RayParams\n"
        "list(over_ray(object, (), [1], RayParams(address='127.0.0.1:9', engines=1, cpus=1, gpus=0), 1))"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "run.ray: no cluster answers at 127.0.0.1:9" in done.stderr


@pytest.mark.slow
def test_without_a_cluster_nothing_imports_ray(policy):
    script = (
        "import sys; from pathlib import Path; from saferflow.params import load_params\n"
        "from saferflow.training.engines import sampler\nfrom saferflow.training.generate import Batch, Prompt\n"
        "import saferflow.stages.evaluate, saferflow.stages.curate, saferflow.stages.dpo, saferflow.cli.attack\n"
        f"params = load_params(Path({str(ROOT / 'profiles/micro.yaml')!r}))\n"
        f"drawn = list(sampler(Path({str(policy)!r}), params, 1, 1.0)([Batch([Prompt('', 'what?', None)])]))\n"
        "assert len(drawn) == 1 and 'ray' not in sys.modules"
    )
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, "-c", script], env=environ, check=True)


def test_ray_can_be_given_batches_of_nothing():
    run = MICRO.run.model_copy(update={"ray": RayParams(address="auto", engines=1, cpus=1, gpus=0)})
    assert list(drawn_over_ray(ROOT, MICRO.policy, Drawing(1), [], run)) == []
