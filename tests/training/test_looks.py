"""Which look is the best, how long nothing was better, and which checkpoints stay because of it."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from saferflow.training.checkpoints import KEPT, superseded
from saferflow.training.looks import SCORE, Look, best, looks, since_best

SCORES = st.lists(st.integers(0, 4).map(float), min_size=1, max_size=12)
"""Few different ones, so that many are equal."""


def log(scores: list[float], every: int = 10) -> list[dict]:
    """A trainer's log: losses, and a look every few steps."""
    entries: list[dict] = []
    for number, score in enumerate(scores, 1):
        entries += [
            {"loss": 1.0, "step": every * number - 1},
            {"step": every * number, SCORE: score, "watch_safety": 1.0},
        ]
    return [*entries, {"train_loss": 1.0, "step": every * len(scores)}]


def test_looks_are_told_from_the_other_entries_of_the_log():
    entries = [
        {"loss": 2.0, "step": 1},
        {SCORE: 50.0, "watch_safety": 60.0, "step": 2},
        {"watch_validity": 1.0, "step": 4},
    ]
    assert looks(entries) == [Look(2, {SCORE: 50.0, "watch_safety": 60.0})]


@given(SCORES)
def test_no_look_is_better_than_the_best_and_none_before_it_is_as_good(scores):
    leading = best(looks(log(scores)))
    assert leading.score == max(scores)
    assert leading.step == 10 * (scores.index(max(scores)) + 1)


@given(SCORES)
def test_the_looks_since_the_best_are_those_that_come_after_it(scores):
    assert since_best(looks(log(scores))) == len(scores) - 1 - scores.index(max(scores))


def test_without_a_graded_look_there_is_no_best_and_no_patience_is_lost():
    assert best([]) is None
    assert since_best([]) == 0


@given(SCORES, st.sets(st.integers(1, 120), min_size=1))
def test_the_newest_checkpoints_stay_and_the_best_as_each_of_them_knows_it(scores, others):
    """A run may go on from any of the newest, and must then still have what was the best at that time."""
    entries = log(scores)
    steps = {step for step in others if step <= 10 * len(scores)} | {10 * n for n in range(1, len(scores) + 1)}
    folders = [Path(f"checkpoint-{step}") for step in sorted(steps, reverse=True)]
    kept = set(folders) - set(superseded(folders, entries))
    newest = folders[:KEPT]
    expected = set(newest)
    for folder in newest:
        so_far = scores[: int(folder.name.rpartition("-")[2]) // 10]
        if so_far:
            expected.add(Path(f"checkpoint-{10 * (so_far.index(max(so_far)) + 1)}"))
    assert kept == expected
    assert len(kept) <= 2 * KEPT


def test_nothing_but_the_newest_stays_where_the_best_is_not_kept():
    folders = [Path(f"checkpoint-{step}") for step in (40, 30, 20, 10)]
    assert superseded(folders, ()) == folders[KEPT:]
