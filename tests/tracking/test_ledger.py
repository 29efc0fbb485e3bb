"""The ledger of alias moves: what was written stays, and a change shows."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saferflow.errors import PipelineError
from saferflow.tracking.ledger import append, move, read

VERSIONS = st.one_of(st.none(), st.integers(1, 99))
MOVES = st.lists(
    st.tuples(st.sampled_from(["champion", "previous"]), VERSIONS, VERSIONS, st.text(max_size=20)), max_size=5
)


@given(MOVES)
def test_what_is_appended_is_read_in_order(tmp_path_factory, moves):
    file = tmp_path_factory.mktemp("ledger") / "new" / "ledger.jsonl"
    made = [move("model", *one) for one in moves]
    for one in made:
        append(one, file)
    assert read(file) == made


@pytest.fixture
def file(tmp_path):
    for number in (1, 2, 3):
        append(move("model", "champion", number - 1 or None, number, f"reason {number}"), tmp_path / "ledger.jsonl")
    return tmp_path / "ledger.jsonl"


def tampered(lines, number, **changes):
    lines[number] = json.dumps({**json.loads(lines[number]), **changes})
    return lines


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda lines: tampered(lines, 1, after=9), ":2: it is not what was written", id="changed"),
        pytest.param(lambda lines: lines[:1] + lines[2:], ":2: it does not follow", id="lost"),
        pytest.param(lambda lines: [lines[1], lines[0], lines[2]], ":1: it does not follow", id="swapped"),
        pytest.param(lambda lines: [*lines, lines[2]], ":4: it does not follow", id="twice"),
        pytest.param(lambda lines: [*lines[:2], lines[2][:40]], ":3: it is no line of a ledger", id="cut-off"),
        pytest.param(lambda lines: [*lines, "[]"], ":4: it is no line of a ledger", id="not-an-object"),
    ],
)
def test_a_ledger_that_was_touched_names_the_line_and_takes_no_more(file, change, told):
    lines = change(file.read_text(encoding="utf-8").splitlines())
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    with pytest.raises(PipelineError, match=told):
        read(file)
    with pytest.raises(PipelineError, match=told):
        append(move("model", "champion", 3, 4, "more"), file)
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(lines)
