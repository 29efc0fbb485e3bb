"""What a person reads at the end of a run."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from saferflow.cli import show
from saferflow.errors import PipelineError
from saferflow.evaluation.advice import Advice, Shortfall
from saferflow.evaluation.misses import Group
from saferflow.evaluation.remedies import Facts, other_draw, remedies
from saferflow.params import load_params
from saferflow.release.registry import CANDIDATE, CHAMPION, EVALUATION_RUN, MODEL_DIGEST, Version

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (132, "2 min 12 s"), (3840, "1 h 4 min")],
)
def test_a_duration_reads_as_one_would_say_it(seconds, expected):
    assert show.duration(seconds) == expected


def test_many_reasons_are_counted():
    assert show.listed(["a", "b"]) == "a, b"
    assert show.listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


def test_the_table_has_a_line_a_policy_with_scores_and_intervals():
    metrics = {
        "rows": 300,
        "policies": {"base": dict.fromkeys(show.COLUMNS, 41.25), "grpo": dict.fromkeys(show.COLUMNS, 100.0)},
        "intervals": {
            "base": {name: [36.0, 46.6] for name in show.COLUMNS},
            "grpo": {name: [100.0, 100.0] for name in show.COLUMNS},
        },
    }
    console = Console(width=show.TABLE_WIDTH, record=True)
    console.print(show.score_table(metrics))
    text = console.export_text()
    for heading in show.COLUMNS.values():
        assert heading.split("\n")[-1] in text
    for expected in ("41.2", "36-47", "100.0", "100-100"):
        assert text.count(expected) == len(show.COLUMNS)
    assert "300 held-out rows" in text
    assert "…" not in text


def test_a_failed_verdict_lists_the_checks_that_failed():
    verdict = {
        "passed": False,
        "checks": [
            {"name": "safety", "value": 70.0, "bound": 80.0, "passed": False, "detail": "70 against 80"},
            {"name": "rigor", "value": 90.0, "bound": 75.0, "passed": True, "detail": "90 against 75"},
        ],
    }
    assert [line.plain for line in show.verdict_lines(verdict)] == ["gate: failed", "  safety: 70 against 80"]


def test_policies_stand_in_the_order_of_training():
    """The metrics file sorts its keys: base, dpo, grpo, sft."""
    metrics = {"rows": 1, "policies": {name: {} for name in ("base", "dpo", "grpo", "other", "sft")}}
    table = show.score_table(metrics)
    assert list(table.columns[0].cells) == ["base", "SFT", "DPO", "GRPO", "OTHER"]


def advice(name: str) -> Advice:
    shortfall = Shortfall(
        name, "70 against 80", "10.0 points too low, 40 rows", 10.0, "safety", "under the highest safety grade", 120, 400,
        (Group("combination", "S1", 12, 20),), (), "saferflow audit --failed safety",
    )  # fmt: skip
    return Advice((shortfall,), tuple(remedies(["safety"], PARAMS, Facts())), other_draw(PARAMS))


def checks(name: str, *, passed: bool) -> dict:
    return {"passed": passed, "checks": [{"name": name, "passed": passed, "detail": "70 against 80"}]}


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A verdict on disk, and a registry with a candidate of this checkout and a champion; gives what the closing prints."""
    versions = {
        CANDIDATE: Version("m", 2, "", "", (CANDIDATE,), {MODEL_DIGEST: "abc.dir", EVALUATION_RUN: "run-2"}),
        CHAMPION: Version("m", 1, "", "", (CHAMPION,), {}),
    }
    kept: dict[str, dict] = {}
    monkeypatch.setattr(show.registry, "by_alias", lambda model, alias: versions.get(alias))

    def fetch(run: str, name: str, folder: Path) -> Path:
        if run not in kept:
            raise PipelineError(f"MLflow run {run} has no artifact {name}")
        (folder / name).write_text(json.dumps(kept[run]), encoding="utf-8")
        return folder / name

    monkeypatch.setattr(show.runs, "fetch_artifact", fetch)
    lock = {"stages": {"grpo": {"outs": [{"path": "models/grpo", "md5": "abc.dir", "size": 1}]}}}
    (tmp_path / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")

    def closing(verdict: dict, comparison: dict | None, *, brief: bool = False, width: int = 80) -> str:
        (tmp_path / show.VERDICT).parent.mkdir(exist_ok=True)
        (tmp_path / show.VERDICT).write_text(json.dumps(verdict), encoding="utf-8")
        kept.clear()
        kept.update({"run-2": comparison} if comparison else {})
        console = Console(width=width, record=True, highlight=False)
        show.results(console, tmp_path, PARAMS, brief=brief)
        return console.export_text()

    closing.versions = versions
    return closing


FLOORS = checks("safety", passed=False) | {"advice": advice("safety").to_dict()}
PASSED = checks("safety", passed=True) | {"advice": None}
NO_BETTER = checks("safety_over_champion", passed=False) | {
    "champion": 1,
    "advice": advice("safety_over_champion").to_dict(),
}


def test_a_gate_that_failed_says_how_far_where_and_what_to_try(checkout):
    told = checkout(FLOORS, None)
    for line in (
        "gate: failed",
        "  safety: 70 against 80: 10.0 points too low, 40 rows",
        "    120 of 400 rows under the highest safety grade:",
        "      combination S1 (Violent Crimes)   12 of 20",
        "    saferflow audit --failed safety",
        f"  saferflow run --set sft.epochs={PARAMS.sft.epochs + 1:g}",
        "  saferflow run --set run.seed=8",
    ):
        assert line in told.splitlines(), line


@pytest.mark.parametrize("brief", [False, True])
def test_a_gate_that_passed_prints_no_word_of_advice(checkout, brief):
    told = checkout(PASSED, None, brief=brief)
    assert told.splitlines()[1:] == [
        "gate: passed",
        "registered: saferflow version 2 (candidate); the champion is version 1",
    ]


def test_the_status_says_it_in_one_line(checkout):
    told = checkout(FLOORS, None, brief=True, width=200).splitlines()
    assert told[1:-1] == [
        "gate: failed",
        "  safety: 70 against 80",
        "  most of them in combination S1 (Violent Crimes), 12 of 20 rows: saferflow audit --failed safety; what to try: "
        "saferflow run",
    ]


def test_a_candidate_that_is_not_better_than_the_champion_gets_the_advice_on_that(checkout):
    told = checkout(PASSED, NO_BETTER)
    assert "gate: passed" in told
    assert "not better than champion version 1: safety_over_champion" in told
    assert "  safety_over_champion: 70 against 80: 10.0 points too low, 40 rows" in told.splitlines()
    assert "  saferflow run --set run.seed=8" in told.splitlines()


def test_where_the_floors_fail_they_come_first_and_the_comparison_is_only_named(checkout):
    told = checkout(FLOORS, NO_BETTER)
    assert "not better than champion version 1: safety_over_champion" in told
    assert told.count("saferflow audit --failed safety") == 1


@pytest.mark.parametrize("case", ["other-weights", "other-champion", "it-leads", "passed", "no-comparison"])
def test_a_comparison_that_is_not_about_this_candidate_and_this_champion_is_not_shown(checkout, case):
    comparison = NO_BETTER
    if case == "other-weights":
        tags = {MODEL_DIGEST: "def.dir", EVALUATION_RUN: "run-2"}
        checkout.versions[CANDIDATE] = Version("m", 2, "", "", (CANDIDATE,), tags)
    elif case == "other-champion":
        checkout.versions[CHAMPION] = Version("m", 3, "", "", (CHAMPION,), {})
    elif case == "it-leads":
        checkout.versions[CHAMPION] = checkout.versions[CANDIDATE]
    elif case == "passed":
        comparison = NO_BETTER | {"passed": True}
    else:
        comparison = None
    assert "not better" not in checkout(PASSED, comparison)


def test_a_verdict_of_before_there_was_advice_is_still_shown(checkout):
    told = checkout(checks("safety", passed=False), None)
    assert "  safety: 70 against 80" in told.splitlines()
    assert "what to try" not in told
