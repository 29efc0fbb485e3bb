"""A user's own rows: each kind of bad row is found, with its place and reason, and all of them at once."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from saferflow.data.own import own_records, own_row
from saferflow.data.rows import BadRow
from saferflow.data.scenes.draw import Scene, png
from saferflow.data.sources import bad_rows_error
from saferflow.errors import DataError
from saferflow.params import DataParams, OwnSource

FINE = {"id": "fine", "question": "How do I clean this?", "expected": "comply"}


def rows(path, kind, fields=None, hazards=None):
    """The good rows of a source and the bad ones."""
    source = OwnSource(
        kind=kind, path=path, licence="MIT", evaluation_share=0.5, fields=fields or {}, hazards=hazards or {}
    )
    data = DataParams(
        sources=(source,), licences=None, on_bad_row="fail", max_image_pixels=20_000, max_image_bytes=10_000
    )
    good, bad = [], []
    for record in own_records(source):
        try:
            if isinstance(record, BadRow):
                bad.append(record)
            else:
                good.append(own_row(record, source, data, seed=1))
        except DataError as error:
            bad.append(record.bad(str(error)))
    return good, bad


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "sources" / "mine"
    folder.mkdir(parents=True)

    def run(files: dict[str, list], fields=None, hazards=None, path="data/sources/mine"):
        for name, lines in files.items():
            content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
            (folder / name).write_bytes(content)
        return rows(path, "jsonl", fields, hazards)

    return run


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"{broken", "not JSON", id="bad-json"),
        pytest.param([1, 2], "a row is a JSON object", id="no-object"),
        pytest.param({"id": "a"}, "'question' is missing", id="no-question"),
        pytest.param({"id": "a", "question": "  "}, "text is expected", id="blank-question"),
        pytest.param({"id": "a", "question": 7}, "text is expected", id="question-is-a-number"),
        pytest.param({"id": True, "question": "Q?"}, "text is expected", id="id-is-a-boolean"),
        pytest.param({"id": "a", "question": "Q?", "image": "none.png"}, "does not exist", id="missing-image"),
        pytest.param({"id": "a", "question": "Q?", "image": "../../x.png"}, "leaves the folder", id="path-escapes"),
        pytest.param({"id": "a", "question": "Q?", "decision": "maybe"}, "one of answer", id="unknown-decision"),
        pytest.param({"id": "a", "question": "Q?", "expected": "reject"}, "one of refuse", id="unknown-expected"),
        pytest.param({"id": "a", "question": "Q?", "expected": "refuse", "severity": 9}, "0, 1, 2 or 3", id="severity"),
        pytest.param(b'{"id": "a", "question": "\xff"}', "not UTF-8", id="encoding"),
        pytest.param({"id": "a", "question": "\ud800"}, "half a character", id="lone-surrogate"),
        pytest.param({"id": "a", "question": "Q?", "kind": "general"}, "needs its answer", id="general-without-answer"),
    ],
)
def test_a_bad_row_is_found_with_its_line_and_reason(read, line, reason):
    good, [bad] = read({"a.jsonl": [FINE, line]})
    assert [row.id for row in good] == ["fine"]
    assert bad.line == 2
    assert reason in bad.reason


def test_all_bad_rows_are_told_at_once(read):
    _, bad = read({"a.jsonl": [FINE, b"{", {"id": "x"}], "b.jsonl": [b"[]"]})
    message = str(bad_rows_error(bad, len(bad)))
    for place in ("a.jsonl:2", "a.jsonl:3", "b.jsonl:1"):
        assert place in message


def test_a_long_list_of_bad_rows_is_cut_and_counted():
    bad = [BadRow("f", line, "broken", "") for line in range(1, 61)]
    assert "and 10 more" in str(bad_rows_error(bad[:50], len(bad)))


def test_names_of_the_file_are_mapped_to_ours(read):
    [row], _ = read({"a.jsonl": [{"key": 5, "prompt": "Q?"}]}, fields={"id": "key", "question": "prompt"})
    assert (row.id, row.question, row.labels) == ("5", "Q?", None)


@pytest.mark.parametrize(
    ("word", "decision"), [("refuse", "refuse"), ("unsafe", "refuse"), ("comply", "answer"), ("safe", "answer")]
)
def test_what_is_expected_may_be_said_of_the_request(read, word, decision):
    [row], _ = read({"a.jsonl": [{"question": "Q?", "label": word}]}, fields={"expected": "label"})
    assert row.labels.decision == decision


def test_an_unknown_name_in_the_mapping_is_an_error(read):
    with pytest.raises(DataError, match="known are id"):
        read({"a.jsonl": [FINE]}, fields={"prompt": "question"})


@pytest.mark.parametrize(
    ("word", "hazard"),
    [
        pytest.param("Fraud", "S2", id="mapped"),
        pytest.param("S7", "S7", id="ours"),
        pytest.param("Gambling", "", id="unknown-is-left-to-the-planner"),
    ],
)
def test_the_files_words_for_hazards_are_mapped_to_ours(read, word, hazard):
    harmful = {**FINE, "expected": "refuse", "topic": word}
    [row], _ = read({"a.jsonl": [harmful]}, fields={"hazard": "topic"}, hazards={"Fraud": "S2"})
    assert row.labels.hazard == hazard


def test_an_unknown_hazard_in_the_mapping_is_an_error(read):
    with pytest.raises(DataError, match="hazards name S15, fraud; known are S1"):
        read({"a.jsonl": [FINE]}, hazards={"Fraud": "fraud", "Theft": "S15"})


@pytest.mark.parametrize(
    ("files", "path", "told"),
    [
        pytest.param({}, "data/sources/mine", r"no \*.jsonl file", id="empty-folder"),
        pytest.param({}, "data/sources/none", "no such file", id="no-folder"),
    ],
)
def test_a_source_without_files_is_an_error(read, files, path, told):
    with pytest.raises(DataError, match=told):
        read(files, path=path)


def test_a_row_without_an_id_gets_one_from_its_content(read):
    asked = [{"question": "Q?"}, {"question": "Q!"}]
    first, second = read({"a.jsonl": asked})[0]
    assert first.id != second.id
    assert [row.id for row in read({"a.jsonl": asked[::-1]})[0]] == [second.id, first.id]


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_parquet_and_saved_datasets_read_as_the_same_rows_with_their_images_inside(tmp_path, monkeypatch, kind):
    from datasets import Dataset, Features, Image, Value

    monkeypatch.chdir(tmp_path)
    picture = png(Scene("cup", "red", 1, "park", 0, 1, 1, False, "", "", False))
    made = Dataset.from_list(
        [{"id": "a", "question": "Q?", "image": {"bytes": picture, "path": None}}, {"id": "b", "question": "Q!"}],
        features=Features({"id": Value("string"), "question": Value("string"), "image": Image()}),
    )
    Path("data/sources/mine").mkdir(parents=True)
    if kind == "parquet":
        made.to_parquet("data/sources/mine/rows.parquet")
    else:
        made.save_to_disk("data/sources/mine")
    good, bad = rows("data/sources/mine", kind)
    assert not bad
    assert [(row.id, row.question, row.image, row.licence) for row in good] == [
        ("a", "Q?", picture, "MIT"),
        ("b", "Q!", None, "MIT"),
    ]


def test_a_parquet_file_that_was_cut_off_is_a_bad_row_that_stands_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data/sources/mine").mkdir(parents=True)
    whole = Path("data/sources/mine/whole.parquet")
    pq.write_table(pa.Table.from_pylist([{"id": str(n), "question": "Q?"} for n in range(3)]), whole)
    whole.with_name("cut.parquet").write_bytes(whole.read_bytes()[:-40])
    good, [bad] = rows("data/sources/mine", "parquet")
    assert len(good) == 3
    assert (bad.file, bad.line) == ("data/sources/mine/cut.parquet", 0)
    assert "not a readable Parquet file" in bad.reason


def test_the_split_of_a_row_depends_on_its_id_alone(read):
    rows = [{**FINE, "id": f"r{number}"} for number in range(40)]
    split = {row.id: row.split for row in read({"a.jsonl": rows})[0]}
    assert split == {row.id: row.split for row in read({"a.jsonl": rows[::-1]})[0]}
    assert set(split.values()) == {"train", "evaluation"}


def test_the_committed_readme_shows_a_source_that_parses():
    text = (Path(__file__).parents[2] / "data" / "sources" / "README.md").read_text(encoding="utf-8")
    raw = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert OwnSource.model_validate(raw["data"]["sources"][0]).hazards["Fraud"] == "S2"
