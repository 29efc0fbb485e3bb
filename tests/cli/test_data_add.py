"""`saferflow data add`, in a real git and DVC repository: what is brought in, what is refused, and that nothing is left of it."""

import csv
import http.server
import json
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from saferflow.cli.data_add import add, source_of
from saferflow.data.kinds import kind_of
from saferflow.data.scenes.draw import Scene, png
from saferflow.errors import DataError
from saferflow.params import CorpusSource, OwnSource, load_params, read_values
from tests.endpoint.request_fields import request_fields

ROOT = Path(__file__).parents[2]
ROWS = [{"prompt": f"Question {number}?", "type": "homonyms", "label": "safe"} for number in range(30)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git and DVC repository that every test gets a copy of: making one takes seconds."""
    folder = tmp_path_factory.mktemp("repository")
    (folder / "data" / "sources").mkdir(parents=True)
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def project(repository, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    shutil.copytree(repository, folder)
    monkeypatch.chdir(folder)
    configure()
    return folder


def configure(**data) -> None:
    raw = read_values(ROOT / "profiles" / "micro.yaml")
    raw["data"] |= data
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")


def bring(name: str, path, *, kind=None, licence=None, fields=(), hazards=(), images=None, dry_run=False) -> str:
    console = Console(record=True, width=200)
    params = load_params(Path("params.yaml"))
    source = source_of(name, str(path), kind, licence, list(fields), list(hazards))
    add(name, str(path), params, source, console, images=images, dry_run=dry_run)
    return console.export_text()


def corpus(folder: Path, rows=ROWS) -> Path:
    file = folder / "xstest_prompts.csv"
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, ["prompt", "type", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return file


def own(folder: Path, rows: list) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_a_corpus_comes_under_dvc_with_its_counts_and_the_lines_for_the_params(project, tmp_path):
    unmapped = {"prompt": "Where?", "type": "contrast_targets", "label": "unsafe"}
    told = bring("xstest", corpus(tmp_path, [*ROWS, unmapped]))
    assert "xstest: 31 rows, licence CC-BY-4.0" in told
    assert "no table maps, left to the planner: contrast_targets (1);" in told, "harmless rows name no harm"
    for line in ("evaluation", "answer", "none"):
        assert line in told
    assert yaml.safe_load(Path("data/sources/xstest.dvc").read_text())["outs"][0]["path"] == "xstest"
    assert Path("data/sources/xstest/xstest_prompts.csv").read_bytes() == (tmp_path / "xstest_prompts.csv").read_bytes()
    entry = yaml.safe_load(told[told.index("- kind") :])
    assert CorpusSource.model_validate(entry[0]).path == "data/sources/xstest"
    assert not Path(".saferflow/adding").exists()
    left = subprocess.run(["git", "status", "--porcelain", "-uall"], check=True, capture_output=True, text=True).stdout
    assert "data/sources/xstest.dvc" in left
    assert "xstest_prompts.csv" not in left, "git keeps the pointer, DVC the rows"


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
def test_folders_and_archives_come_in_as_well(project, tmp_path, form):
    held = tmp_path / "held"
    held.mkdir()
    file = corpus(held)
    if form == "zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(file, file.name)
    elif form == "tar.gz":
        with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
            archive.add(file, file.name)
    bring("xstest", held if form == "folder" else tmp_path / f"a.{form}")
    assert Path("data/sources/xstest/xstest_prompts.csv").exists()


@pytest.fixture
def address(tmp_path):
    """Five rows behind a real server on loopback."""
    own(tmp_path, [{"id": str(number), "question": "Q?"} for number in range(5)])
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/rows.jsonl"
    server.shutdown()


def test_an_address_is_imported_by_dvc_so_that_it_can_be_brought_up_to_date(project, tmp_path, address):
    told = bring("mine.jsonl", address, kind="jsonl")
    assert "5 rows" in told
    assert yaml.safe_load(Path("data/sources/mine.jsonl.dvc").read_text())["deps"][0]["path"] == address
    assert Path("data/sources/mine.jsonl").read_bytes() == (tmp_path / "rows.jsonl").read_bytes()


def test_an_address_whose_rows_are_no_good_or_only_looked_at_leaves_nothing(project, address):
    refused(
        "'question' is|field 'asked'|'asked' is missing", "mine.jsonl", address, kind="jsonl", fields=["question=asked"]
    )
    assert "5 rows" in bring("mine.jsonl", address, kind="jsonl", dry_run=True)
    assert not list(Path("data/sources").glob("mine*"))


def test_rows_of_ones_own_are_mapped_as_asked(project, tmp_path):
    rows = [{"key": str(n), "prompt": "Q?", "topic": "Fraud", "expected": "refuse"} for n in range(4)]
    fields = ("id=key", "question=prompt", "hazard=topic")
    told = bring("mine", own(tmp_path, rows), licence="MIT", fields=fields, hazards=["Fraud=S2"])
    assert "mine: 4 rows, licence MIT" in told
    assert "S2" in told
    entry = OwnSource.model_validate(yaml.safe_load(told[told.index("- kind") :])[0])
    assert entry.fields == {"id": "key", "question": "prompt", "hazard": "topic"}


@pytest.mark.parametrize(
    ("plan", "told"),
    [
        pytest.param({}, "no one: stage plan stops", id="by-rules"),
        pytest.param({"allow_guessed_labels": True}, "a guess of the rule planner", id="guessed"),
        pytest.param({"writer": {
            "kind": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9", "key_variable": None, "concurrency": 1,
            "timeout": 1, "retries": 0, "repairs": 0, "request": request_fields(8), "token_cap": None,
        }}, "the planner behind the server", id="by-a-server"),
    ],
)  # fmt: skip
def test_it_says_of_every_row_where_its_label_comes_from(project, tmp_path, plan, told):
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw["plan"] |= plan
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    rows = [
        {"question": "A?", "expected": "comply"},
        {"question": "B?", "hazard": "Fraud"},
        {"question": "C?"},
        {"question": "D?"},
    ]
    page = bring("mine", own(tmp_path, rows), hazards=["Fraud=S2"], dry_run=True)
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert f"{told} 2" in [line.removeprefix("label from ") for line in lines]
    for origin in ("the source itself 1", "a category, as the source's hazards map it 1"):
        assert any(line.endswith(origin) for line in lines)
    assert ("stage plan will stop" in page) == (not plan)
    assert ("knows the drawn corpus alone" in page) == ("writer" not in plan)


def refused(match: str, *arguments, **options) -> None:
    with pytest.raises(DataError, match=match):
        bring(*arguments, **options)
    assert [path.name for path in Path("data/sources").iterdir() if path.name != ".gitignore"] == []
    assert not Path(".saferflow/adding").exists()


def test_a_licence_that_the_params_do_not_allow_is_refused(project, tmp_path):
    configure(licences=["MIT"])
    refused(r"allows MIT; data/sources/xstest: CC-BY-4\.0", "xstest", corpus(tmp_path))
    refused("not stated", "mine", own(tmp_path, [{"id": "a", "question": "Q?"}]))


def test_rows_that_are_no_good_are_told_and_leave_nothing(project, tmp_path):
    rows = [*ROWS[:3], {"prompt": "?", "type": "x", "label": "maybe"}]
    refused("xstest_prompts.csv:5: label is 'maybe'", "xstest", corpus(tmp_path, rows))
    configure(on_bad_row="quarantine")
    assert "label is 'maybe'" in bring("xstest", corpus(tmp_path, rows))


@pytest.mark.parametrize(
    ("name", "path", "options", "told"),
    [
        pytest.param("xstest", "nowhere", {}, "no such file or folder", id="missing"),
        pytest.param("xstest", "empty", {}, "holds no xstest_prompts", id="not-the-corpus"),
        pytest.param("mine", "empty", {}, "name one of the corpora", id="no-rows"),
        pytest.param("mine", "a.zip", {}, "say --kind", id="archive-of-what"),
        pytest.param("mine", "rows.jsonl", {"fields": ["question"]}, "has no =", id="field-without-equals"),
        pytest.param("mine", "rows.jsonl", {"fields": ["who=me"]}, "fields name who", id="unknown-field"),
        pytest.param("mine", "rows.jsonl", {"hazards": ["Fraud=S99"]}, "hazards name S99", id="unknown-hazard"),
        pytest.param("mine", "rows.jsonl", {"kind": "csv"}, "kind", id="unknown-kind"),
        pytest.param("../mine", "rows.jsonl", {}, "path", id="name-leaves-the-folder"),
        pytest.param("xstest", "rows.jsonl", {"licence": "MIT"}, "has its own kind, licence", id="corpus-with-licence"),
    ],
)  # fmt: skip
def test_what_is_asked_for_wrongly_is_told(project, tmp_path, name, path, options, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.zip").write_bytes(b"PK")
    own(tmp_path, [{"id": "a", "question": "Q?"}])
    refused(told, name, tmp_path / path, **options)


def test_a_name_that_is_taken_is_refused_and_what_is_there_stays(project, tmp_path):
    bring("xstest", corpus(tmp_path))
    before = Path("data/sources/xstest/xstest_prompts.csv").read_bytes()
    with pytest.raises(DataError, match="is there already"):
        bring("xstest", corpus(tmp_path, ROWS[:2]))
    assert Path("data/sources/xstest/xstest_prompts.csv").read_bytes() == before


def test_a_dry_run_tells_and_adds_nothing(project, tmp_path):
    assert "dry run" in bring("xstest", corpus(tmp_path), dry_run=True)
    assert not list(Path("data/sources").glob("xstest*"))


@pytest.mark.parametrize("form", ["zip", "tar"])
def test_an_archive_that_reaches_outside_or_is_broken_is_refused(project, tmp_path, form):
    archive = tmp_path / f"a.{form}"
    if form == "zip":
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("../escaped.csv", "x")
    else:
        with tarfile.open(archive, "w") as file:
            member = tarfile.TarInfo("../escaped.csv")
            file.addfile(member)
    refused("outside", "xstest", archive)
    assert not list(tmp_path.rglob("escaped*"))
    archive.write_bytes(b"neither")
    refused("cannot be unpacked", "xstest", archive)


def test_the_kind_of_a_folder_is_found(tmp_path):
    (tmp_path / "rows.parquet").touch()
    assert kind_of(tmp_path) == "parquet"
    (tmp_path / "dataset_info.json").touch()
    assert kind_of(tmp_path) == "datasets"


def listed(name: str, fields=None, kind="jsonl") -> dict:
    return {"kind": kind, "path": f"data/sources/{name}", "licence": None, "evaluation_share": 0.2,
            "fields": fields or {}, "hazards": {}}  # fmt: skip


def test_a_dry_run_of_a_name_that_is_taken_reads_the_rows_and_leaves_what_is_there(project, tmp_path, address):
    Path("data/sources/mine").mkdir()
    own(Path("data/sources/mine"), [{"id": "a", "question": "Q?"}])
    before = {path: path.read_bytes() for path in Path("data/sources").rglob("*") if path.is_file()}
    for path in (own(tmp_path, [{"id": "b", "question": "Q!"}]), address):
        shown = bring("mine", path, dry_run=True)
        assert "dry run: nothing was added; the name mine is taken" in shown
    assert {path: path.read_bytes() for path in Path("data/sources").rglob("*") if path.is_file()} == before


def test_an_id_that_plan_would_refuse_is_refused_with_its_place(project, tmp_path):
    rows = [{"id": 1, "question": "A?"}, {"id": "1", "question": "B?"}, {"question": "C?"}, {"question": "C?"}]
    refused(r"rows\.jsonl:2: id '1' stands in .*rows\.jsonl:1 already", "mine", own(tmp_path, rows))
    configure(on_bad_row="quarantine")
    shown = bring("mine", own(tmp_path, rows), dry_run=True)
    assert "mine: 2 rows" in shown
    assert "1 rows are the same as one before" in shown
    assert "--field id=" in shown
    assert "mine: 3 rows" in bring("mine", own(tmp_path, rows), fields=["id="], dry_run=True)


def test_an_id_of_another_source_is_refused_as_plan_would(project, tmp_path):
    Path("data/sources/first").mkdir()
    own(Path("data/sources/first"), [{"id": "1", "question": "A?"}])
    configure(sources=[listed("first")])
    with pytest.raises(DataError, match=r"id '1' stands in data/sources/first/rows\.jsonl:1 already"):
        bring("second", own(tmp_path, [{"id": 1, "question": "B?"}]))
    assert "first: 1 rows" in bring("first", own(tmp_path, [{"id": "1", "question": "A?"}]), dry_run=True)


def test_what_was_taken_for_what_is_shown_with_counts_and_the_first_row(project, tmp_path):
    said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    pair = {"prompt": [*said, {"role": "user", "content": "Is it\u001b[31m safe?"}],
            "chosen": [{"role": "assistant", "content": "Yes, if dry."}],
            "rejected": [{"role": "assistant", "content": "No idea."}]}  # fmt: skip
    rows = [pair, *({"prompt": f"Q{n}?", "completion": "x" * 1000, "score": n, "expected": "comply"} for n in range(3))]
    shown = bring("mine", own(tmp_path, rows), dry_run=True)
    for line in (
        r"taken for +TRL prompt and completion, plain +3",
        r"TRL preference, conversational +1",
        r"question = prompt +4",
        r"rejected = rejected +1",
        r"not used +score +3",
        r"holds +an answer +4",
        r"a worse answer +1",
        r"earlier turns +1",
        r"label from +the source itself +3",
        r"no one: stage plan stops +1",
        r"1 row without a label",
        rf"first row, {tmp_path}/rows\.jsonl:1",
        r"  user +Hi\n +assistant +Hello\n +user +Is it \[31m safe\?\n +answer +Yes, if dry\.\n +worse answer +No idea\.",
    ):
        assert re.search(line, shown), line
    assert "\x1b" not in shown


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(Scene("cup", "red", 1, "park", 0, 1, 1, False, "", "", False)))
    return path


def test_pictures_beside_the_rows_come_with_them(project, tmp_path):
    picture(tmp_path / "images" / "a.png")
    picture(tmp_path / "images" / "not-named.png")
    row = {"id": "a", "image": "images/a.png", "question": "Q?"}
    assert re.search(r"a picture +1", bring("mine", own(tmp_path, [row])))
    assert {str(path.relative_to("data/sources/mine")) for path in Path("data/sources/mine").rglob("*.*")} == {
        "rows.jsonl", "images/a.png",
    }  # fmt: skip


def test_pictures_in_another_folder_come_from_where_the_user_says(project, tmp_path):
    picture(tmp_path / "coco" / "train2017" / "33471.jpg")
    llava = [{"id": "33471", "image": "train2017/33471.jpg",
              "conversations": [{"from": "human", "value": "<image>\nQ?"}, {"from": "gpt", "value": "A."}]}]  # fmt: skip
    (tmp_path / "rows").mkdir()
    file = tmp_path / "rows" / "llava.json"
    file.write_text(json.dumps(llava))
    refused(r"train2017/33471\.jpg' does not exist.*--images", "llava", file)
    refused("no such folder", "llava", file, images=tmp_path / "nowhere")
    shown = bring("llava", file, images=tmp_path / "coco", dry_run=True)
    assert re.search(r"taken for +LLaVA conversations +1", shown)
    assert re.search(r"a picture +1", shown)


def test_a_path_that_leaves_the_folder_of_the_rows_brings_nothing(project, tmp_path):
    picture(tmp_path / "secret.png")
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "link.png").symlink_to(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        file = own(tmp_path / "rows", [{"id": "a", "image": name, "question": "Q?"}])
        refused("leaves the folder|does not exist", "mine", file)


def test_rows_in_no_known_form_are_refused_with_the_option_that_maps_them(project, tmp_path):
    file = own(tmp_path, [{"category": "x", "utterance": f"Where is number {n}?"} for n in range(60)])
    with pytest.raises(DataError, match=r"category, utterance\. Say which .*--field question=utterance") as error:
        bring("mine", file)
    assert len(str(error.value)) < 4000
    assert re.search(r"question = utterance +60", bring("mine", file, fields=["question=utterance"], dry_run=True))


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.arrow"])
def test_a_file_that_is_not_read_is_refused_with_what_writes_one_that_is(project, tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    refused("python -c", "mine", tmp_path / name)


def test_a_list_of_questions_becomes_rows_by_the_line_that_the_refusal_shows(project, tmp_path):
    (tmp_path / "rows.txt").write_text("Is it safe?\n\nIs it?\n")
    with pytest.raises(DataError) as error:
        bring("mine", tmp_path / "rows.txt")
    [line] = re.findall(r'python -c "(.*)"$', str(error.value))
    subprocess.run([sys.executable, "-c", line], check=True)
    assert "mine: 2 rows" in bring("mine", tmp_path / "rows.jsonl", dry_run=True)


def test_a_folder_that_cannot_be_copied_is_refused_with_the_file(project, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    own(held, [{"question": "Q?"}])
    (held / "a.png").symlink_to(tmp_path / "nowhere.png")
    refused(r"cannot be copied: .*a\.png", "mine", held)
    refused("leave it out", "xstest", corpus(tmp_path), images=tmp_path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_an_empty_file_is_refused_by_name(project, tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    refused(rf"{name}: it holds no row", "mine", tmp_path / name)


@pytest.mark.parametrize("form", ["rows.tar", "shards.tar", "rows.zip", "saved.tar"])
def test_an_archive_of_rows_is_known_by_what_is_in_it(project, tmp_path, form):
    held = tmp_path / "held" / "inner"
    held.mkdir(parents=True)
    rows = [{"id": "a", "image": "a.png", "question": "Q?"}]
    if form == "saved.tar":
        from datasets import Dataset

        Dataset.from_list([{"id": "a", "question": "Q?"}]).save_to_disk(held)
    else:
        picture(held / "a.png")
        (held / "a.json").write_text(json.dumps(rows[0])) if form == "shards.tar" else own(held, rows)
    if form.endswith("zip"):
        shutil.make_archive(str(tmp_path / "rows"), "zip", held.parent)
    else:
        with tarfile.open(tmp_path / form, "w") as archive:
            archive.add(held, "inner")
    kind = {"shards.tar": "webdataset", "saved.tar": "datasets"}.get(form, "jsonl")
    assert source_of("mine", str(tmp_path / form), None, None, [], []).kind == kind
    assert "mine: 1 rows" in bring("mine", tmp_path / form, dry_run=True)


def test_files_of_another_kind_are_named(project, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    own(held, [{"id": "a", "question": "Q?"}])
    (held / "more.csv").write_text("question\nQ!\n")
    assert "files that are not read, for the source is of kind jsonl: 1 of --kind csv" in bring(
        "mine", held, dry_run=True
    )


def test_words_fields_and_splits_that_come_to_nothing_are_named(project, tmp_path):
    held = tmp_path / "held"
    held.mkdir()
    rows = [{"question": f"Q{n}?", "topic": ("Fraud", "Fruad")[n % 2], "expected": "refuse"} for n in range(4)]
    for name in ("train.jsonl", "test.jsonl"):
        (held / name).write_text("\n".join(json.dumps(row) for row in rows))
    shown = bring("mine", held, fields=["hazard=topic", "severity=sevrity"], hazards=["Fraud=S2"], dry_run=True)
    assert "no table maps, left to the planner: Fruad (4);" in shown
    assert "field 'sevrity' holds nothing in any row; it was to stand for severity" in shown
    assert "named as splits (test), and none is kept as one" in shown
