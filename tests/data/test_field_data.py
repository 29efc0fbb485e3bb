"""Files as people have them: read whole, or refused with file and line; nothing is taken for something else."""

import base64
import gzip
import io
import json
import math
import tarfile
import zlib
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from saferflow.data.images import canonical, open_rgb, take_image
from saferflow.data.kinds import kind_of
from saferflow.data.own import own_records, row_of
from saferflow.data.rows import BadRow
from saferflow.data.sources import Ids, parts, rows_of
from saferflow.errors import DataError
from saferflow.params import DataParams, OwnSource, load_params

ROOT = Path(__file__).parents[2]
RED = (200, 30, 30)


def png(**options) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), RED).save(buffer, "PNG", **options)
    return buffer.getvalue()


PICTURE = png()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "data" / "sources" / "mine"
    place.mkdir(parents=True)
    return place


def rows(kind=None, fields=None, hazards=None):
    """The good rows of the source, its bad ones, and what each good one was taken for, as stage plan reads them."""
    path = "data/sources/mine"
    source = OwnSource(
        kind=kind or kind_of(Path(path)), path=path, licence=None, evaluation_share=0.5, fields=fields or {},
        hazards=hazards or {},
    )  # fmt: skip
    params = load_params(ROOT / "profiles" / "micro.yaml")
    params = params.model_copy(update={"data": params.data.model_copy(update={"sources": (source,)})})
    placed = [one for part in parts(params) for one in rows_of(part, params)]
    bad = [one.row for one in placed if isinstance(one.row, BadRow)]
    good = [one for one in placed if not isinstance(one.row, BadRow)]
    return [one.row for one in good], bad, good


ASKED = [{"id": "a", "question": "Q?"}, {"id": "b", "question": "Q!"}]
LINES = "".join(json.dumps(row) + "\n" for row in ASKED).encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param("rows.jsonl", LINES, id="lines"),
        pytest.param("rows.jsonl", json.dumps(ASKED).encode(), id="array-in-jsonl"),
        pytest.param("rows.jsonl", json.dumps(ASKED, indent=2).encode(), id="array-on-many-lines"),
        pytest.param("rows.jsonl", b"\xef\xbb\xbf" + json.dumps(ASKED).encode(), id="array-with-bom"),
        pytest.param("rows.json", json.dumps(ASKED).encode(), id="json-list"),
        pytest.param("rows.json", LINES, id="lines-in-json"),
        pytest.param("rows.json", json.dumps({"version": "1", "data": ASKED}).encode(), id="list-in-an-object"),
        pytest.param(
            "rows.json", json.dumps({row["id"]: {"question": row["question"]} for row in ASKED}).encode(), id="keyed"
        ),
        pytest.param("rows.jsonl.gz", gzip.compress(LINES), id="gzip"),
        pytest.param("rows.ndjson", LINES, id="ndjson"),
        pytest.param("rows.csv", b"id,question\na,Q?\nb,Q!\n", id="csv"),
        pytest.param("rows.csv", b"\xef\xbb\xbfid;question\r\na;Q?\r\nb;Q!\r\n", id="csv-of-a-spreadsheet"),
        pytest.param("rows.tsv", b"id\tquestion\na\tQ?\nb\tQ!\n", id="tsv"),
        pytest.param("rows.csv.gz", gzip.compress(b"id,question\na,Q?\nb,Q!\n"), id="csv-gzip"),
        pytest.param("inner/rows.jsonl", LINES, id="folder-in-the-folder"),
    ],
)
def test_a_table_of_texts_is_read_however_it_is_written(folder, name, content):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    good, bad, _ = rows()
    assert not bad
    assert [(row.id, row.question) for row in good] == [("a", "Q?"), ("b", "Q!")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        pytest.param("rows.json", b'[{"id": "a"},', "not JSON", id="cut-off"),
        pytest.param("rows.jsonl", b'{\n"id": "a",\n', "not JSON", id="one-object-cut-off"),
        pytest.param(
            "rows.json", pd.DataFrame(ASKED).to_json().encode(), "orient='records'", id="columns-of-a-data-frame"
        ),
        pytest.param("rows.csv", "id;question\na;Où?\n".encode("latin-1"), "not UTF-8; iconv", id="latin-1"),
        pytest.param("rows.csv", b"question,note,note\na,b,c\n", "several columns note", id="column-twice"),
        pytest.param("rows.json", b"{}", "a JSON list of objects is expected", id="empty-object"),
        pytest.param("rows.json", b"[]", "an empty list", id="empty-list"),
        pytest.param("rows.json", b"3", "this is a int", id="number"),
        pytest.param("rows.jsonl.gz", b"no gzip", "cannot be read", id="no-gzip"),
        pytest.param("rows.jsonl.gz", gzip.compress(LINES)[:-12], "cannot be read", id="gzip-cut-off"),
        pytest.param("rows.parquet", b"", "not a readable Parquet file", id="empty-parquet"),
    ],
)
def test_a_file_that_is_none_is_one_bad_row(folder, name, content, reason):
    (folder / name).write_bytes(content)
    _, bad, _ = rows()
    assert reason in bad[-1].reason


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_an_empty_file_holds_no_row(folder, name):
    (folder / name).touch()
    assert rows() == ([], [], [])


def test_what_a_data_frame_made_floats_are_whole_numbers(folder):
    frame = pd.DataFrame(
        {
            "id": [33, None, 35], "question": ["A?", "B?", "C?"], "severity": [2, None, 3],
            "expected": ["refuse", None, "refuse"], "hazard": ["S1", None, 4],
        }
    )  # fmt: skip
    frame.to_json(folder / "rows.jsonl", orient="records", lines=True)
    assert '"severity":2.0' in (folder / "rows.jsonl").read_text()
    good, bad, _ = rows(hazards={"4": "S2"})
    assert not bad
    assert [good[0].id, good[2].id] == ["33", "35"]
    assert [row.labels and (row.labels.severity, row.labels.hazard) for row in good] == [(2, "S1"), None, (3, "S2")]
    frame.drop(columns="hazard").to_parquet(folder / "rows.parquet")
    good, bad, _ = rows("parquet")
    assert [(row.id, row.labels and row.labels.severity) for row in good if row.labels] == [("33", 2), ("35", 3)]
    frame.to_csv(folder / "rows.csv")
    assert [row.id for row in rows("csv")[0]][::2] == ["33.0", "35.0"], "text is taken as it stands"


@pytest.mark.parametrize("severity", [2.5, 4, -1, "high", True, math.inf])
def test_a_severity_that_is_none_is_refused(folder, severity):
    (folder / "rows.jsonl").write_text(json.dumps({"question": "Q?", "expected": "refuse", "severity": severity}))
    _, [bad], _ = rows()
    assert "0, 1, 2 or 3 is expected" in bad.reason


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_a_class_label_is_read_by_its_name(folder, kind):
    from datasets import ClassLabel, Dataset, Features, Value

    made = Dataset.from_dict(
        {"prompt": ["A?", "B?", "C?"], "category": [0, 1, None], "expected": [1, 0, 0]},
        features=Features(
            {"prompt": Value("string"), "category": ClassLabel(names=["Fraud", "none"]),
             "expected": ClassLabel(names=["comply", "refuse"])}
        ),
    )  # fmt: skip
    made.to_parquet(folder / "rows.parquet") if kind == "parquet" else made.save_to_disk(folder)
    good, bad, _ = rows(fields={"hazard": "category"}, hazards={"Fraud": "S2"})
    assert not bad
    assert [(row.labels.decision, row.labels.hazard) for row in good] == [
        ("refuse", "S2"),
        ("answer", "none"),
        ("answer", ""),
    ]


@pytest.mark.parametrize("kind", ["parquet", "datasets"])
def test_a_list_of_pictures_of_datasets_is_one_picture_or_none(folder, kind):
    from datasets import Dataset, Features, Image, List, Value

    made = Dataset.from_list(
        [
            {"prompt": "One?", "images": [{"bytes": PICTURE, "path": None}]},
            {"prompt": "None?", "images": []},
            {"prompt": "Two?", "images": [{"bytes": PICTURE, "path": None}] * 2},
        ],
        features=Features({"prompt": Value("string"), "images": List(Image())}),
    )
    made.to_parquet(folder / "rows.parquet") if kind == "parquet" else made.save_to_disk(folder)
    good, [bad], _ = rows()
    assert [row.image for row in good] == [PICTURE, None]
    assert "2 pictures" in bad.reason
    assert bad.line == 3


WRITTEN = base64.b64encode(PICTURE).decode()


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(f"data:image/png;base64,{WRITTEN}", id="data-uri"),
        pytest.param(f"DATA:image/png;name=a.png;base64,{WRITTEN}", id="data-uri-with-parameters"),
        pytest.param(WRITTEN, id="base64"),
        pytest.param(WRITTEN.rstrip("="), id="base64-without-padding"),
        pytest.param("\n".join(WRITTEN[at : at + 76] for at in range(0, len(WRITTEN), 76)), id="base64-on-lines"),
        pytest.param({"bytes": WRITTEN, "path": None}, id="bytes-as-base64"),
        pytest.param({"url": f"data:image/png;base64,{WRITTEN}"}, id="openai"),
        pytest.param(list(PICTURE), id="numbers"),
        pytest.param([None, {"bytes": PICTURE, "path": "a.png"}], id="list-with-nothing-in-it"),
        pytest.param({"bytes": None, "path": "a.png"}, id="path-in-an-object"),
        pytest.param(["a.png"], id="path-in-a-list"),
        pytest.param(bytearray(PICTURE), id="bytearray"),
    ],
)
def test_a_picture_is_read_however_it_is_written(tmp_path, value):
    (tmp_path / "a.png").write_bytes(PICTURE)
    assert take_image(value, root=tmp_path, max_bytes=10_000, max_pixels=1_000) == PICTURE


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(
            "data:image/png;base64," + "A" * 30_000_000, "more than data.max_image_bytes", id="30-million-signs"
        ),
        pytest.param("iVBORw0KGgo" + "A" * 30_000_000, "more than data.max_image_bytes", id="bare-base64"),
        pytest.param("x" * 30_000_000, "cannot be read", id="path-of-30-million-signs"),
        pytest.param("data:image/png," + "x" * 1_000_000, "not of the form", id="no-base64"),
        pytest.param("data:image/png;base64,!!", "no base64", id="broken-base64"),
        pytest.param(f"data:image/png;base64,{WRITTEN[:40]}", "is broken", id="cut-off"),
        pytest.param("https://example.org/a.png", "is an address; none is fetched", id="address"),
        pytest.param("file:///a.png", "is an address", id="file-address"),
        pytest.param("clip.mp4", "is a video", id="video"),
        pytest.param([[0.5] * 1000] * 1000, "a list of 1,000", id="pixels"),
        pytest.param({"array": [1] * 1_000_000}, "a dict of 1", id="object"),
        pytest.param(7, "image is 7", id="number"),
    ],
)
def test_what_is_no_picture_is_refused_in_few_words(tmp_path, value, reason):
    with pytest.raises(DataError, match=reason) as error:
        take_image(value, root=tmp_path, max_bytes=10_000, max_pixels=1_000)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("chunk", ["zTXt", "iTXt", "tEXt", "behind-the-pixels"])
def test_a_png_with_much_text_is_a_picture_and_its_table_form_opens_anywhere(chunk):
    words, info = "a node of a workflow " * 100_000, PngImagePlugin.PngInfo()
    if chunk == "iTXt":
        info.add_itxt("workflow", words, zip=True)
    else:
        info.add_text("workflow", words, zip=chunk != "tEXt")
    data = png(pnginfo=info)
    if chunk == "behind-the-pixels":
        head, end = PICTURE[:-12], PICTURE[-12:]
        body = b"zTXt" + b"workflow\0\0" + zlib.compress(words.encode())
        data = head + (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big") + end
    assert take_image(data, root=Path(), max_bytes=10_000_000, max_pixels=1_000) == data
    assert open_rgb(data).getpixel((0, 0)) == RED
    with Image.open(io.BytesIO(canonical(data))) as image:
        image.load()
        assert image.getpixel((0, 0)) == RED


def shard(file: Path, members: dict[str, bytes]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


SAMPLES = {
    "./000.png": PICTURE, "./000.json": json.dumps({"question": "Q?", "expected": "comply", "id": "x"}).encode(),
    "./001.question.txt": b"Q!\n", "./001.answer.txt": b"A.", "./001.jpg": PICTURE, "./001.cls": b"3",
}  # fmt: skip


@pytest.mark.parametrize("form", ["tar", "tar.gz", "folder", "shards"])
def test_a_webdataset_is_read_from_a_tar_and_from_a_folder(folder, form):
    if form == "folder":
        for name, content in SAMPLES.items():
            (folder / name).write_bytes(content)
    elif form == "shards":
        shard(folder / "00.tar", dict(list(SAMPLES.items())[:2]))
        shard(folder / "01.tar", dict(list(SAMPLES.items())[2:]))
        pq.write_table(pa.table({"key": ["000", "001"]}), folder / "00.parquet")
    else:
        shard(folder / f"a.{form}", SAMPLES)
    good, bad, placed = rows()
    assert not bad
    assert [(row.question, row.answer, row.image) for row in good] == [("Q?", "", PICTURE), ("Q!", "A.", PICTURE)]
    assert good[0].id == "x"
    assert good[0].labels.decision == "answer"
    assert placed[1].unused == ("cls",)


def test_a_sample_of_a_webdataset_that_is_no_good_is_one_bad_row(folder):
    members = {"a.json": b"{", "a.png": PICTURE, "b.txt": b"Q?", "b.mp4": b"0", "c.png": PICTURE, "c.json": b"{}",
               "d.png": PICTURE, "d.txt": b"Q?"}  # fmt: skip
    shard(folder / "a.tar", members)
    good, bad, _ = rows("webdataset")
    assert [row.question for row in good] == ["Q?"]
    assert [row.line for row in bad] == [1, 2, 3]
    for row, reason in zip(bad, ("a: ", "'mp4' holds video", "'question' is missing"), strict=True):
        assert reason in row.reason
    (folder / "a.tar").write_bytes((folder / "a.tar").read_bytes()[:700])
    assert "not a readable tar" in rows("webdataset")[1][-1].reason


def test_the_metadata_of_an_image_folder_name_its_pictures(folder):
    (folder / "0001.png").write_bytes(PICTURE)
    (folder / "metadata.csv").write_text("file_name,prompt\n0001.png,What is it?\n")
    good, bad, _ = rows()
    assert not bad
    assert [(row.question, row.image) for row in good] == [("What is it?", PICTURE)]


def test_several_turns_become_a_row_whose_question_is_all_that_the_user_says(folder):
    said = [("human", "<image>\nWhat is it?"), ("gpt", "A square."), ("human", "And its color?"), ("gpt", "Red.")]
    row = {"id": "1", "image": "a.png", "conversations": [{"from": who, "value": text} for who, text in said]}
    (folder / "a.png").write_bytes(PICTURE)
    (folder / "llava.json").write_text(json.dumps([row]))
    [held], bad, [placed] = rows()
    assert not bad
    assert held.question == "What is it?\nAnd its color?"
    assert (held.earlier, held.answer) == ((("What is it?", "A square."),), "Red.")
    assert placed.form == "LLaVA conversations"


def test_one_question_with_two_answers_is_two_rows_on_one_side_of_the_split(folder):
    pairs = [{"prompt": f"Q{n}?", "chosen": f"good {m}", "rejected": "bad"} for n in range(10) for m in range(2)]
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    good, bad, _ = rows()
    assert not bad
    assert len({row.id for row in good}) == 20
    assert all(first.split == second.split for first, second in zip(good[::2], good[1::2], strict=True))
    assert {row.split for row in good} == {"train", "evaluation"}


def verdicts(folder, content):
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in content))
    ids, source = Ids(), OwnSource(
        kind="jsonl", path="data/sources/mine", licence=None, evaluation_share=0.5, fields={}, hazards={}
    )  # fmt: skip
    return [ids.first(placed, source) for placed in rows()[2]]


@pytest.mark.parametrize("other", ["1", 1.0, 1])
def test_an_id_that_stands_twice_is_a_bad_row_whatever_its_type(folder, other):
    [first, second] = verdicts(folder, [{"id": 1, "question": "A?"}, {"id": other, "question": "B?"}])
    assert first is True
    assert "stands in data/sources/mine/rows.jsonl:1 already" in second.reason


def test_a_row_without_an_id_that_stands_twice_counts_once_unless_its_labels_differ(folder):
    same = {"question": "A?", "expected": "refuse"}
    first, again, other = verdicts(folder, [same, same, {**same, "expected": "comply"}])
    assert (first, again) == (True, False)
    assert "with other labels" in other.reason


@pytest.mark.parametrize("hostile", ["x" * 1_000_000, [0] * 100_000, {"a": "b" * 1_000_000}, b"\xff" * 100])
@pytest.mark.parametrize("field", ["id", "question", "answer", "expected", "decision", "hazard", "kind", "severity"])
def test_a_value_of_any_size_and_type_in_any_field_ends_in_a_short_message(field, hostile, monkeypatch, tmp_path):
    from saferflow.data.forms import reading
    from saferflow.data.records import Record

    source = OwnSource(kind="jsonl", path="data/sources/m", licence=None, evaluation_share=0.5, fields={}, hazards={})
    data = DataParams(sources=(source,), licences=None, on_bad_row="fail", max_image_pixels=1, max_image_bytes=1)
    record = Record("f", 1, {"question": "Q?", "expected": "refuse"} | {field: hostile})
    try:
        row_of(reading(record.values, {}), record, source, data, 1)
    except DataError as error:
        bad = record.bad(str(error))
        assert len(bad.reason) < 400
        assert len(bad.content) <= 500


def test_a_source_of_one_kind_names_no_file_of_another(folder):
    with pytest.raises(DataError, match=r"no \*\.csv file"):
        own_records(
            OwnSource(kind="csv", path="data/sources/mine", licence=None, evaluation_share=0.5, fields={}, hazards={})
        )
