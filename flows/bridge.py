"""The bridge from Prefect to DVC and MLflow: each stage is a task, a DVC stage and a run with the same outcome."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
from prefect import Flow, get_run_logger, runtime, tags, task
from prefect.client.orchestration import get_client
from prefect.context import TagsContext
from prefect.exceptions import TerminationSignal
from prefect.logging.handlers import PrefectConsoleHandler
from prefect.settings import PREFECT_API_URL, temporary_settings
from rich.text import Text

from flows import abandoned, nodes
from flows.checkout import alone, close_abandoned, console, hold_back_proxies, nothing_to_do, prepared
from flows.reproduce import RAN, UNCHANGED, Failure, StageFailed, reproduce
from saferflow.addresses import is_local
from saferflow.cli import show
from saferflow.data import profile_plot
from saferflow.data.profile import LARGE
from saferflow.errors import PipelineError
from saferflow.layout import PROFILE
from saferflow.params import NodesParams, Params, load_params
from saferflow.release import data_versions, registration
from saferflow.release.registration import Registered
from saferflow.shell import settle
from saferflow.tracking import curves, datasets, dvc_remote, graph, lineage, live, run_tables, runs, services

ARTIFACT_LIMIT = 64 * 2**20
"""Bytes. MLflow gets a copy of a model folder up to this size, and only the address and digest of a larger one."""


@dataclass(frozen=True, slots=True)
class Closing:
    """The result of a pipeline run."""

    outcomes: dict[str, str]
    registered: Registered


@contextmanager
def pipeline(force: tuple[str, ...] = ()) -> Iterator["Pipeline"]:
    """Open the parent run for the flow's body, and close it with the status of the body."""
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    shared = lineage.run_tags(root, params.run.profile, str(runtime.flow_run.id or ""))
    parent = runs.start("align", {**shared, lineage.PREFIX + "prefect.name": str(runtime.flow_run.name or "")})
    # The run's tags are not its tasks': a task that has some asks the server for a slot for each before it starts.
    no_tags = TagsContext(current_tags=set())
    with _closing(parent), no_tags:
        runs.log_params(parent, {"run": params.run.model_dump(), "policy": params.policy.model_dump()})
        yield Pipeline(root, params, parent, shared, force)


@contextmanager
def _closing(run: str) -> Iterator[None]:
    """Close a run when its block ends, so that no run stays RUNNING."""
    try:
        yield
    except Exception:
        runs.give_up(run, "FAILED")
        raise
    except BaseException:
        runs.give_up(run, "KILLED")
        raise
    runs.finish(run)


@dataclass
class Pipeline:
    """One pass over the stages."""

    root: Path
    params: Params
    parent: str
    tags: dict[str, str]
    force: tuple[str, ...]
    stages: dict[str, graph.Stage] = field(init=False)
    changes: dict[str, tuple[str, ...]] = field(init=False)
    outcomes: dict[str, str] = field(init=False, default_factory=dict)
    nodes: NodesParams | None = field(init=False)
    spent: float = field(init=False, default=0.0)
    """Seconds of stages, times the processes that trained."""
    makers: dict[str, str] = field(init=False, default_factory=dict)
    """Stage -> the run whose code made its current outputs."""

    def __post_init__(self) -> None:
        self.stages = graph.load_stages(self.root)
        self.changes = graph.stale(self.root)
        self.nodes = self.params.run.nodes
        if self.nodes:
            nodes.require(self.root, self.nodes, self.stages)

    def stage(self, name: str) -> None:
        """Run a stage as a Prefect task; it fails with the stage's last lines in its message."""
        task(lambda: self._stage(self.stages[name]), name=name, task_run_name=name)()

    def register(self) -> Closing:
        """Put the result into the registry, as a task."""
        return task(self._register, name="register", task_run_name="register")()

    def _stage(self, stage: graph.Stage) -> None:
        run = runs.start(stage.name, {**self.tags, lineage.STAGE: stage.name}, parent=self.parent)
        with _closing(run):
            started = time.monotonic()
            try:
                outcome = self._reproduce(stage, run)
            finally:
                seconds = time.monotonic() - started
                self.spent += seconds * self._processes(stage)
            self.outcomes[stage.name] = outcome
            self._report(stage, outcome if outcome != RAN else f"done in {show.duration(seconds)}")
            live.send_left(run)
            self._remember(stage, run, outcome, seconds)

    def _reproduce(self, stage: graph.Stage, run: str) -> str:
        """Have DVC bring the stage up to date, and return its outcome: RAN, RESTORED or UNCHANGED."""
        ran = {name for name, outcome in self.outcomes.items() if outcome != UNCHANGED}
        follows = stage.name in graph.with_followers(ran, self.stages)
        if not (stage.name in self.changes or stage.name in self.force or follows):
            return UNCHANGED
        forced = stage.name in self.force
        why = self.changes.get(stage.name) or (("forced",) if forced else ("an earlier stage ran",))
        self._report(stage, show.listed(why))
        logger = get_run_logger()

        def on_line(line: str) -> None:
            logger.info("%s", line)
            console.print(Text.assemble((f"{stage.name:>9} │ ", "dim"), line))

        for begun in count(1):
            try:
                if self.nodes and stage.name in self.nodes.stages:
                    return nodes.run_on_node(
                        self.root,
                        self.stages,
                        stage.name,
                        self.nodes,
                        run,
                        on_line,
                        force=forced,
                        seconds=self._left(stage),
                    )
                return reproduce(self.root, stage.name, run, on_line, force=forced, seconds=self._left(stage))
            except StageFailed as error:
                runs.tag(run, {lineage.PREFIX + "failure": error.failure})
                if error.failure is not Failure.PREEMPTED or begun > self.params.run.preemptions:
                    raise
                again = (
                    f"preempted; it begins again from its last checkpoint ({begun} of {self.params.run.preemptions})"
                )
                self._report(stage, again)
        raise AssertionError("count has no end")

    def _left(self, stage: graph.Stage) -> float | None:
        """The seconds of the budget that are left for a stage; None without a budget.

        Raises:
            PipelineError: none.
        """
        if self.params.run.budget_hours is None:
            return None
        left = self.params.run.budget_hours * 3600 - self.spent
        if left <= 0:
            raise PipelineError(
                f"run.budget_hours ({self.params.run.budget_hours:g}) is spent before stage {stage.name}; finished stages are "
                "kept, and a run with more goes on"
            )
        return left / self._processes(stage)

    def _processes(self, stage: graph.Stage) -> int:
        return self.params.launch.processes * self.params.launch.nodes if "launch" in stage.params else 1

    def _remember(self, stage: graph.Stage, run: str, outcome: str, seconds: float) -> None:
        """Log a stage's lineage, parameters, numbers and artifacts; artifacts only where no earlier run holds them."""
        entry = graph.lock_entries(self.root).get(stage.name, {})
        maker = runs.producer(graph.lock_hash(entry)) if outcome != RAN else None
        self.makers[stage.name] = maker or run
        origin = {lineage.CACHED: str(outcome != RAN).lower()} | ({lineage.PRODUCED_BY: maker} if maker else {})
        runs.tag(run, {**lineage.stage_tags(entry), **origin})
        for page in (run, self.parent):
            datasets.log_inputs(page, stage.name, entry, self.tags[lineage.PREFIX + "git.commit"])
        runs.log_params(run, next(iter(entry.get("params", {}).values()), {}))
        if outcome == RAN and (drawn := curves.draw(run)) is not None:  # before the final numbers, which are no curves
            runs.log_text(run, drawn, "curves.svg")
        runs.log_numbers(run, {"stage_seconds": seconds} if outcome == RAN else {})
        for path in map(self.root.joinpath, stage.metrics):
            runs.log_numbers(run, json.loads(path.read_text(encoding="utf-8")))
        if maker is None:
            self._keep(stage, run, entry)

    def _keep(self, stage: graph.Stage, run: str, entry: dict) -> None:
        for out in stage.outs:
            if out.startswith("reports/"):
                runs.log_artifact(run, self.root / out)
            elif out.startswith("models/"):
                digest, size = graph.out_digest(entry, out) or ("", 0)
                if size <= ARTIFACT_LIMIT:
                    runs.log_artifact(run, self.root / out, "model")
                commit = self.tags[lineage.PREFIX + "git.commit"]
                address = {"path": out, "md5": digest, "bytes": size, "commit": commit}
                runs.log_text(run, json.dumps(address, indent=2), "model.json")
            if log_table := run_tables.LOGGED.get(out):
                log_table(run, self.root / out)
        runs.log_text(run, json.dumps(entry, indent=2, ensure_ascii=False), "lineage.json")
        if str(PROFILE) in stage.outs:
            self._tell_drift(stage, run)
        log = self.root / "logs" / f"{stage.name}.log"
        if log.exists():
            runs.log_artifact(run, log, "logs")

    def _tell_drift(self, stage: graph.Stage, run: str) -> None:
        """Log how far the data has moved from its former version, and report a large shift."""
        profile = data_versions.profile_in(self.root)
        former = data_versions.former(profile)
        if former is None:
            return
        shifts = data_versions.shifts(profile, former)
        runs.log_text(run, profile_plot.draw(shifts), "drift.svg")
        indices = {f"{shift.table}.{shift.aspect.replace(' ', '_')}": shift.index for shift in shifts}
        runs.log_numbers(run, {"drift": indices})
        for shift in shifts:
            if shift.index >= LARGE:
                self._report(
                    stage,
                    f"{shift.verdict} in {shift.table}, {shift.aspect} (index {shift.index:.2f}) since run {former}",
                )

    def _register(self) -> Closing:
        digest, size = graph.out_digest(graph.lock_entries(self.root).get("grpo", {}), registration.MODEL) or ("", 0)
        source = f"runs:/{self.makers['grpo']}/model"
        if size > ARTIFACT_LIMIT:
            source = dvc_remote.dvc_address(digest, registration.MODEL)
        done = registration.register(self.root, self.params, self.parent, self.makers, source)
        return Closing(dict(self.outcomes), done)

    def _report(self, stage: graph.Stage, text: str) -> None:
        at = list(self.stages).index(stage.name) + 1
        console.print(Text.assemble((f"[{at}/{len(self.stages)}] {stage.name}", "bold"), f"  {text}"))


@contextmanager
def interruptible(message: str) -> Iterator[None]:
    """End the process with status 130 and a message when the block is interrupted or terminated."""
    try:
        yield
    except (KeyboardInterrupt, TerminationSignal):
        console.print(message)
        raise SystemExit(130) from None


def bring_up_to_date(align: Flow, root: Path, force: tuple[str, ...]) -> None:
    """Run the flow if there is anything to do, and print the result of the pipeline.

    Raises:
        PipelineError: a stage failed, or `force` names one that there is not.
    """
    params = prepared(root)
    with alone(root):
        _bring_up_to_date(align, root, params, force)


def _bring_up_to_date(align: Flow, root: Path, params: Params, force: tuple[str, ...]) -> None:
    stages = graph.load_stages(root)
    if unknown := set(force) - set(stages):
        raise PipelineError(f"no stage {', '.join(sorted(unknown))}; there are {', '.join(stages)}")
    changes = graph.stale(root)
    if (changes or force) and not PREFECT_API_URL.value():
        services.launch(services.PREFECT, root)  # it comes up while MLflow opens its store
    checkout = lineage.checkout_id(root)
    close_abandoned(root)
    if changes or force or not nothing_to_do(root, params):
        with reachable(root):
            abandoned.close_flow_runs(checkout)
            with tags(f"checkout:{checkout}", f"profile:{params.run.profile}"):
                closing = align(force)
        ran = [name for name, outcome in closing.outcomes.items() if outcome == RAN]
        console.print(f"\nran {len(ran)} of {len(stages)} stages" + (f": {', '.join(ran)}" if ran else ""))
        console.print(f"registry: {closing.registered.reason}")
    show.closing(console, root, params)


@contextmanager
def reachable(root: Path) -> Iterator[None]:
    """Prefect's API for the block: the address that is configured, or this checkout's own server, started if need be.

    Raises:
        PipelineError: nobody answers at the configured address, or not to the one who asks.
    """
    for handler in logging.getLogger().handlers:
        if isinstance(handler, PrefectConsoleHandler):
            handler.setLevel(logging.CRITICAL)  # the lines go to Prefect's store; the terminal has ours
    settle()
    if not PREFECT_API_URL.value() or is_local(PREFECT_API_URL.value()):
        hold_back_proxies()
    if PREFECT_API_URL.value():
        try:
            with get_client(sync_client=True) as client:
                client.request("GET", "/admin/version")  # asks for the password too, which /health does not
        except (httpx.HTTPError, ImportError, ValueError) as fault:  # the last two: a proxy that cannot be used
            raise PipelineError(
                f"Prefect's server at {PREFECT_API_URL.value()} does not let us in ({fault!s:.300}); start it, set "
                "PREFECT_API_AUTH_STRING where it asks for one, see to the proxy that the environment names, or unset "
                "PREFECT_API_URL to use this checkout's own"
            ) from None
        yield
        return
    if not services.running(services.PREFECT, root):
        console.print("starting the Prefect server (some seconds)")
    address = services.start(services.PREFECT, root)
    with temporary_settings(updates={PREFECT_API_URL: f"{address}/api"}):
        yield
