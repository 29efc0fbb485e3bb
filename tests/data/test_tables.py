"""Tables: what is written is read, and a write that fails leaves the old file."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saferflow.data.rows import BadRow, Labels, PromptRow
from saferflow.data.tables import read_table, write_table
from saferflow.errors import DataError

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
ROWS = st.lists(
    st.builds(PromptRow, TEXT, TEXT, TEXT, st.none() | st.binary(max_size=20), TEXT, TEXT, TEXT, TEXT), max_size=5
)


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
