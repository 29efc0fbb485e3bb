"""Whether a registered version may lead, and `saferflow promote`, `rollback` and `ledger`."""

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli import show
from saferflow.cli.attack_record import attack_verdict
from saferflow.cli.show import COMPARISON
from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table
from saferflow.errors import PipelineError
from saferflow.evaluation.advice import advise
from saferflow.evaluation.gate import Verdict, against_attacks, regressed
from saferflow.evaluation.grading import grade, item, picture
from saferflow.evaluation.intervals import unmatched
from saferflow.evaluation.remedies import Facts
from saferflow.evaluation.report import render_report
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.judge.choice import grader_of
from saferflow.params import Params
from saferflow.stages.evaluate import TABLE
from saferflow.stages.gate import CANDIDATE, CURATED, EVALUATED, VERDICT, compare_with_champion
from saferflow.tracking import lineage, registry, runs, signing
from saferflow.tracking.weights import weights_of

PAGE = "champion.html"
STAGES = ("plan", "validate", "sft", "dpo", "curate", "grpo", "evaluate", "gate")
"""Behind every version; `base` is not, where the policy starts from a published checkpoint."""


def may_lead(
    root: Path, params: Params, version: registry.Version, champion: registry.Version | None, *, keep: bool = True
) -> tuple[bool, str]:
    """The verdicts on a version, and why in words; the comparison with the champion and its page are kept in its run, if `keep`.

    What another judge than the evaluation's graded is graded anew, where the checkout's held-out table has its rows.

    Raises:
        PipelineError: the version's evaluation is nowhere to be found.
    """
    verdict = json.loads(_artifact(version, VERDICT.name))
    rival = None if champion is None or champion.number == version.number else champion
    comparison = _compared(root, params, version, rival, keep=keep) if rival else None
    if not verdict["passed"]:
        failed = ", ".join(check["name"] for check in verdict["checks"] if not check["passed"])
        return False, f"the gate's floors are not met: {failed}"
    if gaps := lineage.missing(version.tags, STAGES, clean_tree=params.gate.clean_tree):
        return False, f"its lineage is not whole: {'; '.join(gaps)}"
    if params.gate.public_key:
        try:
            with weights_of(version) as held:
                signing.verify_version(version, held, root / params.gate.public_key)
        except PipelineError as error:
            return False, f"its signature does not hold: {error}"
    if params.gate.attacks is not None:
        attacked = attack_verdict(version, params.gate.attacks)
        if not attacked.passed:
            return False, f"gate.attacks: {'; '.join(f'{one.name}: {one.detail}' for one in attacked.checks if not one.passed)}"
    if champion is None:
        return True, "every floor is met, and there was no champion to compare with"
    if comparison is None:
        return True, "it is the champion already"
    if not comparison.passed:
        failed = ", ".join(check.name for check in comparison.checks if not check.passed)
        return False, f"not better than champion version {champion.number}: {failed}"
    return True, f"better than version {champion.number}, the champion before"


def _compared(
    root: Path, params: Params, version: registry.Version, champion: registry.Version, *, keep: bool
) -> Verdict:
    alike = by_one_judge(root, params)
    candidate, leading = alike(answers_of(version)), alike(answers_of(champion))
    comparison = compare_with_champion(candidate, leading, params)
    again: list[Answered] = []
    if params.gate.regressions is not None:
        former = [alike(rows) for rows in _former(version.model)]
        attacks = against_attacks(candidate, leading, former, params.gate.regressions)
        comparison = Verdict((*comparison.checks, attacks), comparison.notes)
        again = regressed(candidate, leading, former)
    if not keep:
        return comparison
    advice = advise(comparison, candidate, leading, params, _facts(root), against=registry.CHAMPION, regressed=again)
    run = version.tags[registry.EVALUATION_RUN]
    kept = {**comparison.to_dict(), "champion": champion.number, "advice": advice.to_dict() if advice else None}
    runs.log_text(run, json.dumps(kept, indent=2), COMPARISON)
    if not unmatched(candidate, leading):
        names = {f"champion v{champion.number}": leading, f"candidate v{version.number}": candidate}
        rows = [replace(row, policy=name) for name, each in names.items() for row in each]
        metrics = evaluate_metrics(rows, params.evaluate, params.run.seed)
        title = f"{version.model}: {' and '.join(names)}"
        page = render_report(
            rows, metrics, comparison, params.evaluate, params.run.seed, advice=advice, title=title, notes=comparison.notes
        )
        runs.log_text(run, page, PAGE)
    return comparison


def _facts(root: Path) -> Facts:
    """What this checkout's curation kept, where it ran."""
    file = root / CURATED
    curated = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return Facts(curated.get("kept"), curated.get("kept_harmless"))


def by_one_judge(root: Path, params: Params) -> Callable[[Sequence[Answered]], list[Answered]]:
    """Grades anew, by the evaluation's judge, what another one graded; rows whose question is not here stay as they are."""
    judge = grader_of(params.evaluate.judge)
    table = root / TABLE
    asked = {row.id: row for row in read_table(table, PromptRow)} if table.exists() else {}

    def alike(rows: Sequence[Answered]) -> list[Answered]:
        others = {
            row.row: asked[row.row]
            for row in rows
            if row.judge != judge.identity and row.row in asked and picture(asked[row.row]) == row.image
        }
        judge.prepare("grade", [item(others[row.row], row.completion) for row in rows if row.row in others])
        return [grade(others[row.row], row.policy, row.completion, judge) if row.row in others else row for row in rows]

    return alike


def _former(model: str) -> list[list[Answered]]:
    """The rows of every champion that there has been."""
    lines, _ = registry.history(model)
    numbers = {number for line in lines for number in line.moves.get(registry.CHAMPION, ()) if number is not None}
    return [answers_of(registry.by_number(model, number)) for number in sorted(numbers)]


@dataclass(frozen=True, slots=True)
class Judged:
    """A version, and whether it may lead."""

    version: registry.Version
    champion: registry.Version | None
    """Whom it was compared with."""
    allowed: bool
    reason: str

    @property
    def told(self) -> str:
        return f"{self.version.model} version {self.version.number}: {self.reason}"


def judged(root: Path, params: Params, number: int | None, *, keep: bool = True) -> Judged:
    """A version, the candidate where none is named, under the gate and against the champion; `keep` as in `may_lead`."""
    model = params.gate.registered_model
    version = _candidate(model) if number is None else registry.by_number(model, number)
    champion = registry.by_alias(model, registry.CHAMPION)
    return Judged(version, champion, *may_lead(root, params, version, champion, keep=keep))


def lead(one: Judged, reason: str) -> None:
    """Make a version the champion: what is to lead is what was judged, to the byte, and against the same champion."""
    with weights_of(one.version):
        registry.promote(one.version, reason, one.champion.number if one.champion else None)


def promote(console: Console, root: Path, params: Params, number: int | None, *, dry_run: bool) -> bool:
    """Judge a version, the candidate where none is named, and make it the champion if it may be; says what and why.

    Returns:
        Whether it is the champion, or would be.
    """
    one = judged(root, params, number, keep=not dry_run)
    print_judged(console, one)
    if not one.allowed:
        console.print("nothing was moved")
        return False
    if dry_run:
        signed = ", once somebody signs it off (gate.sign_off)" if params.gate.sign_off else ""
        console.print(f"it would be made {registry.CHAMPION}{signed}; nothing was moved (--dry-run)")
        return True
    lead(one, one.reason)
    console.print(show.version_line(one.version.model))
    return True


def print_judged(console: Console, one: Judged) -> None:
    """The gate's checks, and what they come to."""
    for line in show.verdict_lines(json.loads(_artifact(one.version, VERDICT.name))):
        console.print(line)
    console.print(one.told)


def rollback(console: Console, params: Params, reason: str, *, dry_run: bool) -> None:
    """Make the previous champion the champion again."""
    model = params.gate.registered_model
    if dry_run:
        champion, previous = registry.by_alias(model, registry.CHAMPION), registry.by_alias(model, registry.PREVIOUS)
        if champion is None or previous is None:
            raise PipelineError(f"{model} has no champion and previous version, so there is nothing to go back to")
        console.print(f"version {previous.number} would take the place of version {champion.number}; nothing was moved")
        return
    now, before = registry.rollback(model, reason)
    console.print(f"{model}: version {now.number} is champion again, in the place of version {before.number}")


def history(console: Console, model: str) -> None:
    """All changes of aliases, after finishing one that was cut short; a damaged ledger is an error."""
    lines, astray = registry.history(model)
    if not lines:
        console.print(f"no alias of {model} has been moved yet")
        return
    count = "1 line" if len(lines) == 1 else f"{len(lines)} lines, each follows the one before it"
    table = Table(title=count, title_justify="left", box=None)
    for heading in ("time", "alias", "from", "to", "by", "why"):
        table.add_column(heading)
    for line in lines:
        for number, (alias, versions) in enumerate(line.moves.items()):
            told = [str(version) if version else "-" for version in versions]
            first = number == 0
            table.add_row(
                line.time if first else "", alias, *told, line.by if first else "", Text(line.reason if first else "")
            )
    console.print(table)
    for alias, (told, held) in astray.items():
        where = f"to version {held}" if held else "to none"
        console.print(
            Text(f"{alias} points {where}, and the ledger says version {told}: it was moved by hand", "yellow")
        )


def _candidate(model: str) -> registry.Version:
    found = registry.by_alias(model, registry.CANDIDATE)
    if found is None:
        raise PipelineError(f"{model} has no candidate; run saferflow run, or name a version")
    return found


def answers_of(version: registry.Version) -> list[Answered]:
    """What a version answered on the rows that it was judged by."""
    with tempfile.TemporaryDirectory() as folder:
        path = _fetched(version, EVALUATED.name, Path(folder))
        return [row for row in read_table(path, Answered) if row.policy == CANDIDATE]


def _artifact(version: registry.Version, name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _fetched(version, name, Path(folder)).read_text(encoding="utf-8")


def _fetched(version: registry.Version, name: str, folder: Path) -> Path:
    run = version.tags.get(registry.EVALUATION_RUN)
    if run is None:
        raise PipelineError(
            f"{version.model} version {version.number} has no tag {registry.EVALUATION_RUN}, so nothing says how it was "
            "evaluated; only versions that saferflow run registered can be judged"
        )
    return runs.fetch_artifact(run, name, folder)
