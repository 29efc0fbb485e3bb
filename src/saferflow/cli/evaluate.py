"""`saferflow evaluate`: policies of one's choice on rows of one's choice, beside the pipeline and without touching it."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from saferflow.cli import show
from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table, write_table
from saferflow.errors import PolicyError
from saferflow.evaluation.adversarial import Outcome
from saferflow.evaluation.audit import Lineage, write_audit
from saferflow.evaluation.judges import judge_note
from saferflow.evaluation.report import render_report
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.layout import MODELS, POLICIES
from saferflow.params import Params
from saferflow.release import registry
from saferflow.release.weights import weights_of
from saferflow.stages.evaluate import answers
from saferflow.stages.gate import on_benchmarks
from saferflow.tracking import lineage
from saferflow.training.homes import ROOT, shelf

ANSWERS = "evaluated.parquet"
METRICS = "metrics.json"
REPORT = "report.html"
INSPECT = "inspect"
PLANNED, RELEASED = "planned", "released"
PROTOCOLS = {PLANNED: (PLANNED,), RELEASED: (RELEASED,), "both": (PLANNED, RELEASED)}
"""What `--protocol` says."""


def evaluate(
    console: Console,
    root: Path,
    params: Params,
    asked: Sequence[str],
    table: Path,
    out: Path,
    *,
    inspect: bool,
    traces: bool = False,
    constrained: bool = False,
    protocols: Sequence[str] = (PLANNED,),
) -> None:
    """Have each policy answer the rows of `table`; scores, report and answers go to `out`, in the place of earlier ones.

    Killed, the same command goes on with the batch that it was at.

    Args:
        asked: `base`, `sft`, `dpo`, `grpo`; a version as `v3`, or an alias; or the folder of a policy.
        inspect: also write a log a policy for Inspect's viewer.
        traces: also write an MLflow run with a trace for each answer.
        constrained: decode under each row's plan, whatever the params say.
        protocols: `planned` asks as the policies are trained, `released` as [K]'s released evaluation does.

    Raises:
        PolicyError: no such policy.
        PipelineError: no such version, or Inspect is not installed.
        DataError: the table is missing or damaged.
    """
    if inspect:
        from saferflow.evaluation.inspect_log import require

        require()
    each_once(asked)
    params = held_to_plans(params) if constrained else params
    rows = read_table(table, PromptRow)
    answered: list[Answered] = []
    with shelf("evaluate-command", root / ROOT) as kept_at:
        for name in asked:
            with policy_folder(root, params, name) as folder:
                for protocol in protocols:
                    answered += answers(name, folder, rows, params, released=protocol == RELEASED, kept_at=kept_at)
        metrics = evaluate_metrics(answered, params.evaluate, params.run.seed)
        metrics |= on_benchmarks(answered, rows, params)
        with in_place_of(out) as fresh:
            write_table(fresh / ANSWERS, answered, Answered)
            (fresh / METRICS).write_text(json.dumps(metrics, indent=2), encoding="utf-8")
            report(params, fresh, rows, answered, metrics, title="Evaluation")
            if inspect:
                from saferflow.evaluation.inspect_log import write_logs

                write_logs(fresh / INSPECT, rows, answered, metrics, str(table))
            pages(root, params, fresh, rows, answered)
    show.wide(console).print(show.score_table(metrics))
    for line in _differences(metrics):
        console.print(line)
    console.print(f"report: {out / REPORT}; rows: {out / 'audit/index.html'}; answers: {out / ANSWERS}")
    if traces:
        from saferflow.tracking.traces import log_evaluation

        tags, rules = lineage.run_tags(root, params.run.profile, ""), params.evaluate.judge.kind == "rules"
        run = log_evaluation(f"evaluate {' '.join(asked)}", tags, rows, answered, metrics, rules=rules)
        console.print(f"traces: MLflow run {run} (saferflow ui)")
    if inspect:
        console.print(f"logs: inspect view --log-dir {out / INSPECT}")


def _differences(metrics: dict) -> Iterator[str]:
    """The paired differences of policies in safety."""
    for pair, measures in metrics["paired"].items():
        safety = measures["safety"]
        if safety["difference"] is not None:
            between = f"{safety['difference']:+.1f} points [{safety['low']:+.1f}, {safety['high']:+.1f}]"
            yield f"safety, {pair.replace('-', ' − ', 1)}: {between}, one-sided p {safety['p']:.4f}"


def each_once(asked: Sequence[str]) -> None:
    """Raises PolicyError where a policy is named twice."""
    if doubled := {name for name in asked if asked.count(name) > 1}:
        raise PolicyError(f"{', '.join(sorted(doubled))} is named twice; name each policy once")


@contextmanager
def in_place_of(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of `out` when the block ends well, and goes otherwise."""
    fresh = out.absolute().with_name(f".{out.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
        shutil.rmtree(out, ignore_errors=True)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def held_to_plans(params: Params) -> Params:
    """The params with decoding under each row's plan."""
    return params.model_copy(update={"evaluate": params.evaluate.model_copy(update={"constrained": True})})


def report(
    params: Params, folder: Path, rows: Sequence[PromptRow], answered: Sequence[Answered], metrics: dict, *, title: str,
    attacks: Sequence[Outcome] = (),
) -> None:  # fmt: skip
    """Write the report of an evaluation beside the pipeline into `folder`."""
    page = render_report(
        answered, metrics, None, params.evaluate, params.run.seed, prompts=rows, attacks=attacks, title=title,
        notes=[judge_note(params.judge, params.evaluate.judge)],
    )  # fmt: skip
    (folder / REPORT).write_text(page, encoding="utf-8")


def pages(root: Path, params: Params, folder: Path, rows: Sequence[PromptRow], answered: Sequence[Answered]) -> None:
    """Audit pages of an evaluation beside the pipeline, into `folder`."""
    commit = lineage.run_tags(root, params.run.profile, "").get(lineage.PREFIX + "git.commit", "unknown")
    made = datetime.now(UTC).isoformat(timespec="minutes")
    write_audit(folder / "audit", rows, answered, Lineage(commit, params.run.profile, "beside the pipeline", made))


@contextmanager
def policy_folder(root: Path, params: Params, name: str) -> Iterator[Path]:
    """The folder of a policy, for the block."""
    if name in POLICIES:
        folder = root / MODELS / name
        if not folder.is_dir():
            raise PolicyError(f"{folder} is not there yet; make it with: saferflow run")
        yield folder
    elif Path(name).is_dir():
        yield Path(name)
    elif "/" in name:
        raise PolicyError(
            f"{name}: no such folder; name a policy's folder, {', '.join(POLICIES)}, a version as v3, or an alias"
        )
    else:
        with weights_of(version_named(params, name)) as folder:
            yield folder


def version_named(params: Params, name: str) -> registry.Version | None:
    """The registered version that a policy's name means; None where it means a policy of the pipeline or a folder.

    Raises:
        PipelineError: no such version.
    """
    if name in POLICIES or "/" in name or Path(name).is_dir():
        return None
    return registry.named(params.gate.registered_model, name)
