"""DVC experiments beside the checkout: the pipeline with parts left out or with the user's values."""

import os
import tempfile
import time
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows import process
from flows.bridge import console, interruptible, reachable
from flows.checkout import alone, prepared
from saferflow.cli.show import COLUMNS, duration
from saferflow.data.rows import Answered
from saferflow.data.tables import atomic, read_table
from saferflow.errors import PipelineError
from saferflow.evaluation.ablation import OTHER_ROWS, Line, Variant, chosen, compare, custom, markdown
from saferflow.evaluation.measures import scores
from saferflow.layout import CANDIDATE, EVALUATED
from saferflow.params import load_params
from saferflow.release.trainings import tags_of
from saferflow.tracking import experiments, graph, lineage, runs

REPORT = Path("reports/ablation.md")
QUEUED = "experiment/queued"
"""The deployment in prefect.yaml."""


@flow(name="experiment")
def experiment(settings: list[str]) -> None:
    """Run one experiment with the user's values; a worker runs this for `--queue`."""
    root = Path.cwd()
    prepared(root)
    with alone(root):
        runs.close_abandoned(lineage.checkout_id(root))
        compared([custom(load_params(root / "params.yaml"), settings)], "experiment")


@flow(name="try")
def tried(settings: list[str]) -> list[Line]:
    """Run one experiment with the user's values, here and now."""
    return compared([custom(load_params(), settings)], "experiment")


@flow(name="ablate")
def ablate(names: tuple[str, ...]) -> list[Line]:
    """Run the variants of these names and compare each with the pipeline as it is."""
    return compared(chosen(load_params(), names), "ablate")


def compared(wanted: list[Variant], what: str) -> list[Line]:
    """Run each variant and compare it with the pipeline as it is, under an MLflow run of this name.

    Raises:
        PipelineError: the pipeline is not up to date, or a variant failed.
    """
    root = Path.cwd()
    params = load_params(root / "params.yaml")
    if stale := graph.stale(root):
        raise PipelineError(
            f"{', '.join(stale)}: not up to date, so there is nothing to compare with; run saferflow run first"
        )
    whole = _candidate(root / EVALUATED)
    tags = lineage.run_tags(root, params.run.profile, "")
    parent = runs.start(what, tags)
    status = "FAILED"
    try:
        others = {}
        for number, variant in enumerate(wanted, 1):
            console.print(Text.assemble((f"[{number}/{len(wanted)}] {variant.name}", "bold"), f"  {variant.what}"))
            others[variant.what] = task(_answers, name=variant.name)(root, variant, parent, tags)
        lines = compare(whole, others, params)
        with atomic(root / REPORT) as partial:
            partial.write_text(markdown(lines, len(whole)), encoding="utf-8")
        runs.log_artifact(parent, root / REPORT)
        status = "FINISHED"
    finally:
        runs.finish(parent, status)
    return lines


def _answers(root: Path, variant: Variant, parent: str, tags: dict[str, str]) -> list[Answered]:
    """The rows that a variant's candidate answers; read from the experiment if it was run before."""
    name = experiments.name_of(root, variant.name, variant.changes)
    run = runs.start(variant.name, {**tags, lineage.STAGE: "experiment"}, parent)
    status = "FAILED"
    try:
        runs.log_params(run, dict(variant.changes))
        started = time.monotonic()
        revision = experiments.revision(root, name)
        if revision is None:
            revision = _experiment(root, variant, name)
            runs.log_numbers(run, {"seconds": time.monotonic() - started})
        recipe = tags_of(experiments.lock(root, revision))
        runs.tag(run, {lineage.PREFIX + "experiment": name, lineage.PREFIX + "git.commit": revision, **recipe})
        with tempfile.TemporaryDirectory() as folder:
            table = experiments.fetch(root, revision, str(EVALUATED), Path(folder) / EVALUATED.name)
            runs.log_artifact(run, table)
            answered = _candidate(table)
        runs.log_numbers(run, scores(answered).to_dict())
        console.print(f"  {name}: done in {duration(time.monotonic() - started)}")
        status = "FINISHED"
    finally:
        runs.finish(run, status)
    return answered


def _experiment(root: Path, variant: Variant, name: str) -> str:
    logger, lines = get_run_logger(), []

    def on_line(line: str) -> None:
        lines.append(line)
        logger.info("%s", line)
        if line.startswith("Running stage"):
            console.print(Text(f"  {line}", "dim"))

    env = {"PYTHONPATH": "src", **({"HF_HUB_OFFLINE": "1"} if "HF_HUB_OFFLINE" in os.environ else {})}
    log = root / "logs" / f"experiment-{name}.log"
    status = process.run(experiments.command(name, variant.changes), root, log, env, on_line)
    revision = experiments.revision(root, name)
    if status or revision is None:
        tail = "\n".join(lines[-30:])
        raise PipelineError(f"experiment {name} failed (exit status {status}); its last lines, more in {log}:\n{tail}")
    return revision


def _candidate(file: Path) -> list[Answered]:
    return [row for row in read_table(file, Answered) if row.policy == CANDIDATE]


def _drawn(lines: list[Line]) -> Table:
    """A table of scores in percent, with the difference from the whole recipe below each; a star if its interval excludes 0."""
    table = Table(title="Percent, and the difference from the pipeline as it is", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    shown = [name for name in COLUMNS if name in lines[0].scores]
    for name in shown:
        table.add_column(COLUMNS[name], justify="right", no_wrap=True)
    for line in lines:
        cells = [f"{line.scores[name]:.1f}{_gain_cell(line, name)}" if name in line.scores else "-" for name in shown]
        table.add_row(Text(f"{line.what} ({OTHER_ROWS})" if line.other_rows else line.what), *cells)
    table.caption = "* its interval leaves out 0; the intervals are in " + str(REPORT)
    table.caption_justify = "left"
    return table


def _gain_cell(line: Line, name: str) -> str:
    gain = line.gains.get(name)
    if gain is None:
        return ""
    return f"\n{gain.difference:+.1f}{'*' if gain.low > 0 or gain.high < 0 else ' '}"


def order(settings: list[str]) -> str:
    """Put an experiment into the queue of the deployment, and return its Prefect run.

    Raises:
        PipelineError: the server has no such deployment.
    """
    try:
        return str(run_deployment(QUEUED, parameters={"settings": settings}, timeout=0, as_subflow=False).id)
    except ObjectNotFound:
        raise PipelineError(f"the server has no deployment {QUEUED}: saferflow init makes it") from None


def run_experiments(names: list[str], settings: list[str], *, queue: bool) -> None:
    """Run experiments of the working directory's pipeline and print their table, or put one into the queue.

    Args:
        names: what is left out, an experiment each; or all.
        settings: NAME=VALUE, all of one experiment.
        queue: let a worker run it after what was ordered before.

    Raises:
        ParamsError: a name or a value is wrong; no server has been started then.
        PipelineError: an experiment failed.
    """
    root = Path.cwd()
    params = prepared(root)
    wanted = [custom(params, settings)] if settings else []
    wanted += chosen(params, names)
    message = "interrupted. Experiments that are done, and stages of the one that was not, are kept."
    with interruptible(message), reachable(root):
        if queue:
            run = order(settings)
            console.print(f"ordered: {wanted[0].what} (Prefect run {run}); a worker of pool pipelines runs it in its turn")
            return
        with alone(root):
            runs.close_abandoned(lineage.checkout_id(root))
            lines = ablate(tuple(names)) if names else tried(settings)
    console.print(_drawn(lines))
    console.print("each is a DVC experiment: dvc exp show, dvc exp apply NAME, dvc exp branch NAME BRANCH")
