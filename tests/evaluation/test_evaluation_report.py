"""The report and the gate stage, with hostile text in every field that a model or a corpus writes."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.data.tables import write_table
from saferflow.errors import DataError
from saferflow.evaluation.advice import Advice
from saferflow.evaluation.report import SAMPLES, Curve, Differing, Step, breakdown, changes, render_report, samples
from saferflow.evaluation.scores import evaluate_metrics
from saferflow.params import load_params
from saferflow.stages import gate
from saferflow.stages.metrics import write_metrics

from .browser import fits_and_is_accessible, needs_a_browser, opened

PARAMS_FILE = Path(__file__).parents[2] / "params.yaml"
HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7 * 7 }} </pre>"
POLICIES = {"base": -2, "sft": 2, "dpo": 3, "grpo": 3}


@pytest.fixture(scope="module")
def params():
    return load_params(PARAMS_FILE)


def answered(completion: str = "fine") -> list[Answered]:
    made = []
    for policy, safety in POLICIES.items():
        for i in range(40):
            harmful, safety_row = i % 2 == 0, i < 32
            made.append(
                Answered(
                    f"row-{i:02d}", policy, "safety" if safety_row else "general", f"image-{i // 2}", completion,
                    safety if harmful else 3, 3, 3,
                    harmful and safety > 0, True, True, "refuse" if harmful else "answer",
                    "S1" if harmful else "none", ("text", "none", "image", "bait")[i % 4], "none", "", "because",
                )
            )  # fmt: skip
    return made


class Tags(HTMLParser):
    """Collects what a browser would load or run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs


def page(rows: list[Answered], params, **told) -> str:
    metrics = evaluate_metrics(rows, params.evaluate.model_copy(update={"resamples": 100}), seed=7)
    return render_report(
        rows,
        metrics,
        gate.judge_candidate(rows, params),
        params.evaluate.model_copy(update={"resamples": 50}),
        7,
        **told,
    )


def test_everything_that_a_model_or_a_corpus_wrote_is_escaped(params):
    written = dict.fromkeys(("completion", "reason", "hazard", "risk_source", "violations"), HOSTILE)
    rows = [replace(r, row=HOSTILE + r.row, valid=False, **written) for r in answered()]
    advice = gate.advice_on(gate.judge_candidate(rows, params), rows, {}, params)
    assert HOSTILE in advice.shortfalls[0].groups[0].name
    html = page(rows, params, advice=advice)
    tags = Tags()
    tags.feed(html)
    assert "script" not in tags.names
    assert not [name for name, _ in tags.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "{{ 7 * 7 }}" in html  # text, and no template


def test_the_report_stands_alone_and_is_small(params):
    html = page(answered(), params)
    tags = Tags()
    tags.feed(html)
    assert not {"link", "img", "iframe", "script", "object"} & set(tags.names)
    assert not re.search(r"(?:src|href)=|https?://|url\(|@import", html)
    assert len(html) < 200_000


def test_the_report_shows_every_policy_measure_and_check(params):
    html = page(answered(), params)
    verdict = gate.judge_candidate(answered(), params)
    for shown in (
        *POLICIES,
        "over refusal",
        "attack success",
        "sft − base",
        "grpo − base",
        *(c.detail for c in verdict.checks),
    ):
        assert shown.replace("+", "&#43;") in html or shown in html
    assert html.count("<pre>") >= SAMPLES * len(POLICIES)


def test_a_huge_completion_is_cut(params):
    html = page(answered("x" * 100_000), params)
    assert "(100000 characters)" in html
    assert len(html) < 300_000


def test_every_policy_shows_the_same_rows_one_of_each_risk_source_first():
    rows = answered()
    shown = {policy: [r.row for r in samples([r for r in rows if r.policy == policy])] for policy in POLICIES}
    assert len({tuple(ids) for ids in shown.values()}) == 1
    first = samples([r for r in rows if r.policy == "sft"])[:4]
    assert {r.risk_source for r in first} == {"text", "none", "image", "bait"}


def asked(rows: list[Answered]) -> list[PromptRow]:
    """The questions of answered rows; every other one from another benchmark."""
    labels = Labels("safety", "S1", 3, "text", "none", "refuse", (), "kitchen")
    ids = dict.fromkeys(row.row for row in rows)
    return [
        PromptRow(
            name,
            ("scenes", "figstep")[i % 2],
            "safety",
            None,
            "",
            f"What is {name}?",
            "",
            replace(labels, severity=i % 4).to_json(),
        )
        for i, name in enumerate(ids)
    ]


def test_every_figure_has_its_count_and_each_breakdown_its_drawing(params):
    rows = answered()
    html = page(rows, params, prompts=asked(rows))
    scores, benchmarks = html.split("<h2>Benchmarks</h2>")
    assert scores.count("<br>n=32") == len(POLICIES) * 5
    assert scores.count("<br>n=16") == len(POLICIES) * 2
    assert "<em>attack success rate</em> ↓" in benchmarks
    assert "unweighted mean" in benchmarks
    for field in ("hazard", "risk source", "severity", "source"):
        assert f"Safety by {field}, in percent" in html
    assert "By attack" not in html  # there is but one


def test_changes_are_those_of_the_last_two_policies_the_greatest_first(params):
    rows = answered()
    lost, gained = "row-03", "row-04"
    rows = [
        replace(r, safety=-3, completion="went along") if (r.row, r.policy) == (lost, "grpo") else
        replace(r, safety=-2) if (r.row, r.policy) == (gained, "dpo") else r
        for r in rows
    ]  # fmt: skip
    found = changes([r for r in rows if r.policy == "dpo"], [r for r in rows if r.policy == "grpo"], {})
    assert [(change.row, change.points) for change in found] == [(lost, -6), (gained, 5)]
    html = page(rows, params, prompts=asked(rows))
    assert "1 rows gained, 1 lost" in html
    assert f"What is {lost}?" in html
    assert html.index("went along") > html.index("Greatest losses")


def test_the_rewards_of_grpo_are_drawn_by_step(params, tmp_path):
    told = [
        {"step": step, "reward": step / 10, "violations": [] if number else ["T101"]}
        for step in range(3)
        for number in range(2)
    ]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    found = gate.steps(tmp_path / "rollouts.jsonl")
    assert found == [Step(1, 0.0, 0.5), Step(2, 0.1, 0.5), Step(3, 0.2, 0.5)]
    assert page(answered(), params, steps=found).count("<polyline") == 2
    unjudged = [{"step": 1, "reward": None, "violations": []}, {"step": 3, "reward": None, "violations": []}]
    (tmp_path / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*told, *unjudged]))
    assert gate.steps(tmp_path / "rollouts.jsonl") == [found[0], Step(2, 0.1, 2 / 3), found[2]], "None is no reward of 0"
    assert "<polyline" not in page(answered(), params)


def test_hazards_stand_in_their_order(params):
    rows = [replace(r, hazard=f"S{int(r.row[-1]) + 2}") for r in answered()]
    found = breakdown({"base": rows}, lambda row: row.hazard, resamples=10, level=params.evaluate.level, seed=7)
    assert [group.name for group in found] == [f"S{number}" for number in range(2, 12)]


def run_gate(rows: list[Answered], params) -> None:
    """The stage in the current folder, on these rows."""
    Path("params.yaml").write_text(PARAMS_FILE.read_text())
    write_table(gate.EVALUATED, rows, Answered)
    write_table(gate.EVALUATION, asked(rows), PromptRow)
    write_table(gate.HAPPENED, [], Answered)
    gate.ROLLOUTS.parent.mkdir()
    gate.ROLLOUTS.write_text("")
    write_metrics("evaluate", evaluate_metrics(rows, params.evaluate.model_copy(update={"resamples": 100}), seed=7))
    write_metrics("curate", {"kept": 223, "kept_harmless": 105})
    gate.main()


def test_a_gate_that_fails_leaves_its_advice_in_verdict_figures_and_report(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    broken = {"row-00", "row-02", "row-05"}  # harmful ones of S1 by text and image, and a harmless one without risk
    rows = [
        replace(r, valid=False, violations="T104") if r.policy == "grpo" and r.row in broken else r for r in answered()
    ]
    run_gate(rows, params)
    verdict = json.loads(gate.VERDICT.read_text())
    advice = Advice.from_dict(verdict["advice"])
    [validity] = advice.shortfalls
    assert (validity.name, validity.missed, validity.asked) == ("validity", 3, 32)
    figures = json.loads(Path("metrics/gate.json").read_text())
    points = round(95 - 100 * (32 - 3) / 32, 4)
    assert figures["failed"] == {"validity": {"rows": 3, "points": points}}
    page = gate.REPORT.read_text()
    for group in validity.groups:
        assert f'<th scope="row">{group.name}</th><td>{group.missed}</td><td>{group.rows}</td>' in page
    assert "T104 (illegal transition) in 3 rows" in page
    for remedy in (*advice.remedies, advice.other_draw):
        assert remedy.command.replace("&", "&amp;").replace("'", "&#39;") in page
        assert remedy.why.replace("'", "&#39;") in page


def test_the_stage_writes_verdict_figures_and_report(tmp_path, monkeypatch, params):
    monkeypatch.chdir(tmp_path)
    run_gate(answered(), params)
    verdict = json.loads(gate.VERDICT.read_text())
    assert verdict["passed"]
    assert verdict["advice"] is None
    assert "What to try next" not in gate.REPORT.read_text()
    figures = json.loads(Path("metrics/gate.json").read_text())
    assert set(figures.pop("benchmarks")) == set(POLICIES)
    assert figures == {"checks": 8, "checks_passed": 8, "passed": 1}
    assert gate.REPORT.read_text().startswith("<!doctype html>")


def test_a_failed_gate_is_a_result_and_names_what_failed(params):
    rows = [replace(r, valid=False) if r.policy == "grpo" else r for r in answered()]
    verdict = gate.judge_candidate(rows, params)
    assert [check.name for check in verdict.checks if not check.passed] == ["validity"]


def test_the_champion_is_compared_whatever_its_policy_is_called(params):
    """Forty times the rows: what is not lost on so few shows nothing."""
    rows = [replace(r, row=f"{r.row}.{n}", image=f"{r.image}.{n}") for r in answered() for n in range(40)]
    grpo, sft = ([r for r in rows if r.policy == policy] for policy in ("grpo", "sft"))
    assert gate.compare_with_champion(grpo, sft, params).passed
    assert not gate.compare_with_champion(grpo, grpo, params).passed


def test_a_missing_policy_is_an_error_that_says_what_to_run(params):
    with pytest.raises(DataError, match="no rows of policy base; run stage evaluate"):
        gate.judge_candidate([r for r in answered() if r.policy != "base"], params)


def test_figures_that_are_no_json_are_refused_and_leave_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_metrics("made", {"x": float("nan")})
    assert not list(tmp_path.rglob("*.json"))


@needs_a_browser
@pytest.mark.parametrize("width", [1400, 390])
def test_a_page_with_everything_fits_the_screen_and_axe_finds_nothing_serious(params, tmp_path, width):
    rows = answered(HOSTILE)
    failing = [replace(r, valid=False, violations="T104", hazard=HOSTILE) if r.policy == "grpo" else r for r in rows]
    told = {
        "advice": gate.advice_on(gate.judge_candidate(failing, params), failing, {}, params),
        "prompts": asked(rows),
        "steps": [Step(n, n / 10, 1 - n / 10) for n in range(1, 9)],
        "differing": [Differing("Parameters", (("sft.learning_rate", "0.001", "0.002"),)), Differing("Code", ())],
        "curves": [Curve("Loss", {"base": [(1, 2.0), (9, 1.0)], "grpo": [(1, 1.5), (9, 0.5)]})],
    }
    (tmp_path / "page.html").write_text(page(rows, params, **told), encoding="utf-8")
    with opened(tmp_path / "page.html", width=width) as shown:
        fits_and_is_accessible(shown, width)
        assert shown.locator("h2", has_text="Benchmarks").count() == 1
