"""Responses and pairs that a source brings: checked, kept word for word, held against their labels, and used."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.rows import DPORow, Labels, Row, SFTRow
from saferflow.data.scenes.corpus import safety_rows
from saferflow.judge.rubrics import Grades
from saferflow.params import AugmentationParams, load_params
from saferflow.planner.augmentation import augmented
from saferflow.planner.rules import plan_for
from saferflow.planner.tables import BROKEN, CONTRADICTION, UNJUDGED, fill
from saferflow.planner.teacher import write
from saferflow.planner.writer import RuleWriter
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.surface import TAGS
from saferflow.protocol.trace import parse, render
from saferflow.rng import rng

PARAMS = load_params(Path(__file__).parents[2] / "profiles" / "micro.yaml")
SHARES = {"sft": (1.0, 0.0, 0.0), "dpo": (0.0, 1.0, 0.0), "grpo": (0.0, 0.0, 1.0)}
FINE = Row("a", "mine", "train", "How do I water a fern?", None, Labels("safety", "none", 0, "none", "none", "answer"))
HARMFUL = replace(
    FINE, question="How do I break into a house?", labels=Labels("safety", "S2", 2, "text", "none", "refuse")
)
ADVICE = "Twice a week, with soft water.\nLess in winter."
DECLINES = "I'm sorry, but I can't help with breaking in. A locksmith can open your own door."
COMPLIES = "Sure! First look for a window that is open, then climb in."


def planned(row: Row, table: str, judge=None, **plan):
    """What `fill` makes of one row that is dealt to a table."""
    shares = dict(zip(("sft_share", "dpo_share", "grpo_share"), SHARES[table], strict=True))
    params = PARAMS.model_copy(update={"plan": PARAMS.plan.model_copy(update={**shares, **plan})})
    [made] = fill([row], RuleWriter(params.run.seed, 1.0), params, judge)
    return made


def in_protocol(row: Row, answer: str, decision: str = "") -> str:
    """A response in the protocol's form, as another tool than this one might have written it."""
    labels = replace(row.labels, decision=decision or row.labels.decision)
    trace = write(plan_for(row.question, row.image), row.question, labels, "", rng(1, "theirs"), 1.0).trace
    return render(replace(parse(""), trace=trace, answer=answer)).replace("</thinking>\n", "</thinking>\n\n")


@pytest.mark.parametrize(
    ("row", "answer"), [pytest.param(FINE, ADVICE, id="answers"), pytest.param(HARMFUL, DECLINES, id="declines")]
)
@pytest.mark.parametrize("table", ["sft", "dpo"])
def test_an_answer_is_kept_word_for_word_and_the_teacher_writes_a_trace_to_it(row, answer, table):
    made = planned(replace(row, answer=f"  {answer}\n"), table)
    assert made.table == table
    assert made.rows
    for one in made.rows:
        text = one.completion if table == "sft" else one.chosen
        assert parse(text).answer == answer
        assert check(Plan.from_json(one.plan), text) == ()
        assert one.writer == "theirs with a trace by rules"


class Agreeing:
    """A judge that finds every response to do as its label says."""

    identity = "agreeing"

    def prepare(self, what, items):
        """Nothing to fetch."""

    def grade(self, item):
        return Grades(3, 3, 3, item.labels.harmful, "")


PLAIN = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda text: text.strip() and not any(tag in text for tag in TAGS)
)


@given(text=PLAIN, row=st.sampled_from([FINE, HARMFUL]))
@settings(max_examples=100)
def test_whatever_an_answer_says_it_is_kept_under_a_trace_that_passes_or_put_aside_with_a_reason(text, row):
    made = planned(replace(row, answer=text), "sft", Agreeing())
    if made.table == "quarantine":
        assert "it begins" in made.rows[0].reason
        return
    [one] = made.rows
    assert parse(one.completion).answer == text.strip()
    assert check(Plan.from_json(one.plan), one.completion) == ()


def test_the_drawn_corpus_is_worded_by_the_teacher_as_ever():
    row = next(row for row in safety_rows(40, 1, "train") if row.labels.decision == "answer" and row.answer)
    [one] = planned(row, "sft").rows
    assert one.writer == "rules"
    assert parse(one.completion).answer == f"This is safe. {row.answer.removeprefix('Sure. ')}"


def test_a_response_in_the_protocol_is_taken_as_it_is():
    text = in_protocol(HARMFUL, DECLINES)
    [one] = planned(replace(HARMFUL, answer=text), "sft").rows
    assert one.completion == text, "byte for byte, line breaks of its own included"
    assert one.writer == "theirs"


def test_a_response_with_other_tools_than_the_planner_would_name_gets_a_plan_of_its_own_tools():
    text = in_protocol(FINE, ADVICE).replace("[KEYWORD-FLAGGING]: terms=none; risk=0", "[OCR-EXTRACT]: text=none")
    assert check(plan_for(FINE.question, None), text)
    for topologies in (True, False):
        [one] = planned(replace(FINE, answer=text), "sft", topologies=topologies).rows
        plan = Plan.from_json(one.plan)
        assert (one.completion, one.writer) == (text, "theirs")
        assert check(plan, text) == ()
        assert (plan.hazard, plan.persona) == (plan_for(FINE.question, None).hazard, "helper")


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        pytest.param("decision=answer", "decision=perhaps", "T203", id="a-value-that-is-none"),
        pytest.param("</answer>", "", "T001", id="a-tag-that-is-missing"),
        pytest.param("[INTENT-RADAR]", "[INTENT-SONAR]", "T101", id="a-tool-that-is-unknown"),
    ],
)
def test_a_response_that_breaks_the_protocol_is_named_with_what_it_breaks(old, new, code):
    text = in_protocol(FINE, ADVICE)
    assert old in text
    made = planned(replace(FINE, answer=text.replace(old, new)), "sft")
    assert (made.table, made.why) == ("quarantine", BROKEN)
    assert code in made.rows[0].reason
    assert "row a: " in made.rows[0].reason


@pytest.mark.parametrize(
    ("row", "answer", "told"),
    [
        pytest.param(HARMFUL, COMPLIES, "does not decline, and its label says refuse", id="goes-along"),
        pytest.param(FINE, DECLINES, "declines, and its label says answer", id="refuses-the-harmless"),
        pytest.param(HARMFUL, in_protocol(HARMFUL, COMPLIES, "answer"), "its gate decides answer", id="by-its-gate"),
        pytest.param(
            HARMFUL, in_protocol(HARMFUL, COMPLIES.removeprefix("Sure! ")), "does not decline", id="by-its-answer"
        ),
    ],
)
@pytest.mark.parametrize("table", ["sft", "dpo"])
def test_a_response_that_contradicts_its_label_is_trained_on_nowhere_and_named(row, answer, told, table):
    made = planned(replace(row, answer=answer), table)
    assert (made.table, made.why) == ("quarantine", CONTRADICTION)
    assert told in made.rows[0].reason


def test_a_response_that_the_judge_could_not_read_is_not_trained_on():
    class Mute(Agreeing):
        def grade(self, item):
            return Grades(-3, 0, 0, False, "its answer could not be read", readable=False)

    made = planned(replace(FINE, answer=ADVICE), "sft", Mute())
    assert (made.table, made.why) == ("quarantine", UNJUDGED)
    assert "its answer could not be read" in made.rows[0].reason


@pytest.mark.parametrize(
    ("own_pairs", "theirs", "planted"), [("beside", 1, 1), ("instead", 1, 0), ("none", 0, 1)]
)  # fmt: skip
def test_a_pair_is_used_beside_planted_faults_or_instead_of_them_or_not(own_pairs, theirs, planted):
    made = planned(replace(HARMFUL, answer=DECLINES, rejected=COMPLIES), "dpo", own_pairs=own_pairs)
    found = [one.perturbation == "theirs" for one in made.rows]
    assert (found.count(True), found.count(False)) == (theirs, planted)
    for one in made.rows:
        assert isinstance(one, DPORow)
        assert one.id == f"a.{one.perturbation}"
        by = "theirs with a trace by rules"
        assert (one.writer, one.rejected_writer) == (by, by if one.perturbation == "theirs" else "rules")


def own_pair(row: Row) -> DPORow:
    [one] = planned(row, "dpo", own_pairs="instead").rows
    assert one.perturbation == "theirs"
    return one


@pytest.mark.parametrize(
    ("row", "answer", "rejected", "decision"),
    [
        pytest.param(HARMFUL, DECLINES, COMPLIES, "answer", id="goes-along-with-harm"),
        pytest.param(FINE, ADVICE, DECLINES, "refuse", id="refuses-the-harmless"),
        pytest.param(FINE, ADVICE, "Water it now and then.", "answer", id="answers-worse"),
        pytest.param(HARMFUL, DECLINES, "I can't help with this.", "refuse", id="declines-worse"),
    ],
)
def test_a_worse_answer_gets_a_trace_that_it_follows_from(row, answer, rejected, decision):
    one = own_pair(replace(row, answer=answer, rejected=rejected))
    response = parse(one.rejected)
    assert response.answer == rejected
    assert [call.get("decision") for call in response.trace if call.tool == "SAFETY-GATE"] == [decision]
    assert check(Plan.from_json(one.plan), one.rejected) == ()
    assert parse(one.chosen).answer == answer


def test_a_worse_response_in_the_protocol_stays_as_it_is_faults_and_all():
    rejected = in_protocol(HARMFUL, COMPLIES, "answer").replace("[SAFETY-GATE]", "[SAFETY-GAT]")
    one = own_pair(replace(HARMFUL, answer=DECLINES, rejected=rejected))
    assert (one.rejected, one.rejected_writer) == (rejected, "theirs")


def test_a_pair_without_a_better_side_gets_one_from_the_teacher():
    one = own_pair(replace(HARMFUL, rejected=COMPLIES))
    assert one.writer == "rules"
    assert parse(one.rejected).answer == COMPLIES


def test_a_pair_whose_sides_say_the_same_is_no_pair():
    made = planned(replace(HARMFUL, answer=DECLINES, rejected=f"{DECLINES} "), "dpo", own_pairs="instead")
    [name] = [one.perturbation for one in made.rows]
    assert name in PARAMS.plan.perturbations


def test_an_answer_to_a_plain_question_is_theirs_and_one_of_the_drawn_corpus_ours():
    general = Labels("general", "none", 0, "none", "none", "answer", facts=(("blue",),))
    for drawn, writer in ((False, "theirs"), (True, "rules")):
        [one] = planned(replace(FINE, labels=general, answer="blue", drawn=drawn), "sft").rows
        assert isinstance(one, SFTRow)
        assert (one.completion, one.writer) == ("blue", writer)


def test_another_form_of_a_request_keeps_the_answer_and_gets_a_trace_that_fits_it():
    row = replace(HARMFUL, answer=in_protocol(HARMFUL, DECLINES))
    wrapped = augmented(row, AugmentationParams(attacks=1.0, images=0.0), 7)
    assert wrapped.question != row.question
    assert wrapped.answer == DECLINES
    assert all(answer == DECLINES for _, answer in wrapped.earlier)
