"""The ledger of alias moves: what was written stays, and a change shows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow.errors import PipelineError
from saferflow.release.ledger import DONE, Witness, key, line_after, read

VERSIONS = st.one_of(st.none(), st.integers(1, 99))
MOVES = st.dictionaries(
    st.sampled_from(["candidate", "champion", "previous"]), st.tuples(VERSIONS, VERSIONS), min_size=1
)


def written(*changes) -> dict[str, str]:
    """The tags of a model whose ledger has these lines."""
    tags, lines = {DONE: "x", "other": "tag"}, []
    for number, (moves, reason) in enumerate(changes, 1):
        lines.append(line_after(lines, moves, reason))
        tags[key(number)] = lines[-1].to_json()
    return tags


@given(st.lists(st.tuples(MOVES, st.text(max_size=20)), max_size=5))
def test_what_is_written_is_read_in_order(changes):
    assert [(line.moves, line.reason) for line in read(written(*changes))] == changes


@pytest.fixture
def tags():
    return written(*(({"champion": (number - 1 or None, number)}, f"reason {number}") for number in (1, 2, 3)))


def tampered(tags, number, **changes):
    return {**tags, key(number): json.dumps({**json.loads(tags[key(number)]), **changes})}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda t: tampered(t, 2, reason="better"), "line 2: it is not what was written", id="changed"),
        pytest.param(lambda t: {n: v for n, v in t.items() if n != key(2)}, "line 2: it is missing", id="lost"),
        pytest.param(lambda t: {**t, key(1): t[key(2)], key(2): t[key(1)]}, "line 1: it does not follow", id="swapped"),
        pytest.param(lambda t: {**t, key(4): t[key(3)]}, "line 4: it does not follow", id="twice"),
        pytest.param(lambda t: {**t, key(3): t[key(3)][:40]}, "line 3: it is no line of a ledger", id="cut-off"),
        pytest.param(lambda t: {**t, key(4): "[]"}, "line 4: it is no line of a ledger", id="not-an-object"),
    ],
)
def test_a_ledger_that_was_touched_names_the_line(tags, change, told):
    with pytest.raises(PipelineError, match=told):
        read(change(tags))


def test_lines_that_were_taken_off_the_end_are_noticed_by_who_saw_them(tags, tmp_path):
    shorter = {name: text for name, text in tags.items() if name != key(3)}
    assert len(read(shorter)) == 2, "the chain itself does not show it"
    seen = Witness(tmp_path / "home" / "ledgers.json", "the registry model")
    seen.check(read(shorter))
    seen.check(read(tags))
    seen.check(read(tags))
    with pytest.raises(PipelineError, match="had 3 lines when this checkout last looked"):
        seen.check(read(shorter))
    Witness(seen.file, "the registry another").check(read(shorter))
    replaced = written(*(({"champion": (number, number + 1)}, "other") for number in range(5)))
    with pytest.raises(PipelineError, match="has lost some of them"):
        seen.check(read(replaced))
