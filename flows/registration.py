"""From a gated policy to a registered version: no version twice, and no champion without both comparisons passed."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from saferflow.cli.promotion import may_lead
from saferflow.data.rows import TABLES, Answered
from saferflow.data.sources import licence_of
from saferflow.data.tables import read_table
from saferflow.errors import PipelineError
from saferflow.evaluation.card import Origin, render_card
from saferflow.evaluation.cost import Cost, cost_of, total
from saferflow.evaluation.summary import render_summary
from saferflow.params import Params
from saferflow.tracking import graph, lineage, logged_model, prompts, registry, runs, signing

MODEL = "models/grpo"
POLICY = "grpo"
EVALUATED = "data/evaluated.parquet"
VERDICT = "reports/gate.json"
SCORES = "metrics/evaluate.json"
CARD = "model_card.md"
GATE_HASH = lineage.PREFIX + "gate.lock_hash"


@dataclass(frozen=True, slots=True)
class Registered:
    """What registration did."""

    version: registry.Version
    new: bool
    promoted: bool
    """Whether the version is the champion and was not before."""
    reason: str
    """Why the version is or is not the champion, in words."""
    waits: bool = False
    """Whether it may lead as soon as a person agrees."""
    unchanged: bool = False
    """Whether it was the champion before, and stays it."""


def pending(root: Path, params: Params) -> bool:
    """Whether the policy that the pipeline last made, with the verdict it has now, is not in the registry yet."""
    entries = graph.lock_entries(root)
    digest = graph.out_digest(entries.get("grpo", {}), MODEL)
    if digest is None or "gate" not in entries:
        return False
    version = registry.by_digest(params.gate.registered_model, digest[0])
    if version is None or version.tags.get(GATE_HASH) != graph.lock_hash(entries["gate"]):
        return True
    return version.tags.get(lineage.DIRTY) == "true" and not lineage.git_state(root)[1]  # committed since


def register(root: Path, params: Params, parent: str, stage_runs: dict[str, str], model_source: str) -> Registered:
    """Register models/grpo unless its bytes are registered already, then move the aliases as far as the verdicts allow.

    Args:
        parent: the pipeline's run; it keeps the evaluated rows that later candidates are compared with.
        stage_runs: stage -> the run that made its current outputs.
        model_source: where the weights can be read from.

    Raises:
        PipelineError: the pipeline is not complete.
    """
    entries = graph.lock_entries(root)
    digest = graph.out_digest(entries.get("grpo", {}), MODEL)
    if digest is None or not (root / VERDICT).exists():
        raise PipelineError(f"{MODEL} or {VERDICT} is not in dvc.lock; run the whole pipeline first: saferflow run")
    verdict = json.loads((root / VERDICT).read_text(encoding="utf-8"))
    model = params.gate.registered_model
    registry.ensure_model(model)
    runs.log_artifact(parent, root / EVALUATED)
    runs.log_artifact(parent, root / VERDICT)
    tags = {
        **lineage.run_tags(root, params.run.profile, ""),
        **lineage.version_tags(entries, stage_runs),
        **prompts.register(params),
        registry.MODEL_DIGEST: digest[0],
        registry.EVALUATION_RUN: parent,
        lineage.PREFIX + "run": parent,
        lineage.PREFIX + "gate": "passed" if verdict["passed"] else "failed",
    }
    tags = {name: value for name, value in tags.items() if value}
    version = registry.by_digest(model, digest[0])
    new = version is None
    champion = registry.by_alias(model, registry.CHAMPION)
    if new:
        logged = logged_model.log(root, model, parent, model_source, digest[0])
        version = registry.register(model, model_source, parent, _with_parents(tags, champion), logged)
    else:
        registry.retag(version, tags)
        version = registry.by_number(model, version.number)
    if key := os.environ.get(signing.KEY):
        signing.sign_version(version, Path(key))
        version = registry.by_number(model, version.number)
    registry.nominate(version)
    allowed, reason = may_lead(root, params, version, champion)
    unchanged = allowed and champion is not None and champion.number == version.number
    waits = allowed and params.gate.sign_off and not unchanged
    if waits:
        allowed, reason = False, f"{reason}; a person has to agree (gate.sign_off): saferflow promote {version.number}"
    promoted = allowed and not unchanged
    if promoted:
        registry.promote(version, reason, champion.number if champion else None)
    told = f"{'Promoted' if promoted else 'Unchanged' if unchanged else 'Not promoted'}: {reason}."
    costs = {stage: cost_of(runs.figures(run)) for stage, run in stage_runs.items()}
    runs.log_numbers(parent, {"cost": asdict(total(costs))})
    card = _card(root, params, entries, parent, version, verdict, told, costs)
    runs.log_text(parent, card, CARD)
    registry.describe(version, card, f"artifact `{CARD}` of run {parent}")
    scores = json.loads((root / SCORES).read_text(encoding="utf-8"))
    summary = render_summary(told, scores, _links(parent, version, stage_runs))
    runs.tag(parent, {lineage.PREFIX + "version": str(version.number), runs.NOTE: summary})
    runs.log_numbers(parent, scores["policies"][POLICY])
    runs.log_numbers(parent, scores["intervals"][POLICY])
    return Registered(registry.by_digest(model, digest[0]), new, promoted, reason, waits, unchanged)


def _card(
    root: Path,
    params: Params,
    entries: dict,
    parent: str,
    version: registry.Version,
    verdict: dict,
    told: str,
    costs: dict[str, Cost],
) -> str:
    commit, dirty = lineage.git_state(root)
    digests = {out["path"]: out.get("md5", "") for entry in entries.values() for out in entry.get("outs", ())}
    origin = Origin(version.model, version.number, commit, dirty, parent, digests)
    named = [f"{source.kind} {getattr(source, 'path', '')}".strip() for source in params.data.sources]
    sources = [(name, licence_of(source)) for name, source in zip(named, params.data.sources, strict=True)]
    scores = json.loads((root / SCORES).read_text(encoding="utf-8"))
    plan = json.loads((root / "metrics/plan.json").read_text(encoding="utf-8"))
    rows = {name: plan[name] for name in TABLES if name in plan}
    answered = read_table(root / EVALUATED, Answered)
    return render_card(origin, params, sources, rows, scores, verdict, answered, told, costs)


def _links(parent: str, version: registry.Version, stage_runs: dict[str, str]) -> list[tuple[str, str]]:
    """(text, address) of the pages that belong to a pipeline's run, within MLflow's own pages."""
    pages = f"#/experiments/{runs.experiment()}/runs"
    return [
        (f"{version.model} version {version.number}", f"#/models/{version.model}/versions/{version.number}"),
        ("model card", f"{pages}/{parent}/artifacts/{CARD}"),
        ("verdict", f"{pages}/{parent}/artifacts/{Path(VERDICT).name}"),
        *((stage, f"{pages}/{run}") for stage, run in stage_runs.items()),
    ]


def _with_parents(tags: dict[str, str], champion: registry.Version | None) -> dict[str, str]:
    return tags | ({lineage.PREFIX + "champion_then": str(champion.number)} if champion else {})
