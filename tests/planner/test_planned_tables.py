"""From rows to rows of the tables."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from saferflow.data.incidents import SOURCE as INCIDENTS
from saferflow.data.incidents import repeated
from saferflow.data.rows import Labels, PromptRow, SFTRow, whole_question
from saferflow.data.scenes.corpus import general_rows, safety_rows
from saferflow.params import Topology, load_params
from saferflow.planner.reflection import WRONG_OBSERVATION, reflection_on
from saferflow.planner.tables import fill
from saferflow.planner.writer import RuleWriter
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.reflection import ANEW, MISSED
from saferflow.protocol.topologies import KINDS
from saferflow.protocol.trace import Call, Response, parse, render

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
TURNS = (("What is this?", "A knife."), ("And where is it?", "In the kitchen."))
SHARES = {"sft": (1.0, 0.0, 0.0), "dpo": (0.0, 1.0, 0.0), "grpo": (0.0, 0.0, 1.0)}


def planned(rows, *, watched=0.0, **plan):
    """The rows of the tables that `fill` makes of rows, by the rule writer; a share of them is watched."""
    sections = {
        "plan": PARAMS.plan.model_copy(update=plan),
        "watch": PARAMS.watch.model_copy(update={"share": watched}),
    }
    params = PARAMS.model_copy(update=sections)
    return fill(rows, RuleWriter(params.run.seed, params.plan.tool_coverage), params)


@pytest.mark.parametrize("table", [*SHARES, "evaluation"])
def test_earlier_turns_come_through_to_every_table(table):
    shares = dict(zip(("sft_share", "dpo_share", "grpo_share"), SHARES.get(table, SHARES["sft"]), strict=True))
    split = "evaluation" if table == "evaluation" else "train"
    last = next(safety_rows(1, 1, split))
    [made] = planned([replace(last, question=whole_question(TURNS, last.question), earlier=TURNS)], **shares)
    assert made.table == table
    assert made.rows
    assert {(row.turns, row.last_question) for row in made.rows} == {(TURNS, last.question)}


def test_a_general_row_keeps_its_earlier_turns():
    last = next(general_rows(1, 1, "train"))
    [made] = planned([replace(last, question=whole_question(TURNS, last.question), earlier=TURNS)])
    [row] = made.rows
    assert isinstance(row, SFTRow)
    assert (row.turns, row.last_question) == (TURNS, last.question)


def test_some_general_rows_are_pairs_whose_rejected_side_answers_the_same_question_otherwise():
    rows = list(general_rows(300, 1, "train"))
    answers = {(row.question, row.answer) for row in rows}
    tables = Counter()
    for row, made in zip(rows, planned(rows, general_pairs=0.5), strict=True):
        tables[made.table] += 1
        [placed] = made.rows
        assert placed.id == (row.id if made.table == "sft" else f"{row.id}.wrong_answer")
        if made.table == "dpo":
            assert (placed.question, placed.chosen) == (row.question, row.answer)
            assert placed.rejected != placed.chosen
            assert (placed.question, placed.rejected) in answers
    assert tables.keys() == {"sft", "dpo"}
    assert 120 <= tables["dpo"] <= 180  # 150 +- 3.5 standard deviations
    assert {made.table for made in planned(rows, general_pairs=0.0)} == {"sft"}


def test_a_general_row_whose_question_has_no_other_answer_is_no_pair():
    [made] = planned(list(general_rows(1, 1, "train")), general_pairs=1.0)
    assert made.table == "sft"


@pytest.mark.parametrize("table", SHARES)
@pytest.mark.parametrize("reflection_share", [0.0, 1.0])
def test_an_incident_of_the_training_split_is_taught_by_sft_whatever_table_it_is_dealt_to(table, reflection_share):
    shares = dict(zip(("sft_share", "dpo_share", "grpo_share"), SHARES[table], strict=True))
    row = next(safety_rows(1, 1, "train"))
    incident = replace(row, source=INCIDENTS)
    other, made = planned([row, incident], **shares, reflection_share=reflection_share)
    assert (made.table, other.lessons) == (table, [])
    taught = made.rows if table == "sft" else made.lessons
    [as_other] = planned([incident], **dict(zip(shares, SHARES["sft"], strict=True)), reflection_share=reflection_share)
    assert taught == as_other.rows
    assert [one.id for one in taught][:1] == [row.id]


def test_a_held_out_incident_is_taught_to_nobody():
    [made] = planned([replace(next(safety_rows(1, 1, "evaluation")), source=INCIDENTS)])
    assert (made.table, made.lessons) == ("evaluation", [])


@pytest.mark.parametrize("times", [1, 3])
def test_an_epoch_shows_an_incident_as_often_as_the_parameter_says_and_every_other_row_once(times):
    rows = [made.rows[0] for made in planned(ROWS[:4], **ALL_SFT)]
    rows[2] = replace(rows[2], source=INCIDENTS)
    expected = rows[:2] + [rows[2]] * times + rows[3:]
    assert repeated(rows, times, {}) == expected


def test_an_epoch_shows_the_rows_of_a_topology_as_often_as_the_parameter_says_but_an_incident_as_an_incident():
    rows = [made.rows[0] for made in planned(ROWS[:3], **ALL_SFT)]
    mesh, linear, incident = (replace(row, plan=replace(Plan.from_json(row.plan), topology=kind, branches=()).to_json())
                              for row, kind in zip(rows, ("mesh", "linear", "mesh"), strict=True))  # fmt: skip
    incident, general = replace(incident, source=INCIDENTS), replace(linear, kind="general", plan="")
    assert repeated([linear, mesh, incident, general], 2, {"mesh": 3}) == [linear, *[mesh] * 3, *[incident] * 2, general]


def test_the_parameters_name_the_topologies_of_the_protocol():
    assert get_args(Topology) == KINDS


ALL_SFT = {"sft_share": 1.0, "dpo_share": 0.0, "grpo_share": 0.0}
ROWS = list(safety_rows(120, 1, "train"))


def decision(text: str) -> str:
    return next(call.get("decision") for call in parse(text).trace if call.tool == "SAFETY-GATE")


def test_two_rows_teach_a_policy_to_reflect_on_a_wrong_draft_and_to_answer_anew():
    opposed = 0
    for made in planned(ROWS, **ALL_SFT, reflection_share=1.0):
        row, reflecting, anew = made.rows
        [(question, draft)] = reflecting.turns
        assert (question, reflecting.last_question) == (row.question, MISSED)
        assert anew.turns == ((question, draft), (MISSED, reflecting.completion))
        assert anew.last_question == ANEW
        assert (anew.completion, anew.plan, anew.kind) == (row.completion, row.plan, "safety")
        assert (reflecting.plan, reflecting.kind) == ("", "reflection")
        assert [row.id, f"{row.id}.reflection", f"{row.id}.anew"] == [each.id for each in made.rows]
        assert len({(each.system, each.image, each.labels, each.source) for each in made.rows}) == 1
        assert not check(Plan.from_json(row.plan), draft), "the draft keeps its plan: what is wrong is what it says"
        assert draft != row.completion
        harmful = ("refuse", "redirect")
        opposed += (decision(draft) in harmful) != (Labels.from_json(row.labels).decision in harmful)
    share = 1 - WRONG_OBSERVATION
    spread = 4 * (len(ROWS) * share * (1 - share)) ** 0.5  # four standard deviations of a binomial count
    assert opposed == pytest.approx(len(ROWS) * share, abs=spread)


def test_the_draw_is_by_the_row_and_the_other_rows_stay_as_they_were():
    none, some, all_ = (planned(ROWS, **ALL_SFT, reflection_share=share) for share in (0.0, 0.3, 1.0))
    assert [len(made.rows) for made in none] == [1] * len(ROWS)
    assert [made.rows[0] for made in some] == [made.rows[0] for made in none]
    drawn = [made.rows for made in some if len(made.rows) == 3]
    assert 0 < len(drawn) < len(ROWS)
    assert all(rows in [made.rows for made in all_] for rows in drawn)
    assert planned(ROWS[5:6], **ALL_SFT, reflection_share=0.3) == some[5:6]


def test_rows_that_are_watched_are_trained_on_nowhere_and_all_others_stay_as_they_were():
    rows = ROWS + list(general_rows(60, 1, "train")) + list(safety_rows(20, 1, "evaluation"))
    none, some, more = (planned(rows, watched=share) for share in (0.0, 0.2, 0.5))
    assert "watch" not in {made.table for made in none}
    aside = {number for number, made in enumerate(some) if made.table == "watch"}
    assert aside < {number for number, made in enumerate(more) if made.table == "watch"}
    assert [made for number, made in enumerate(some) if number not in aside] == [
        made for number, made in enumerate(none) if number not in aside
    ]
    spread = 4 * (180 * 0.2 * 0.8) ** 0.5  # four standard deviations of a binomial count of the training rows
    assert len(aside) == pytest.approx(180 * 0.2, abs=spread)
    for number in aside:
        [row] = some[number].rows
        assert isinstance(row, PromptRow)
        assert (row.id, row.kind) == (rows[number].id, rows[number].labels.kind)
        assert bool(row.plan) == bool(row.system) == (row.kind == "safety")
    assert {some[number].rows[0].kind for number in aside} == {"safety", "general"}
    assert {none[number].table for number in aside if rows[number].labels.kind == "safety"} == {"sft", "dpo", "grpo"}


def test_incidents_and_rows_whose_labels_are_guesses_are_not_watched():
    """An incident is there to be learnt from; by a guess nothing is measured."""
    incidents = [replace(row, source=INCIDENTS) for row in ROWS]
    assert "watch" not in {made.table for made in planned(incidents, watched=0.9)}
    guessed = planned([replace(row, labels=None) for row in ROWS], watched=0.9, allow_guessed_labels=True)
    assert {made.table for made in guessed} == {"sft", "dpo", "grpo"}


@pytest.mark.parametrize("table", ["dpo", "grpo", "evaluation"])
def test_only_the_sft_table_teaches_reflection(table):
    shares = dict(zip(("sft_share", "dpo_share", "grpo_share"), SHARES.get(table, SHARES["sft"]), strict=True))
    some = list(safety_rows(10, 1, "evaluation" if table == "evaluation" else "train"))
    assert planned(some, **shares, reflection_share=1.0) == planned(some, **shares, reflection_share=0.0)


def test_a_row_of_several_turns_is_reflected_on_after_them():
    last = next(safety_rows(1, 1, "train"))
    row = replace(last, question=whole_question(TURNS, last.question), earlier=TURNS)
    [made] = planned([row], **ALL_SFT, reflection_share=1.0)
    _, reflecting, anew = made.rows
    assert reflecting.turns[:2] == anew.turns[:2] == TURNS
    assert reflecting.turns[2][0] == last.question
    assert anew.question == "\n".join([*(user for user, _ in TURNS), last.question, MISSED, ANEW])


@pytest.mark.parametrize(
    ("fault", "calls", "labels", "sentence"),
    [
        pytest.param(
            "under_refusal", {}, ("S1", 3, "combination", "none", "refuse"),
            "The draft missed violence against people: risk from the image and words together.", id="missed",
        ),
        pytest.param(
            "over_refusal", {"RISK-SCORER": (("hazard", "S2"),)}, ("none", 0, "bait", "none", "answer"),
            "There is no risk here; the draft saw crime without violence.", id="feared",
        ),
        pytest.param(
            "over_refusal", {}, ("none", 0, "none", "none", "answer"),
            "There is no risk here; the draft saw a risk.", id="feared-and-not-said",
        ),
        pytest.param(
            "over_refusal", {}, ("S6", 1, "text", "none", "answer_with_care"),
            "The draft saw too much risk: risky specialist advice needs care, and no refusal.", id="care",
        ),
        pytest.param(
            "wrong_observation", {"VISUAL-SCAN": (("objects", "cup, skull"),)}, ("S1", 3, "image", "none", "refuse"),
            "The picture shows knife, not cup.", id="observation",
        ),
    ],
)  # fmt: skip
def test_a_reflection_names_what_is_wrong(fault, calls, labels, sentence):
    draft = render(Response(tuple(Call(tool, fields) for tool, fields in calls.items()), "No."))
    assert reflection_on(draft, fault, Labels("safety", *labels, objects=("knife", "skull"))) == sentence
