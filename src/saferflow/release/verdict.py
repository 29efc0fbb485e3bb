"""The verdict on a registered version: whether it may lead, by the gate's floors, its lineage, its signature and the champion."""

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table
from saferflow.errors import PipelineError
from saferflow.evaluation.advice import advise
from saferflow.evaluation.gate import Verdict, against_attacks, other_judge, regressed
from saferflow.evaluation.grading import grade, item, picture
from saferflow.evaluation.incidents import mended
from saferflow.evaluation.intervals import unmatched
from saferflow.evaluation.remedies import Facts
from saferflow.evaluation.report import render_report
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.evaluation.trainings import Pair
from saferflow.judge.choice import grader_of
from saferflow.layout import CANDIDATE, EVALUATED, HAPPENED, VERDICT
from saferflow.params import Params
from saferflow.release import registry, signing
from saferflow.release.attacks import attack_verdict
from saferflow.release.registry import COMPARISON
from saferflow.release.trainings import RECIPE, trainings_of
from saferflow.release.weights import weights_of
from saferflow.stages.evaluate import TABLE
from saferflow.stages.gate import CURATED, compare_with_champion
from saferflow.tracking import lineage, runs

PAGE = "champion.html"
STAGES = ("plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate", "gate")
"""The stages behind every version; `base` has no run if the policy starts from a published checkpoint."""


def may_lead(
    root: Path, params: Params, version: registry.Version, champion: registry.Version | None, *, keep: bool = True
) -> tuple[bool, str]:
    """Whether a version may lead, and why in words; with `keep`, its run stores the comparison with the champion and a page.

    Rows graded by a different judge are graded again by the evaluation's judge, if the checkout's held-out table has them.

    Raises:
        PipelineError: the version's evaluation is missing.
    """
    rival = None if champion is None or champion.number == version.number else champion
    comparison, seeds = _compared(root, params, version, rival, keep=keep) if rival else (None, [])
    if obstacle := next(_obstacles(root, params, version), None):
        return False, obstacle
    if champion is None:
        return True, "every floor is met, and there was no champion to compare with"
    if comparison is None:
        return True, "it is the champion already"
    if not comparison.passed:
        failed = ", ".join(check.name for check in comparison.checks if not check.passed)
        return False, f"not better than champion version {champion.number}: {failed}"
    basis = f"trainings with seeds {', '.join(map(str, seeds))} and rows" if len(seeds) > 1 else "rows of one training a side"
    return True, f"better than version {champion.number}, the champion before, over {basis}"


def _obstacles(root: Path, params: Params, version: registry.Version) -> Iterator[str]:
    """Reasons why a version may not lead, whatever the champion is; the costly checks last."""
    verdict = gate_verdict(version)
    if not verdict["passed"]:
        failed = ", ".join(check["name"] for check in verdict["checks"] if not check["passed"])
        yield f"the gate's floors are not met: {failed}"
    if gaps := lineage.missing(version.tags, STAGES, clean_tree=params.gate.clean_tree):
        yield f"its lineage is not whole: {'; '.join(gaps)}"
    if params.gate.public_key:
        try:
            with weights_of(version) as weights:
                signing.verify_version(version, weights, root / params.gate.public_key)
        except PipelineError as error:
            yield f"its signature does not hold: {error}"
    if params.gate.trainings > 1 and (count := len(trainings_of(version)) or 1) < params.gate.trainings:
        yield (
            f"its recipe was trained with {count} of the {params.gate.trainings} seeds that gate.trainings wants: "
            "saferflow run --set run.seed=N"
        )
    if params.gate.attacks is not None:
        checks = attack_verdict(version, params.gate.attacks).checks
        if failed := [f"{check.name}: {check.detail}" for check in checks if not check.passed]:
            yield f"gate.attacks: {'; '.join(failed)}"


def _compared(
    root: Path, params: Params, version: registry.Version, champion: registry.Version, *, keep: bool
) -> tuple[Verdict, list[int]]:
    """Compare a version with the champion; with `keep`, the version's run stores the result as JSON and as a page.

    Returns:
        The verdict, and the seeds with which both recipes were trained.
    """
    regrade = by_one_judge(root, params)
    candidate, leading = regrade(answers_of(version)), regrade(answers_of(champion))
    pairs, left_out = _pairs(version, champion, candidate, leading, regrade)
    comparison = compare_with_champion(candidate, leading, params, _mended(version, champion), pairs)
    comparison = replace(comparison, notes=(*comparison.notes, *left_out))
    repeated: list[Answered] = []
    if params.gate.regressions is not None:
        former = [regrade(rows) for rows in _former(version.model)]
        attacks = against_attacks(candidate, leading, former, params.gate.regressions)
        comparison = replace(comparison, checks=(*comparison.checks, attacks))
        repeated = regressed(candidate, leading, former)
    if not keep:
        return comparison, list(pairs)
    advice = advise(comparison, candidate, leading, params, _facts(root), against=registry.CHAMPION, regressed=repeated)
    run = version.tags[registry.EVALUATION_RUN]
    kept = {**comparison.to_dict(), "champion": champion.number, "advice": advice.to_dict() if advice else None}
    runs.log_text(run, json.dumps(kept, indent=2), COMPARISON)
    if not unmatched(candidate, leading):
        names = {f"champion v{champion.number}": leading, f"candidate v{version.number}": candidate}
        rows = [replace(row, policy=name) for name, answers in names.items() for row in answers]
        metrics = evaluate_metrics(rows, params.evaluate, params.run.seed)
        title = f"{version.model}: {' and '.join(names)}"
        page = render_report(
            rows,
            metrics,
            comparison,
            params.evaluate,
            params.run.seed,
            advice=advice,
            title=title,
            notes=comparison.notes,
        )
        runs.log_text(run, page, PAGE)
    return comparison, list(pairs)


def _pairs(
    version: registry.Version,
    champion: registry.Version,
    candidate: Sequence[Answered],
    leading: Sequence[Answered],
    regrade: Callable[[Sequence[Answered]], list[Answered]],
) -> tuple[dict[int, Pair], list[str]]:
    """Seed -> the trainings of both recipes with it, and sentences about those that cannot be compared.

    Args:
        candidate: the version's answers, graded by the judge that all pairs must have; `leading` are the champion's.

    Raises:
        PipelineError: MLflow has a training and not its answers; without it, the test would be weaker than it looks.
    """
    ours, theirs = trainings_of(version), trainings_of(champion)
    if ours and version.tags[RECIPE] == champion.tags.get(RECIPE):
        return {}, ["Candidate and champion are trainings of one recipe: what sets them apart is the luck of training."]
    read = {version.tags[registry.EVALUATION_RUN]: candidate, champion.tags[registry.EVALUATION_RUN]: leading}
    pairs, left_out = {}, []
    for seed in sorted(ours.keys() & theirs.keys()):
        try:
            pair = tuple(read[run] if run in read else regrade(_answers(run)) for run in (ours[seed], theirs[seed]))
        except PipelineError as error:
            raise PipelineError(f"the trainings with seed {seed}: {error}; delete the run if its answers are gone") from None
        if strangers := unmatched(*pair):
            why = f"they answered different rows, among them {strangers[0]}"
        elif any(other_judge(side, candidate) for side in pair):
            why = "another judge graded them"
        else:
            pairs[seed] = pair
            continue
        left_out.append(f"The trainings with seed {seed} are left out: {why}.")
    return pairs, left_out


def _mended(version: registry.Version, champion: registry.Version) -> list[str]:
    """The champion's incidents that a version answers rightly; none where either's answers to incidents were not kept."""
    sides = [_incident_answers(version), _incident_answers(champion)]
    return [] if None in sides else mended(*sides)


def _incident_answers(version: registry.Version) -> list[Answered] | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return read_table(_fetched(version, HAPPENED.name, Path(folder)), Answered)
        except PipelineError:  # it was registered before they were kept
            return None


def _facts(root: Path) -> Facts:
    """How many rows this checkout's curation kept; None in each field if it has not run."""
    file = root / CURATED
    curated = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return Facts(curated.get("kept"), curated.get("kept_harmless"))


def by_one_judge(root: Path, params: Params) -> Callable[[Sequence[Answered]], list[Answered]]:
    """A function that has the evaluation's judge grade rows of other judges again; rows whose question is missing here stay."""
    judge = grader_of(params.evaluate.judge)
    table = root / TABLE
    prompts = {row.id: row for row in read_table(table, PromptRow)} if table.exists() else {}

    def regrade(rows: Sequence[Answered]) -> list[Answered]:
        others = {
            row.row: prompts[row.row]
            for row in rows
            if row.judge != judge.identity and row.row in prompts and picture(prompts[row.row]) == row.image
        }
        judge.prepare("grade", [item(others[row.row], row.completion) for row in rows if row.row in others])
        return [grade(others[row.row], row.policy, row.completion, judge) if row.row in others else row for row in rows]

    return regrade


def _former(model: str) -> list[list[Answered]]:
    """The answered rows of every past and present champion, one list per champion."""
    lines, _ = registry.history(model)
    numbers = {number for line in lines for number in line.moves.get(registry.CHAMPION, ()) if number is not None}
    return [answers_of(registry.by_number(model, number)) for number in sorted(numbers)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A version, and whether it may lead."""

    version: registry.Version
    champion: registry.Version | None
    """The champion at the time of the judgement."""
    allowed: bool
    reason: str

    @property
    def summary(self) -> str:
        """Model, version and reason in one line."""
        return f"{self.version.model} version {self.version.number}: {self.reason}"


def judged(root: Path, params: Params, number: int | None, *, keep: bool = True) -> Judged:
    """Judge a version (the candidate if none is named) by the gate and against the champion; `keep` as in `may_lead`.

    Raises:
        PipelineError: there is no such version, or no candidate.
    """
    model = params.gate.registered_model
    version = _candidate(model) if number is None else registry.by_number(model, number)
    champion = registry.by_alias(model, registry.CHAMPION)
    return Judged(version, champion, *may_lead(root, params, version, champion, keep=keep))


def lead(judgement: Judged, reason: str) -> None:
    """Make a judged version the champion; its bytes and the champion must be those of the judgement.

    Raises:
        PipelineError: its weights have changed, or another version has become champion since.
    """
    with weights_of(judgement.version):
        registry.promote(judgement.version, reason, judgement.champion.number if judgement.champion else None)


def _candidate(model: str) -> registry.Version:
    version = registry.by_alias(model, registry.CANDIDATE)
    if version is None:
        raise PipelineError(f"{model} has no candidate; run saferflow run, or name a version")
    return version


def gate_verdict(version: registry.Version) -> dict[str, Any]:
    """The verdict of stage `gate` on a version, as the stage wrote it.

    Raises:
        PipelineError: the version's evaluation is missing.
    """
    return json.loads(artifact_of(version, VERDICT.name))


def answers_of(version: registry.Version) -> list[Answered]:
    """The version's answered rows of its evaluation."""
    return _answers(_evaluation_run(version))


def _answers(run: str) -> list[Answered]:
    with tempfile.TemporaryDirectory() as folder:
        path = runs.fetch_artifact(run, EVALUATED.name, Path(folder))
        return [row for row in read_table(path, Answered) if row.policy == CANDIDATE]


def artifact_of(version: registry.Version, name: str) -> str:
    """A text artifact of the version's evaluation run."""
    with tempfile.TemporaryDirectory() as folder:
        return _fetched(version, name, Path(folder)).read_text(encoding="utf-8")


def _fetched(version: registry.Version, name: str, folder: Path) -> Path:
    return runs.fetch_artifact(_evaluation_run(version), name, folder)


def _evaluation_run(version: registry.Version) -> str:
    run = version.tags.get(registry.EVALUATION_RUN)
    if run is None:
        raise PipelineError(
            f"{version.model} version {version.number} has no tag {registry.EVALUATION_RUN}, so nothing says how it was "
            "evaluated; only versions that saferflow run registered can be judged"
        )
    return run
