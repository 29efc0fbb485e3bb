"""A user's JSON Lines: each kind of bad row is found, with its line and reason, and all of them at once."""

import json

import pytest
import yaml

from saferflow.data.jsonl import bad_rows_error, read_jsonl_source
from saferflow.data.rows import BadRow
from saferflow.errors import DataError
from saferflow.params import DataParams, JsonlSource

FINE = {"id": "fine", "question": "How do I clean this?", "expected": "comply"}


@pytest.fixture
def read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "sources" / "mine"
    folder.mkdir(parents=True)

    def run(files: dict[str, list], fields=None, hazards=None, path="data/sources/mine"):
        for name, lines in files.items():
            content = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
            (folder / name).write_bytes(content)
        source = JsonlSource(kind="jsonl", path=path, evaluation_share=0.5, fields=fields or {}, hazards=hazards or {})
        data = DataParams(sources=(source,), on_bad_row="fail", max_image_pixels=10_000, max_image_bytes=10_000)
        return read_jsonl_source(source, data, seed=1)

    return run


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"{broken", "not JSON", id="bad-json"),
        pytest.param([1, 2], "a row is a JSON object", id="no-object"),
        pytest.param({"question": "Q?"}, "'id' is missing", id="no-id"),
        pytest.param({"id": "a"}, "'question' is missing", id="no-question"),
        pytest.param({"id": "a", "question": "  "}, "text is expected", id="blank-question"),
        pytest.param({"id": "a", "question": 7}, "text is expected", id="question-is-a-number"),
        pytest.param({"id": True, "question": "Q?"}, "text is expected", id="id-is-a-boolean"),
        pytest.param({"id": "a", "question": "Q?", "image": "none.png"}, "does not exist", id="missing-image"),
        pytest.param({"id": "a", "question": "Q?", "image": "../../x.png"}, "leaves the folder", id="path-escapes"),
        pytest.param({"id": "a", "question": "Q?", "decision": "maybe"}, "one of answer", id="unknown-decision"),
        pytest.param({"id": "a", "question": "Q?", "expected": "reject"}, "one of refuse", id="unknown-expected"),
        pytest.param({"id": "a", "question": "Q?", "expected": "refuse", "severity": 9}, "0, 1, 2 or 3", id="severity"),
        pytest.param({"id": "fine", "question": "Q?"}, "stands in", id="duplicate-id"),
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
    _, bad = read({"a.jsonl": [FINE, b"{", {"id": "x"}], "b.jsonl": [b"[]", {**FINE}]})
    message = str(bad_rows_error(bad))
    for place in ("a.jsonl:2", "a.jsonl:3", "b.jsonl:1", "b.jsonl:2"):
        assert place in message


def test_a_long_list_of_bad_rows_is_cut_and_counted():
    bad = [BadRow("f", line, "broken", "") for line in range(1, 61)]
    assert "and 10 more" in str(bad_rows_error(bad))


def test_names_of_the_file_are_mapped_to_ours(read):
    [row], _ = read({"a.jsonl": [{"key": 5, "prompt": "Q?"}]}, fields={"id": "key", "question": "prompt"})
    assert (row.id, row.question, row.labels) == ("5", "Q?", None)


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
        pytest.param({"a.jsonl": []}, "data/sources/mine", "holds no row", id="empty-file"),
        pytest.param({"a.jsonl": [b"{"]}, "data/sources/mine", "a.jsonl:1", id="only-bad-rows"),
    ],
)
def test_a_source_without_rows_is_an_error(read, files, path, told):
    with pytest.raises(DataError, match=told):
        read(files, path=path)


def test_the_split_of_a_row_depends_on_its_id_alone(read):
    rows = [{**FINE, "id": f"r{number}"} for number in range(40)]
    split = {row.id: row.split for row in read({"a.jsonl": rows})[0]}
    assert split == {row.id: row.split for row in read({"a.jsonl": rows[::-1]})[0]}
    assert set(split.values()) == {"train", "evaluation"}


def test_the_committed_readme_shows_a_source_that_parses():
    from pathlib import Path

    text = (Path(__file__).parents[2] / "data" / "sources" / "README.md").read_text(encoding="utf-8")
    raw = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert JsonlSource.model_validate(raw["data"]["sources"][0]).hazards["Fraud"] == "S2"
