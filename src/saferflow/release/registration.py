"""From a gated policy to a registered version: no version twice, and no champion without both comparisons passed."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saferflow.data.rows import TABLES, Answered
from saferflow.data.sources import licence_of
from saferflow.data.tables import read_table
from saferflow.errors import PipelineError
from saferflow.evaluation.cost import Cost, cost_of, total
from saferflow.layout import CANDIDATE, EVALUATED, HAPPENED, MODELS, SCORES, VERDICT
from saferflow.params import Params
from saferflow.release import logged_model, registry, signing
from saferflow.release.card import Origin, render_card
from saferflow.release.summary import render_summary
from saferflow.release.trainings import tags_of
from saferflow.release.verdict import may_lead
from saferflow.tracking import graph, lineage, prompts, runs

MODEL = (MODELS / CANDIDATE).as_posix()
CARD = "model_card.md"
GATE_HASH = lineage.PREFIX + "gate.lock_hash"


@dataclass(frozen=True, slots=True)
class Registered:
    """The result of a registration."""

    version: registry.Version
    new: bool
    promoted: bool
    """Whether the version is the champion and was not before."""
    reason: str
    """Why the version is or is not the champion, in words."""
    waits: bool = False
    """Whether the version may lead as soon as a person agrees."""
    unchanged: bool = False
    """Whether the version was the champion before, and stays it."""


def pending(root: Path, params: Params) -> bool:
    """Whether the registry still lacks the pipeline's newest policy with its current verdict."""
    entries = graph.lock_entries(root)
    digest = graph.out_digest(entries.get(CANDIDATE, {}), MODEL)
    if digest is None or "gate" not in entries:
        return False
    version = registry.by_digest(params.gate.registered_model, digest[0])
    if version is None or version.tags.get(GATE_HASH) != graph.lock_hash(entries["gate"]):
        return True
    return version.tags.get(lineage.DIRTY) == "true" and not lineage.git_state(root)[1]  # committed since


def register(root: Path, params: Params, parent: str, stage_runs: dict[str, str], model_source: str) -> Registered:
    """Register models/grpo unless its bytes are registered already, then move the aliases as far as the verdict allows.

    Args:
        parent: the pipeline's run; it keeps the evaluated rows that later candidates are compared with.
        stage_runs: stage -> the run that made its current outputs.
        model_source: the address of the weights.

    Raises:
        PipelineError: the pipeline is not complete.
    """
    pipeline = Pipeline.read(root, params, parent, stage_runs)
    champion = registry.by_alias(params.gate.registered_model, registry.CHAMPION)
    version, new = _version(pipeline, model_source, champion)
    decision = _decision(pipeline, version, champion)
    if decision.promoted:
        registry.promote(version, decision.reason, champion.number if champion else None)
    _describe(pipeline, version, decision)
    current = registry.by_number(version.model, version.number)
    return Registered(current, new, decision.promoted, decision.reason, decision.waits, decision.unchanged)


@dataclass(frozen=True, slots=True)
class Pipeline:
    """A complete pipeline: the outputs of its stages, and the runs of the stages."""

    root: Path
    params: Params
    run: str
    """The pipeline's MLflow run."""
    stage_runs: Mapping[str, str]
    entries: Mapping[str, Any]
    """Stage -> its entry in dvc.lock."""
    digest: str
    """DVC's hash of the policy's folder."""
    verdict: Mapping[str, Any]
    """The JSON that stage `gate` wrote."""
    scores: Mapping[str, Any]
    """The JSON that stage `evaluate` wrote."""

    @classmethod
    def read(cls, root: Path, params: Params, run: str, stage_runs: Mapping[str, str]) -> "Pipeline":
        """The pipeline that a checkout holds.

        Raises:
            PipelineError: the pipeline is not complete.
        """
        entries = graph.lock_entries(root)
        digest = graph.out_digest(entries.get(CANDIDATE, {}), MODEL)
        if digest is None or not (root / VERDICT).exists():
            raise PipelineError(f"{MODEL} or {VERDICT} is not in dvc.lock; run the whole pipeline first: saferflow run")
        verdict, scores = _read_json(root / VERDICT), _read_json(root / SCORES)
        return cls(root, params, run, stage_runs, entries, digest[0], verdict, scores)

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its version: lineage, prompts, digest, evaluation."""
        tags = {
            **lineage.run_tags(self.root, self.params.run.profile, ""),
            **lineage.version_tags(self.entries, self.stage_runs),
            **prompts.register(self.params),
            **tags_of(self.entries),
            registry.MODEL_DIGEST: self.digest,
            registry.EVALUATION_RUN: self.run,
            lineage.PREFIX + "run": self.run,
            lineage.PREFIX + "gate": "passed" if self.verdict["passed"] else "failed",
        }
        return {name: value for name, value in tags.items() if value}


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a version is champion from now on, and why."""

    promoted: bool
    reason: str
    waits: bool
    unchanged: bool

    @property
    def sentence(self) -> str:
        """The decision in one sentence."""
        return f"{'Promoted' if self.promoted else 'Unchanged' if self.unchanged else 'Not promoted'}: {self.reason}."


def _version(pipeline: Pipeline, source: str, champion: registry.Version | None) -> tuple[registry.Version, bool]:
    """The candidate with the pipeline's bytes, signed where there is a key, and whether it is new."""
    model = pipeline.params.gate.registered_model
    registry.ensure_model(model)
    runs.log_artifact(pipeline.run, pipeline.root / EVALUATED)
    runs.log_artifact(pipeline.run, pipeline.root / VERDICT)
    runs.tag(pipeline.run, tags_of(pipeline.entries))
    if (incidents := pipeline.root / HAPPENED).exists():
        runs.log_artifact(pipeline.run, incidents)
    tags = pipeline.tags
    version = registry.by_digest(model, pipeline.digest)
    new = version is None
    if version is None:
        logged = logged_model.log(pipeline.root, model, pipeline.run, source, pipeline.digest)
        if champion:
            tags[lineage.PREFIX + "champion_then"] = str(champion.number)
        version = registry.register(model, source, pipeline.run, tags, logged)
    else:
        registry.retag(version, tags)
    if key := os.environ.get(signing.KEY):
        signing.sign_version(registry.by_number(model, version.number), Path(key))
    version = registry.by_number(model, version.number)
    registry.nominate(version)
    return version, new


def _decision(pipeline: Pipeline, version: registry.Version, champion: registry.Version | None) -> Decision:
    """The verdict on the candidate, and whether a person must agree."""
    allowed, reason = may_lead(pipeline.root, pipeline.params, version, champion)
    unchanged = allowed and champion is not None and champion.number == version.number
    waits = allowed and pipeline.params.gate.sign_off and not unchanged
    if waits:
        reason = f"{reason}; a person has to agree (gate.sign_off): saferflow promote {version.number}"
    return Decision(allowed and not unchanged and not waits, reason, waits, unchanged)


def _describe(pipeline: Pipeline, version: registry.Version, decision: Decision) -> None:
    """Write the card of the version, and the page, costs and scores of the pipeline's run."""
    run, scores = pipeline.run, pipeline.scores
    costs = {stage: cost_of(runs.figures(stage_run)) for stage, stage_run in pipeline.stage_runs.items()}
    runs.log_numbers(run, {"cost": asdict(total(costs))})
    card = _card(pipeline, version, decision, costs)
    runs.log_text(run, card, CARD)
    registry.describe(version, card, f"artifact `{CARD}` of run {run}")
    summary = render_summary(decision.sentence, scores, _links(run, version, pipeline.stage_runs))
    runs.tag(run, {lineage.PREFIX + "version": str(version.number), runs.NOTE: summary})
    runs.log_numbers(run, scores["policies"][CANDIDATE])
    runs.log_numbers(run, scores["intervals"][CANDIDATE])


def _card(pipeline: Pipeline, version: registry.Version, decision: Decision, costs: Mapping[str, Cost]) -> str:
    root, params = pipeline.root, pipeline.params
    commit, dirty = lineage.git_state(root)
    outs = [out for entry in pipeline.entries.values() for out in entry.get("outs", ())]
    digests = {out["path"]: out.get("md5", "") for out in outs}
    origin = Origin(version.model, version.number, commit, dirty, pipeline.run, digests)
    names = [f"{source.kind} {getattr(source, 'path', '')}".strip() for source in params.data.sources]
    sources = [(name, licence_of(source)) for name, source in zip(names, params.data.sources, strict=True)]
    counts = _read_json(root / "metrics/plan.json")
    rows = {name: counts[name] for name in TABLES if name in counts}
    answered = read_table(root / EVALUATED, Answered)
    return render_card(
        origin, params, sources, rows, pipeline.scores, pipeline.verdict, answered, decision.sentence, costs
    )


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _links(parent: str, version: registry.Version, stage_runs: Mapping[str, str]) -> list[tuple[str, str]]:
    """(text, address) of the pages that belong to a pipeline's run, within MLflow's own pages."""
    pages = f"#/experiments/{runs.experiment()}/runs"
    return [
        (f"{version.model} version {version.number}", f"#/models/{version.model}/versions/{version.number}"),
        ("model card", f"{pages}/{parent}/artifacts/{CARD}"),
        ("verdict", f"{pages}/{parent}/artifacts/{VERDICT.name}"),
        *((stage, f"{pages}/{run}") for stage, run in stage_runs.items()),
    ]
