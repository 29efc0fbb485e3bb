"""Tables: what is written is read, and a write that fails leaves the old file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.rows import BadRow, DPORow, Labels, PromptRow, SFTRow, turns_to_json, whole_question
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ROWS = st.lists(
    st.builds(PromptRow, TEXT, TEXT, TEXT, st.none() | st.binary(max_size=20), TEXT, TEXT, TEXT, TEXT, TEXT), max_size=5
)
TURNS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)


@settings(max_examples=30)
@given(rows=ROWS)
def test_rows_read_back_as_they_were_written(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("tables") / "rows.parquet"
    write_table(path, rows, PromptRow)
    assert read_table(path, PromptRow) == rows


def test_equal_rows_give_equal_bytes(tmp_path):
    rows = [BadRow("f", 1, "r", "c")]
    write_table(tmp_path / "a", rows, BadRow)
    write_table(tmp_path / "b", rows, BadRow)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_write_that_fails_leaves_the_old_table_and_nothing_else(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, [BadRow("f", 1, "r", "c")], BadRow)
    before = path.read_bytes()
    with pytest.raises(Exception, match="int"):
        write_table(path, [BadRow("f", "one", "r", "c")], BadRow)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


@pytest.mark.parametrize("content", [b"", b"PAR1 and no more"], ids=["empty", "truncated"])
def test_an_unreadable_table_says_what_to_do(tmp_path, content):
    (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(DataError, match="run `saferflow run`"):
        read_table(tmp_path / "t.parquet", BadRow)


def test_a_table_of_other_columns_is_refused(tmp_path):
    write_table(tmp_path / "t.parquet", [BadRow("f", 1, "r", "c")], BadRow)
    with pytest.raises(DataError, match="columns are"):
        read_table(tmp_path / "t.parquet", PromptRow)


def test_labels_read_back_as_they_were_written():
    labels = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "park", "", (("a", "b"), ("c",)))
    assert Labels.from_json(labels.to_json()) == labels


def row(kind: type, question: str, earlier: str):
    values = dict.fromkeys(kind.__dataclass_fields__, "") | {"id": "r", "image": None}
    return kind(**values | {"question": question, "earlier": earlier})


@pytest.mark.parametrize("kind", [SFTRow, DPORow, PromptRow])
@given(turns=TURNS, last=TEXT)
def test_turns_and_the_last_question_are_read_back_as_they_were_written(kind, turns, last):
    made = row(kind, whole_question(turns, last), turns_to_json(turns))
    assert (made.turns, made.last_question) == (turns, last)


def test_a_row_without_earlier_turns_is_its_question():
    made = row(SFTRow, "Two\nlines?", "")
    assert (made.turns, made.last_question) == ((), "Two\nlines?")


def test_tables_of_before_the_turns_are_read(tmp_path):
    import pyarrow.parquet as pq

    path = tmp_path / "t.parquet"
    write_table(path, [row(SFTRow, "Why?", "")], SFTRow)
    pq.write_table(pq.read_table(path).drop_columns(["earlier", "writer"]), path)
    assert read_table(path, SFTRow) == [row(SFTRow, "Why?", "")]


@pytest.mark.parametrize(
    ("question", "earlier", "reason"),
    [
        pytest.param("Q?\nAnd?", "[[1, 2]]", "a JSON list of", id="numbers"),
        pytest.param("Q?\nAnd?", '[["Q?"]]', "a JSON list of", id="no-answer"),
        pytest.param("Q?\nAnd?", "{broken", "a JSON list of", id="no-json"),
        pytest.param("And?", '[["Q?", "A."]]', "does not begin with what the user said", id="question-lost"),
    ],
)
def test_a_broken_conversation_names_the_row(question, earlier, reason):
    with pytest.raises(DataError, match=f"row r: .*{reason}"):
        _ = row(PromptRow, question, earlier).last_question
