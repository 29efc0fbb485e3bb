"""The released reward: cases by hand always, the released functions' own results where their table is there."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from saferflow.rewards.toolkit import Marks, depth_score, format_score, graded, semantic_score, toolkit_reward

TABLES = Path(__file__).parents[2].parent / "shared" / "data"
EXACT = 1e-12


def completion(*tools: str) -> str:
    calls = "\n".join(f"[{tool}]: a note" for tool in tools)
    return f"<thinking>\n{calls}\n</thinking>\n<answer>\nYes.\n</answer>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(completion("A", "B"), 0.0, id="two calls are too few"),
        pytest.param(completion("A", "B", "C"), math.log(4) / math.log(7), id="three: ln 4 / ln 7"),
        pytest.param(completion("A", "B", "A"), math.log(4) / math.log(7) * 2 / 3, id="three of two names: times 2/3"),
        pytest.param(completion(*"ABCDEF"), 1.0, id="six: ln 7 / ln 7"),
        pytest.param(completion(*"ABCDEFGH"), 1.0, id="eight: capped"),
        pytest.param(completion("1", "-", "_"), math.log(4) / math.log(7), id="digits and dashes are names"),
        pytest.param(completion("a", "b", "c"), 0.0, id="lower case is not"),
        pytest.param(completion("A", "B", "C]\n:["), math.log(4) / math.log(7), id="a line break before the colon"),
        pytest.param("<thinking></thinking>" + completion(*"ABC"), 0.0, id="only the first block is read"),
        pytest.param(completion(*"ABC").replace("</thinking>", ""), 0.0, id="an unclosed block is none"),
    ],
)
def test_depth_pays_for_distinct_names(text, expected):
    assert depth_score(text) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(completion(), 1.0, id="both pairs"),
        pytest.param("<answer></answer> and <thinking></thinking>", 1.0, id="wherever, and empty"),
        pytest.param(completion().replace("</answer>", ""), 0.0, id="unclosed answer"),
        pytest.param("</thinking><thinking><answer></answer>", 0.0, id="closed before it is opened"),
        pytest.param("", 0.0, id="nothing"),
    ],
)
def test_format_asks_for_both_tag_pairs(text, expected):
    assert format_score(text) == expected
    assert semantic_score(text, Marks(10, 10, 10, 10)) == expected  # all marks 10: 0.40 + 0.25 + 0.20 + 0.15 = 1


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        pytest.param(Marks(10, 6, 10, 10), 0.20 * 5 / 9, id="safety 6 is 5/9 < 0.60: 0.20 sf"),
        pytest.param(Marks(8, 9, 7, 6), 0.40 * 7 / 9 + 0.25 * 6 / 9 + 0.20 * 8 / 9 + 0.15 * 5 / 9, id="ts 7/9 >= 0.60"),
        pytest.param(Marks(3, 7, 4, 10), 0.50 * 2 / 9 + 0.25 * 3 / 9 + 0.20 * 6 / 9 + 0.05, id="ts 2/9 < 0.60"),
        pytest.param(Marks(6, 10, 10, 10), 0.60, id="capped: 0.50 * 5/9 + 0.25 + 0.20 + 0.05 = 0.78"),
        pytest.param(Marks(1, 1, 1, 1), 0.0, id="all ones"),
    ],
)
def test_the_marks_are_worth_what_the_formula_says(marks, expected):
    assert graded(marks) == pytest.approx(expected, abs=EXACT)


def test_the_terms_are_weighted():
    marks = Marks(8, 9, 7, 6)
    terms = 1.0, math.log(5) / math.log(7), (28 + 15 + 16 + 7.5) / 90  # the case above over a common denominator
    expected = 0.1 * terms[0] + 0.2 * terms[1] + 0.7 * terms[2]
    assert toolkit_reward(completion(*"ABCD"), marks) == pytest.approx((*terms, expected), abs=EXACT)
    assert toolkit_reward(completion(*"ABCD"), marks, (0, 0, 1)).overall == pytest.approx(terms[2], abs=EXACT)


@pytest.mark.parametrize("mark", [0, 11, 5.0, "5", True, None])
def test_a_mark_that_no_judge_can_give_is_an_error_and_never_a_score(mark):
    with pytest.raises(ValueError, match="integers from 1 to 10; got safety="):
        Marks(5, mark, 5, 5)


def test_an_unclosed_tag_before_white_space_costs_no_more_than_its_length():
    assert toolkit_reward("<thinking>" + " " * 1_000_000 + "x", Marks(5, 5, 5, 5)).overall == 0.0


def rows(name: str, *kinds: str) -> Iterator[dict]:
    path = TABLES / name
    if not path.exists():
        pytest.skip(f"{path} is not there: the released functions' own results cannot be compared")
    with path.open(encoding="utf-8") as table:
        yield from (row for row in map(json.loads, table) if not kinds or row["kind"] in kinds)


def test_every_row_of_the_released_table_is_met():
    met = 0
    for row in rows("reference_rewards.jsonl"):
        expected = [row[term] for term in ("format", "depth", "semantic", "overall")]
        found = toolkit_reward(row["response"], Marks(**row["judge"]))
        assert found == pytest.approx(expected, abs=EXACT, rel=0), row["id"]
        met += 1
    assert met == 510


def test_every_judged_and_weighted_row_of_the_edge_table_is_met():
    met = 0
    for row in rows("reference_rewards_edge.jsonl", "judged", "judged_shape", "weights"):
        weights = row.get("weights", {"format_weight": 0.1, "depth_weight": 0.2, "semantic_weight": 0.7})
        order = [weights[f"{term}_weight"] for term in ("format", "depth", "semantic")]
        expected = [row["out"]["score"][term] for term in ("format", "depth", "semantic", "overall")]
        found = toolkit_reward(row["response"], Marks(**row["judge"]), tuple(order))
        assert found == pytest.approx(expected, abs=EXACT, rel=0), row["id"]
        met += 1
    assert met == 188 + 24 + 9


def test_every_response_row_of_the_edge_table_is_met():
    met = 0
    for row in rows("reference_rewards_edge.jsonl", "response"):
        found = toolkit_reward(row["response"], Marks(5, 5, 5, 5))  # what the released code uses without a judge
        expected = [row["out"]["score_no_judge"][term] for term in ("format", "depth", "semantic", "overall")]
        assert found == pytest.approx(expected, abs=EXACT, rel=0), row["id"]
        assert found[:2] == pytest.approx((row["out"]["format_score"], row["out"]["depth_score"]), abs=EXACT, rel=0)
        met += 1
    assert met == 187
