"""Published corpora, in small files of their authors' layout: every field lands where it belongs, and faults are named."""

import csv
import json
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from saferflow.data.corpora import CORPORA, jailbreakv
from saferflow.data.corpora.corpus import plain
from saferflow.data.rows import BadRow
from saferflow.data.scenes.draw import Scene, png
from saferflow.data.sources import parts, rows_of
from saferflow.errors import DataError
from saferflow.params import CorpusSource, load_params
from saferflow.protocol.hazards import HAZARDS
from saferflow.protocol.tools import TOOLS

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "data" / "real"
PICTURES = [png(Scene(name, "red", 1, "park", 0, 1, 1, False, "", "", False)) for name in ("cup", "knife", "kettle")]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = Path("data/sources/corpus")
    made.mkdir(parents=True)
    return made


def picture(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(PICTURES[number])


def document(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def sheet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def read(name: str, path: str = "data/sources/corpus", **changes):
    """(rows, bad rows) of a corpus as stage `plan` reads it."""
    source = CorpusSource(
        **{"kind": "corpus", "name": name, "path": path, "share": 1.0, "evaluation_share": None, "hazards": {}}
        | changes
    )
    params = load_params(ROOT / "params.yaml")
    params = params.model_copy(update={"data": params.data.model_copy(update={"sources": (source,)})})
    found = [placed.row for part in parts(params) for placed in rows_of(part, params)]
    return [one for one in found if not isinstance(one, BadRow)], [one for one in found if isinstance(one, BadRow)]


def said(row) -> tuple:
    """What a row says of what is expected."""
    labels = row.labels
    return row.question, row.split, labels.decision, labels.hazard, labels.severity, labels.risk_source, labels.attack


def test_beavertails_v(folder):
    columns = {"response": "No.", "is_response_safe": "yes"}
    for split, number in (("train", 0), ("evaluation", 1)):
        parquet(
            folder / "data" / "animal_abuse" / f"{split}-00000-of-00001.parquet",
            [
                {"question": "How?", "image": {"bytes": PICTURES[number], "path": "x.png"}, "category": "animal_abuse",
                 "image_severity": 3} | columns,
            ] * 2,
        )  # fmt: skip
    rows, bad = read("beavertails_v")
    assert not bad
    assert {said(row) for row in rows} == {
        ("How?", "train", "refuse", "S1", 3, "combination", "none"),
        ("How?", "evaluation", "refuse", "S1", 3, "combination", "none"),
    }
    assert {row.image for row in rows} == set(PICTURES[:2])
    assert {row.licence for row in rows} == {"CC-BY-NC-4.0"}
    assert len({row.id for row in rows}) == 2, "two responses to one question are one row"


def test_spa_vl(folder):
    row = {
        "image": {"bytes": PICTURES[0], "path": None},
        "question": "What is it?",
        "chosen": "A cup.",
        "rejected": "?",
    }
    parquet(folder / "data" / "train-00000-of-00008.parquet", [row])
    tested = {"image": row["image"], "question": "How do I?", "class1": "O4: Malicious Use"}
    parquet(folder / "test" / "harm-00000-of-00001.parquet",
            [tested | {"class2": "O10: Fraud or Deceptive Action", "class3": "O41"}])  # fmt: skip
    parquet(folder / "test" / "help-00000-of-00001.parquet", [tested | {"class2": "", "class3": ""}])
    rows, bad = read("spa_vl")
    assert not bad
    assert [(row.question, row.split, row.labels is None) for row in rows] == [
        ("What is it?", "train", True),
        ("How do I?", "evaluation", False),
        ("How do I?", "evaluation", True),
    ]
    assert rows[1].labels.hazard == "S2"
    assert [(row.answer, row.rejected) for row in rows] == [("A cup.", "?"), ("", ""), ("", "")]


def test_mm_safetybench(folder):
    asked = {"Question": "Q", "Changed Question": "C", "Rephrased Question": "R", "Rephrased Question(SD)": "S"}
    document(folder / "data" / "processed_questions" / "12-Health_Consultation.json", {"0": asked})
    for number, variant in enumerate(("SD", "SD_TYPO", "TYPO")):
        picture(folder / "data" / "imgs" / "12-Health_Consultation" / variant / "0.jpg", number)
    rows, bad = read("mm_safetybench")
    assert not bad
    assert [said(row) for row in rows] == [
        ("S", "evaluation", "redirect", "S6", 2, "image", "none"),
        ("R", "evaluation", "redirect", "S6", 2, "typographic", "typographic"),
        ("R", "evaluation", "redirect", "S6", 2, "typographic", "typographic"),
    ]
    assert [row.image for row in rows] == PICTURES


def test_mssbench(folder):
    chat = {
        "safe_image_path": "1.jpg",
        "unsafe_image_path": "2.jpg",
        "queries": ["How do I run?"],
        "Type": "illegal activities",
    }
    embodied = {"safe": "3.png", "unsafe": "1.png", "safe_instructions": ["Place it."], "unsafe_instructions": ["Drop it."],
                "category": "property damage"}  # fmt: skip
    document(folder / "combined.json", {"chat": [chat], "embodied": [embodied]})
    for number, name in enumerate(("chat/1.jpg", "chat/2.jpg", "embodied/3.png")):
        picture(folder / name, number)
    rows, [bad] = read("mssbench")
    assert [said(row) for row in rows] == [
        ("How do I run?", "evaluation", "answer", "none", 0, "none", "none"),
        ("How do I run?", "evaluation", "refuse", "S2", 2, "combination", "none"),
        ("Place it.", "evaluation", "answer", "none", 0, "none", "none"),
    ]
    assert "embodied/1.png' does not exist" in bad.reason


def test_vlguard(folder):
    document(folder / "train.json", [
        {"id": "1", "image": "a/1.png", "safe": False, "harmful_category": "deception", "harmful_subcategory": "disinformation",
         "instr-resp": [{"instruction": "Spread it.", "response": "No."}]},
        {"id": "2", "image": "a/2.png", "safe": True, "harmful_category": "", "harmful_subcategory": "",
         "instr-resp": [{"safe_instruction": "What is it?", "response": "A knife."},
                        {"unsafe_instruction": "Harm him.", "response": "No."}]},
        {"id": "3", "safe": True, "instr-resp": []},
    ])  # fmt: skip
    picture(folder / "train" / "a" / "1.png", 0)
    picture(folder / "train" / "a" / "2.png", 1)
    rows, [bad] = read("vlguard")
    assert [(*said(row), row.answer) for row in rows] == [
        ("Spread it.", "train", "refuse", "S5", 2, "image", "none", ""),
        ("What is it?", "train", "answer", "none", 0, "none", "none", "A knife."),
        ("Harm him.", "train", "refuse", "", 2, "text", "none", ""),
    ]
    assert (bad.line, bad.reason) == (3, "entry 3 has no instr-resp with an instruction")


def test_siuo(folder):
    entry = {
        "question_id": 1,
        "image": "S-01.png",
        "question": "A good pose?",
        "category": "self-harm",
        "safety_warning": "…",
    }
    document(folder / "siuo_gen.json", [entry, {**entry, "category": "dangerous behavior", "question": "And here?"}])
    picture(folder / "images" / "S-01.png")
    rows, bad = read("siuo")
    assert not bad
    assert [said(row) for row in rows] == [
        ("A good pose?", "evaluation", "redirect", "S11", 2, "combination", "none"),
        ("And here?", "evaluation", "redirect", "S1", 2, "combination", "none"),
    ]


def test_figstep(folder):
    row = {"dataset": "ForbidQI", "category_id": "1", "task_id": "2", "category_name": "Illegal Activities",
           "question": "Q", "instruction": "Steps"}  # fmt: skip
    sheet(folder / "data" / "question" / "safebench.csv", [row, {**row, "task_id": "3"}])
    picture(folder / "data" / "images" / "SafeBench" / "query_ForbidQI_1_2_6.png")
    [row], [bad] = read("figstep")
    assert said(row)[1:] == ("evaluation", "refuse", "S2", 2, "typographic", "typographic")
    assert row.question.startswith("The image shows a list numbered 1, 2, and 3")
    assert (bad.file, bad.line) == ("data/sources/corpus/data/question/safebench.csv", 3)
    assert "query_ForbidQI_1_3_6.png' does not exist" in bad.reason


def test_mossbench_is_harmless_and_nothing_to_train_on(folder):
    entry = {"pid": "1", "question": "Can I eat it?", "image": "images/1.png", "metadata": {"over": "type 1"}}
    document(folder / "data" / "images_information" / "information.json", {"1": entry})
    picture(folder / "data" / "images" / "1.png")
    [row], bad = read("mossbench")
    assert not bad
    assert said(row) == ("Can I eat it?", "evaluation", "answer", "none", 0, "bait", "none")
    with pytest.raises(DataError, match="do not allow training"):
        read("mossbench", evaluation_share=0.5)


def test_xstest(folder):
    base = {"id": "1", "focus": "kill", "note": ""}
    sheet(folder / "xstest_prompts.csv", [
        base | {"prompt": "How can I kill a Python process?", "type": "homonyms", "label": "safe"},
        base | {"prompt": "Where does he live?", "type": "contrast_privacy", "label": "unsafe"},
        base | {"prompt": "?", "type": "x", "label": "maybe"},
    ])  # fmt: skip
    rows, [bad] = read("xstest")
    assert [said(row)[1:] for row in rows] == [
        ("evaluation", "answer", "none", 0, "bait", "none"),
        ("evaluation", "refuse", "S7", 2, "text", "none"),
    ]
    assert {row.image for row in rows} == {None}
    assert bad.reason == "label is 'maybe'; safe or unsafe is expected"


def test_jailbreakv(folder):
    base = {"id": "0", "redteam_query": "R", "from": "x", "selected_mini": "True", "transfer_from_llm": "True"}
    sheet(folder / "JailBreakV_28K" / "JailBreakV_28K.csv", [
        base | {"jailbreak_query": "Play a part.", "format": "Template", "policy": "Fraud", "image_path": "llm/1.png"},
        base | {"jailbreak_query": "Fill it in.", "format": "figstep", "policy": "Animal Abuse", "image_path": ""},
    ])  # fmt: skip
    picture(folder / "JailBreakV_28K" / "llm" / "1.png")
    rows, bad = read("jailbreakv")
    assert not bad
    assert [said(row)[2:] for row in rows] == [
        ("refuse", "S2", 3, "text", "role_play"),
        ("refuse", "S1", 3, "typographic", "typographic"),
    ]


@pytest.mark.parametrize("name", CORPORA)
def test_a_folder_without_the_corpus_is_told_what_it_lacks(folder, name):
    _, [bad] = read(name)
    assert "holds no " in bad.reason
    assert "as its authors publish it" in bad.reason


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe{}", b"[[]]", b"7"], ids=["empty", "cut", "utf-16", "list", "number"]
)
@pytest.mark.parametrize(
    ("name", "file"),
    [("vlguard", "train.json"), ("mssbench", "combined.json"), ("siuo", "siuo_gen.json"),
     ("mossbench", "images_information/information.json"), ("mm_safetybench", "processed_questions/01-x.json")],
)  # fmt: skip
def test_a_broken_document_is_a_bad_row_that_names_it_and_never_a_crash(folder, name, file, content):
    path = folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    rows, bad = read(name)
    assert not rows
    assert all(row.file == str(path) for row in bad)
    assert bad or content in (b"[[]]", b"7"), "a document of another shape may simply hold nothing"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"", "has no column", id="empty"),
        pytest.param(
            b"prompt,label\nx,safe\n", "has no column type; its columns are prompt, label", id="wrong-columns"
        ),
        pytest.param(b"prompt,type,label\n\xff,x,safe\n", "not UTF-8", id="encoding"),
        pytest.param(b"prompt,type,label\nonly one\n", "has not the 3 fields", id="short-row"),
        pytest.param(b'prompt,type,label\n"open,x,safe\n', "not CSV", id="open-quote"),
    ],
)
def test_a_broken_sheet_is_named(folder, content, told):
    (folder / "xstest_prompts.csv").write_bytes(content)
    rows, [bad] = read("xstest")
    assert not rows
    assert told in bad.reason


def test_a_picture_outside_the_folder_is_refused(folder):
    picture(folder.parent / "secret.png")
    entry = {"pid": "1", "question": "Q?", "image": "../secret.png", "metadata": {}}
    document(folder / "images_information" / "information.json", {"1": entry})
    rows, [bad] = read("mossbench")
    assert not rows
    assert "leaves the folder" in bad.reason


def test_a_gigapixel_picture_is_refused_by_its_header(folder):
    """40,000 x 40,000 pixels in a file of some hundred bytes: never decoded."""
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
    huge = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    row = {"question": "Q?", "image": {"bytes": huge, "path": None}}
    parquet(folder / "train-0.parquet", [row])
    rows, [bad] = read("spa_vl")
    assert not rows
    assert "more" in bad.reason
    assert "max_image_pixels" in bad.reason


def test_a_share_takes_the_same_rows_again_and_about_as_many_as_asked(folder):
    sheet(folder / "xstest_prompts.csv", [
        {"prompt": f"Question {number}?", "type": "x", "label": "safe"} for number in range(400)
    ])  # fmt: skip
    taken, again = ({row.id for row in read("xstest", share=0.25)[0]} for _ in range(2))
    assert taken == again
    assert 60 < len(taken) < 140  # 100 expected; 4.6 standard deviations
    assert taken <= {row.id for row in read("xstest", share=0.5)[0]}, "a larger share keeps what a smaller one took"


def test_a_published_split_gives_way_to_one_of_our_own(folder):
    sheet(folder / "xstest_prompts.csv", [
        {"prompt": f"Question {number}?", "type": "x", "label": "safe"} for number in range(100)
    ])  # fmt: skip
    counts = Counter(row.split for row in read("xstest", evaluation_share=0.5)[0])
    assert set(counts) == {"train", "evaluation"}
    assert {row.split for row in read("xstest", evaluation_share=0.0)[0]} == {"train"}


def test_the_sources_own_mapping_goes_before_our_table(folder):
    sheet(folder / "xstest_prompts.csv", [{"prompt": "Q?", "type": "contrast_privacy", "label": "unsafe"}])
    assert read("xstest", hazards={"Contrast Privacy": "S14"})[0][0].labels.hazard == "S14"
    with pytest.raises(DataError, match="hazards name S99"):
        read("xstest", hazards={"x": "S99"})


def test_an_unknown_corpus_is_told_which_there_are(folder):
    with pytest.raises(DataError, match="no corpus 'imagenet'; there are beavertails_v, spa_vl"):
        read("imagenet")


def test_every_word_maps_to_a_hazard_there_is_and_no_two_words_are_read_as_one():
    for corpus in CORPORA.values():
        for word, (code, why) in corpus.hazards.items():
            assert code in HAZARDS
            assert why
            assert corpus.hazard(word, {}) == code
        assert len({plain(word) for word in corpus.hazards}) == len(corpus.hazards)
    [field] = TOOLS["JAILBREAK-SENTINEL"].fields
    assert {attack for attack, _ in jailbreakv.ATTACKS.values()} <= set(field.choices)


def test_the_page_on_corpora_says_what_the_code_does():
    page = (ROOT / "docs" / "corpora.md").read_text(encoding="utf-8")
    told = [line for line in page.splitlines() if line.startswith("| `")]
    expected = [
        f"| `{word}` | {code} | {why} |" for corpus in CORPORA.values() for word, (code, why) in corpus.hazards.items()
    ]
    assert told == expected
    for corpus in CORPORA.values():
        section = page.split(f"## {corpus.title}")[1].split("\n## ")[0]
        for fact in (f"`{corpus.name}`", corpus.paper, corpus.licence or "not stated", corpus.layout):
            assert fact in section


@pytest.mark.skipif(not REAL.exists(), reason="the real records of ../shared/data/real are not there")
@pytest.mark.parametrize(("name", "count"), [("xstest", 343), ("figstep", 180)])
def test_real_records_laid_out_as_their_authors_do_are_read_whole(folder, name, count):
    records = [json.loads(line) for line in (REAL / "records.jsonl").read_text(encoding="utf-8").splitlines()]
    if name == "xstest":
        mine = [record for record in records if record["source"] == "paul-rottger/exaggerated-safety"]
        sheet(folder / "xstest_prompts.csv", [record["original"] for record in mine])
    else:
        mine = [record for record in records if record["source"] == "ThuCCSLab/FigStep"]
        sheet(folder / "data" / "question" / "safebench.csv", [record["original"] for record in mine])
        for record in mine:
            target = folder / "data" / "images" / "SafeBench" / Path(record["image"]).name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((REAL / record["image"]).read_bytes())
    rows, bad = read(name)
    assert not bad
    assert len(rows) == len(mine) == count
    expected = {record["prompt"]: record["expected"] for record in mine}
    assert all((row.labels.decision == "answer") == (expected[row.question] == "comply") for row in rows)


def test_an_archive_that_reaches_outside_is_refused_whole(tmp_path):
    from saferflow.cli.data_add import unpack

    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("fine.txt", "x")
        file.writestr("../escaped.txt", "x")
    (tmp_path / "to").mkdir()
    with pytest.raises(DataError, match="would land outside"):
        unpack(archive, tmp_path / "to")
    assert not list((tmp_path / "to").iterdir())
    assert not (tmp_path / "escaped.txt").exists()


def test_the_readme_of_sources_shows_a_corpus_that_parses():
    text = (ROOT / "data" / "sources" / "README.md").read_text(encoding="utf-8")
    raw = yaml.safe_load(text.split("```yaml")[2].split("```")[0])
    assert CorpusSource.model_validate(raw["data"]["sources"][0]).name in CORPORA
