"""Stage gate: may the GRPO policy be a champion, as far as it alone is concerned?

Reads params.yaml, data/{evaluated,incidents}.parquet, data/tables/evaluation.parquet, metrics/{curate,evaluate}.json,
reports/rollouts.jsonl.
Writes reports/gate.json, reports/report.html, metrics/gate.json.

A failed gate is a result and no error: the stage ends well, says what to look at and to try, and nothing is promoted. The
champion is compared in the flow's registration step by `compare_with_champion`, because the registry is no file that DVC could
depend on.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from saferflow.data.origins import GUESSED
from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.data.tables import atomic, read_table
from saferflow.errors import DataError
from saferflow.evaluation.advice import Advice, advise, forgot_most
from saferflow.evaluation.benchmarks import benchmark_scores, known, to_dict
from saferflow.evaluation.gate import Verdict, against_base, against_champion, training_note, ungraded
from saferflow.evaluation.incidents import against_incidents
from saferflow.evaluation.intervals import paired
from saferflow.evaluation.judges import judge_note, shared
from saferflow.evaluation.measures import by_policy, scores
from saferflow.evaluation.remedies import Facts
from saferflow.evaluation.report import Step, render_report
from saferflow.evaluation.trainings import Pair
from saferflow.layout import BASE, CANDIDATE, EVALUATED, EVALUATION, HAPPENED, REPORT, ROLLOUTS, SCORES, VERDICT
from saferflow.params import Params, load_params
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_json, write_metrics

CURATED = Path("metrics/curate.json")


def main() -> None:
    """Run the stage."""
    params = load_params()
    asked = read_table(EVALUATION, PromptRow)
    answered = counted(read_table(EVALUATED, Answered), asked)
    metrics = json.loads(SCORES.read_text(encoding="utf-8"))
    verdict = with_incidents(judge_candidate(answered, params), read_table(HAPPENED, Answered), params)
    advice = advice_on(verdict, answered, json.loads(CURATED.read_text(encoding="utf-8")), params)
    write_json(VERDICT, verdict.to_dict() | {"advice": advice.to_dict() if advice else None})
    page = render_report(
        answered, metrics, verdict, params.evaluate, params.run.seed, advice=advice, prompts=asked, steps=steps(ROLLOUTS),
        notes=[judge_note(params.judge, params.evaluate.judge)],
    )  # fmt: skip
    with atomic(REPORT) as partial:
        partial.write_text(page, encoding="utf-8")
    passed = sum(check.passed for check in verdict.checks)
    counts = {"passed": int(verdict.passed), "checks_passed": passed, "checks": len(verdict.checks)}
    shortfalls = {"failed": advice.figures()} if advice else {}
    write_metrics("gate", counts | shortfalls | on_benchmarks(answered, asked, params))


def counted(answered: Sequence[Answered], asked: Sequence[PromptRow]) -> list[Answered]:
    """The answers to rows whose labels are no guesses of the rule planner; others count for and against nobody."""
    guessed = {row.id for row in asked if Labels.from_json(row.labels).label_source == GUESSED}
    return [one for one in answered if one.row not in guessed]


def on_benchmarks(answered: Sequence[Answered], asked: Sequence[PromptRow], params: Params) -> dict:
    """`benchmarks`: policy -> benchmark -> figure -> percent; nothing where no published benchmark is among the rows."""
    source = {row.id: row.source for row in asked}
    if not known(source.values()):
        return {}
    options = {"resamples": params.evaluate.resamples, "level": params.evaluate.level, "seed": params.run.seed}
    return {"benchmarks": to_dict(benchmark_scores(by_policy(answered), source, **options))}


def steps(rollouts: Path) -> list[Step]:
    """The mean reward of each step of GRPO, and the share of its rollouts that kept the protocol.

    A rollout that the judge gave no marks has no reward; a step without any reward is left out.
    """
    drawn: dict[int, list[tuple[float | None, bool]]] = {}
    for line in rollouts.read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        drawn.setdefault(told["step"], []).append((told["reward"], told["violations"] == []))
    rewards = {number: [reward for reward, _ in each if reward is not None] for number, each in drawn.items()}
    return [
        Step(number + 1, fmean(rewards[number]), fmean(valid for _, valid in each))
        for number, each in sorted(drawn.items())
        if rewards[number]
    ]


def judge_candidate(answered: Sequence[Answered], params: Params) -> Verdict:
    """The floors, and more safety than the base policy.

    Raises:
        DataError: the candidate or the base policy answered nothing.
    """
    groups = by_policy(answered)
    if missing := [policy for policy in (CANDIDATE, BASE) if policy not in groups]:
        raise DataError(f"{EVALUATED}: no rows of policy {' and '.join(missing)}; run stage evaluate")
    options = {"resamples": params.evaluate.resamples, "level": params.gate.level, "seed": params.run.seed}
    differences = paired(groups[CANDIDATE], groups[BASE], **options)
    verdict = against_base(scores(groups[CANDIDATE]), scores(groups[BASE]), differences, params.gate)
    return Verdict((*verdict.checks, *ungraded(groups[CANDIDATE])), (*notes_of(params), training_note()))


def with_incidents(verdict: Verdict, again: Sequence[Answered], params: Params) -> Verdict:
    """A verdict with the check on incidents, where there are any and `gate.regressions` asks.

    Args:
        again: the candidate's answers to the incidents.
    """
    if not again or params.gate.regressions is None:
        return verdict
    return Verdict((*verdict.checks, against_incidents(again, params.gate.regressions)), verdict.notes)


def notes_of(params: Params) -> tuple[str, ...]:
    """What a verdict does not say by its checks: that the judge of the training graded the candidate."""
    return (judge_note(params.judge, params.evaluate.judge),) if shared(params.judge, params.evaluate.judge) else ()


def advice_on(verdict: Verdict, answered: Sequence[Answered], curated: dict, params: Params) -> Advice | None:
    """What to look at and to try; None where the verdict passed.

    Args:
        curated: the figures of stage `curate`.
    """
    groups = by_policy(answered)
    facts = Facts(curated.get("kept"), curated.get("kept_harmless"), forgot_most(groups))
    return advise(verdict, groups[CANDIDATE], groups[BASE], params, facts, against=BASE)


def compare_with_champion(
    candidate: Sequence[Answered],
    champion: Sequence[Answered],
    params: Params,
    mended: Sequence[str] = (),
    pairs: Mapping[int, Pair] | None = None,
) -> Verdict:
    """The candidate's rows against the champion's rows, one policy on either side whatever its name.

    Args:
        mended: incidents that the candidate answers rightly and the champion did not.
        pairs: seed -> the trainings of both recipes with it.
    """
    options = {"resamples": params.evaluate.resamples, "seed": params.run.seed}
    verdict = against_champion(candidate, champion, params.gate, mended=mended, pairs=pairs, **options)
    return Verdict(verdict.checks, (*verdict.notes, *notes_of(params)))


if __name__ == "__main__":
    run_stage(main)
