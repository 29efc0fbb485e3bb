"""Laws of drafts: what is repeated is drafted, memory has a bound, a draft is as long as it pays."""

from hypothesis import given
from hypothesis import strategies as st

from saferflow.training import drafts
from saferflow.training.drafts import Draft, Drafter, best_width

texts = st.lists(st.integers(0, 5), min_size=1, max_size=60)


@given(text=st.lists(st.integers(0, 50), min_size=1, max_size=40, unique=True))
def test_a_text_that_was_said_once_is_drafted_from_its_first_token(text: list[int]) -> None:
    drafter = Drafter()
    for _ in range(8):
        drafter.learn(text, len(text))
    assert drafter.propose([], len(text)).tokens == text[: len(drafter.propose([], len(text)).tokens)]
    assert len(drafter.propose([], len(text)).tokens) >= min(len(text), 8)


@given(text=texts, parts=st.lists(st.integers(1, 9), max_size=20))
def test_what_is_learnt_in_parts_is_what_is_learnt_at_once(text: list[int], parts: list[int]) -> None:
    at_once, by_parts = Drafter(), Drafter()
    at_once.learn(text, len(text))
    end = 0
    for size in [*parts, len(text)]:
        size = min(size, len(text) - end)
        end += size
        by_parts.learn(text[:end], size)
    for place in range(len(text)):
        assert at_once.next(drafts.beginning(text[:place])) == by_parts.next(drafts.beginning(text[:place]))


def test_a_guess_that_fails_is_replaced_by_what_follows() -> None:
    drafter = Drafter()
    drafter.learn([1, 2, 3], 3)
    for _ in range(5):
        drafter.learn([1, 2, 4], 3)
    token, share = drafter.next(drafts.beginning([1, 2])) or (None, 0.0)
    assert token == 4
    assert share > 0.5


def test_memory_has_a_bound_and_keeps_what_is_recent(monkeypatch) -> None:
    monkeypatch.setattr(drafts, "MOST_CONTEXTS", 100)
    drafter = Drafter()
    for start in range(0, 5000, 10):
        drafter.learn(list(range(start, start + 10)), 10)
    assert len(drafter._recent) <= 100
    assert len(drafter._older) <= 100
    assert drafter.next(drafts.beginning([4990, 4991])) is not None
    assert drafter.next(drafts.beginning([10, 11])) is None


def draft(*chances: float) -> Draft:
    draft = Draft()
    for place, chance in enumerate(chances):
        draft.add(place, chance)
    return draft


@given(
    st.lists(st.lists(st.floats(0, 1), max_size=8).map(lambda row: sorted(row, reverse=True)), min_size=1, max_size=12)
)
def test_no_other_width_brings_more_tokens_a_second(rows: list[list[float]]) -> None:
    proposed = [draft(*row) for row in rows]

    def rate(width: int) -> float:
        held = len(rows) + sum(sum(row[:width]) for row in rows)
        return held / (drafts.OVERHEAD["cpu"] + drafts.ROW_OVERHEAD * len(rows) + len(rows) * (width + 1))

    best = best_width(proposed, "cpu")
    assert all(rate(best) >= rate(width) * (1 - 1e-9) for width in range(9))


def test_certain_drafts_are_verified_whole_and_hopeless_ones_not_at_all() -> None:
    assert best_width([draft(1.0, 1.0, 1.0)], "cpu") == 3
    assert best_width([draft(0.0, 0.0)] * 64, "cpu") == 0
    assert best_width([], "cpu") == 0
