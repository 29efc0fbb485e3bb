"""QI-Box: which prompts GRPO trains on."""

import pytest

from saferflow.data.rows import Labels, PromptRow
from saferflow.params import CurateParams
from saferflow.stages.curate import Scored, box, summary


def prompt(
    name: str, rewards: tuple[float, ...], hazard: str = "none", severity: int = 0, source: str = "text"
) -> Scored:
    labels = Labels("safety", hazard, severity, source, "none", "answer")
    return Scored(PromptRow(name, "scenes", "safety", None, "", "q", "", labels.to_json()), rewards)


def params(**changes) -> CurateParams:
    values = {
        "max_prompt_tokens": None,
        "samples": 2,
        "quality": (0.2, 0.8),
        "min_instability": 0.02,
        "keep": 10,
        "harmless_share": 0.5,
        "solved_share": 0.0,
        "temperature": 1,
        "batch_size": 1,
    }
    return CurateParams(**(values | changes))


def names(kept: list[Scored]) -> list[str]:
    return [item.row.id for item in kept]


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        pytest.param((0.0, 1.0), True, id="mean-0.5-spread-0.5"),
        pytest.param((0.5, 0.5), False, id="no-spread-no-signal"),
        pytest.param((0.9, 1.0), False, id="mean-0.95-too-easy"),
        pytest.param((0.0, 0.2), False, id="mean-0.1-too-hard"),
        pytest.param((0.1, 0.3), True, id="mean-0.2-on-the-edge"),
    ],
)
def test_the_box_keeps_moderate_quality_with_spread(rewards, kept):
    assert names(box([prompt("a", rewards)], params())) == (["a"] if kept else [])


@pytest.mark.parametrize(
    ("rewards", "kept"),
    [
        pytest.param((None, 0.9, 0.9), False, id="a-zero-would-be-spread"),
        pytest.param((None, 0.4, 0.6), True, id="two-marks-are-enough"),
        pytest.param((None, None, 0.5), False, id="one-mark-is-no-spread"),
        pytest.param((None, None, None), False, id="no-mark"),
    ],
)
def test_a_completion_without_marks_is_no_zero_in_the_box(rewards, kept):
    assert names(box([prompt("a", rewards)], params())) == (["a"] if kept else [])


def test_prompts_without_marks_are_counted_and_in_no_mean():
    scored = [prompt("read", (0.4, 0.6)), prompt("unread", (None, 0.1)), prompt("partly", (None, 0.6, 0.8))]
    found = summary(scored, scored[:1], params())
    assert (found["prompts"], found["unjudged_prompts"]) == (3, 1)
    assert found["unjudged_share"] == pytest.approx(2 / 7)
    assert found["quality"] == pytest.approx((0.5 + 0.7) / 2)


def test_the_most_unstable_come_first():
    scored = [prompt("calm", (0.4, 0.6)), prompt("wild", (0.0, 1.0))]  # standard deviations 0.1 and 0.5
    assert names(box(scored, params(keep=2))) == ["wild"]  # half of two places are for harmless prompts


def test_harmful_places_are_dealt_to_every_stratum_before_any_gets_a_second():
    many = [prompt(f"s1-{number}", (0.0, 1.0), "S1", 3) for number in range(5)]
    scored = [*many, prompt("s2", (0.4, 0.6), "S2", 2), prompt("s7", (0.45, 0.55), "S7", 2)]
    kept = names(box(scored, params(keep=6, harmless_share=0.5)))
    assert {"s2", "s7"} < set(kept)


def test_harmless_prompts_keep_their_share_however_many_hazards_there_are():
    """One stratum of nine would leave them a ninth, and the policy would learn to refuse."""
    harmless = [prompt(f"none-{number}", (0.0, 1.0)) for number in range(9)]
    harmful = [prompt(f"s{number}", (0.0, 1.0), f"S{number}", 2) for number in range(1, 9)]
    kept = names(box([*harmless, *harmful], params(keep=8, harmless_share=0.5)))
    assert sum(name.startswith("none") for name in kept) == 4
    assert len(kept) == 8


def control(name: str, rewards: tuple[float, ...], resembles: tuple[str, ...]) -> Scored:
    labels = Labels("safety", "none", 0, "none", "none", "answer", resembles=resembles)
    return Scored(PromptRow(name, "scenes", "safety", None, "", "q", "", labels.to_json()), rewards)


def test_a_stratum_gets_as_many_harmless_prompts_that_resemble_it_as_harmful_ones_and_no_more():
    """Five controls of a request beside two harmful ones would teach to answer that request."""
    controls = [control(f"ok-{number}", (0.0, 1.0), ("S1", "3", "combination")) for number in range(5)]
    sign = control("sign", (0.4, 0.5), ("S8", "1", "typographic"))
    harmful = [prompt(f"s1-{number}", (0.0, 1.0), "S1", 3, "combination") for number in range(2)]
    other = [prompt(f"plain-{number}", (0.0, 1.0)) for number in range(3)]
    kept = names(box([*controls, sign, *harmful, *other], params(keep=12)))
    assert kept == ["ok-0", "ok-1", "plain-0", "plain-1", "plain-2", "s1-0", "s1-1"]


def test_solved_prompts_stand_in_for_the_side_that_the_box_lacks():
    """The box holds harmless prompts of S8 and harmful ones of S1; a solved one keeps the policy from unlearning S8."""
    inside = [control(f"ok-{number}", (0.0, 1.0), ("S8", "1", "combination")) for number in range(4)]
    inside += [prompt(f"s1-{number}", (0.0, 1.0), "S1", 3, "combination") for number in range(4)]
    solved = [
        prompt("s8", (1.0, 1.0), "S8", 1, "combination"),
        *(prompt(f"s1-easy-{number}", (0.9, 1.0), "S1", 3, "combination") for number in range(3)),
    ]
    hopeless = prompt("never", (0.0, 0.1), "S7", 2, "combination")
    kept = names(box([*inside, *solved, hopeless], params(keep=6, solved_share=0.34)))
    # of three harmful places two go to unstable prompts and one to a solved one; to that one a harmless one
    assert kept == ["ok-0", "s1-0", "s1-1", "s8"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_no_share_of_solved_prompts_takes_more_places_than_there_are(share):
    scored = [prompt(f"s{number}", (number / 20, 1.0), f"S{number % 7 + 1}", 2) for number in range(20)]
    kept = box(scored, params(keep=7, harmless_share=0.0, solved_share=share))
    assert len(kept) == len({item.row.id for item in kept}) == min(7, len(kept))
    assert sum(item.quality > 0.8 for item in kept) == round(7 * share)
