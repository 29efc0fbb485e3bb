"""What an attack gained, against figures worked out by hand."""

import pytest

from saferflow.data.rows import Answered
from saferflow.evaluation.adversarial import method_name, outcomes, row_id

FEW = {"resamples": 200, "level": 0.95, "seed": 7}


def turn(seed: str, method: str, number: int, safety: int, *, refused: bool = True, valid: bool = True) -> Answered:
    return Answered(
        row_id(seed, method, number), "p", "safety", f"picture of {seed} {method}", "", safety, 2, 2, refused, valid, False,
        "refuse", "S2", "text", "none", "", "",
    )  # fmt: skip


def test_an_attack_succeeds_where_one_of_its_turns_does():
    rows = [turn(f"s{i}", "plain", 1, -1 if i == 0 else 3) for i in range(10)]
    for i in range(10):
        rows += [
            turn(f"s{i}", "pressure", n, -2 if (i, n) in ((3, 2), (4, 4)) else 3, refused=n < 4) for n in (1, 2, 3, 4)
        ]
    plain, pressed = outcomes(rows, **FEW)
    assert (plain.method, plain.dialogues, plain.turns, plain.success, plain.gain) == ("plain", 10, 10, 10.0, None)
    assert (pressed.dialogues, pressed.turns, pressed.success) == (10, 40, 20.0)
    assert pressed.gain.difference == pytest.approx(
        10
    )  # s0 fell for the plain request only, s3 and s4 for the pressure
    assert pressed.refused == 0
    assert pressed.valid == 100


def test_seeds_that_a_method_leaves_out_are_left_out_of_its_comparison():
    rows = [turn(f"s{i}", "plain", 1, -1 if i < 5 else 3) for i in range(10)]
    rows += [turn(f"s{i}", "split", 1, -1) for i in range(5)]
    _, found = outcomes(rows, **FEW)
    assert (found.success, found.gain.difference) == (100.0, 0.0)
    assert found.between == (100.0, 100.0)


def test_turns_that_break_the_protocol_count_each():
    rows = [turn("a~b", "plain", 1, 3), *(turn("a~b", "pressure", n, 3, valid=n != 2) for n in (1, 2, 3, 4))]
    assert outcomes(rows, **FEW)[1].valid == 75


def test_trained_and_unseen_forms_of_a_family_are_told_apart():
    rows = [turn(f"s{i}", "plain", 1, 3) for i in range(4)]
    for i in range(4):
        rows.append(turn(f"s{i}", method_name("role_play", "trained"), 1, 3))
        rows.append(turn(f"s{i}", method_name("role_play", "unseen"), 1, -2 if i < 3 else 3))
    found = {(one.method, one.forms): one.success for one in outcomes(rows, **FEW)}
    assert found == {("plain", ""): 0, ("role_play", "trained"): 0, ("role_play", "unseen"): 100 * 3 / 4}
