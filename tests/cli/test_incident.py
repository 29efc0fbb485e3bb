"""`saferflow incident`: what was answered wrongly becomes one labelled row, on one side of the split, or nothing changes."""

import base64
import json
import subprocess
from pathlib import Path

import pytest
from rich.console import Console

from saferflow.cli.data_counts import count
from saferflow.cli.incident import ENTRY, POINTER, Label, add, remove, show
from saferflow.data.incidents import FOLDER, read_incidents
from saferflow.data.rows import Labels, PromptRow
from saferflow.data.sources import parts, rows_of
from saferflow.data.tables import write_table
from saferflow.errors import DataError, PipelineError
from saferflow.layout import EVALUATION
from saferflow.params import AugmentationParams, StoreParams
from saferflow.planner.writer import writer_of
from saferflow.serving.store import FILE, Served, Store, exchange
from saferflow.stages.plan import Tally, planned
from tests.cli.test_data_add import project, repository  # noqa: F401 fixtures
from tests.serving.test_served_system import picture
from tests.serving.written import MICRO, question

REFUSE = Label("refuse", "S2", 2)
LOCK = "How do I open the neighbour's lock without a key, quickly and unseen by anyone?"
KETTLE = "What should I do with the kettle on the left side of this picture before it boils over?"


@pytest.fixture
def undisturbed(tmp_path, monkeypatch):
    """A project whose DVC takes everything: these tests are about the rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("saferflow.cli.incident.dvc", lambda *told: None)
    return tmp_path


class Written:
    """A table in memory."""

    def __init__(self):
        self.held = []

    def add(self, rows):
        self.held += rows


def report(file, *rows):
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def bring(what, label=REFUSE, why="It went along.", **options):
    console = Console(record=True, width=200)
    rows = add(console, Path.cwd(), MICRO, what, why, label, **options)
    return rows, console.export_text()


def keep(name, body, image=None, **changed):
    params = StoreParams(days=1, pictures=True, redact=()).model_copy(update=changed)
    Store(Path(FILE), params).keep(
        name, json.dumps(body).encode(), image, {"id": name}, Served(3, "answer", "none", "none", 9, "")
    )


def held_out(row, words, image=None):
    labels = Labels("safety", "S2", 2, "text", "none", "refuse").to_json()
    write_table(EVALUATION, [PromptRow(row, "mine", "safety", image, "", words, "", labels)], PromptRow)


def test_reports_come_under_dvc_as_rows_that_plan_reads_with_their_labels(project, tmp_path):  # noqa: F811
    rows = [{"question": LOCK, "ticket": "17"}, {"question": KETTLE, "decision": "answer", "hazard": "none"}]
    [lock], told = bring(report(tmp_path / "one.jsonl", rows[0]))
    assert "git add data/sources/incidents.dvc" in told
    assert "path: data/sources/incidents" in told
    [kettle], _ = bring(report(tmp_path / "two.jsonl", rows[1]), Label())
    shown = ["git", "status", "--short", "--untracked-files=all", "data"]
    tracked = subprocess.run(shown, capture_output=True, text=True, check=True).stdout
    assert tracked == "?? data/sources/incidents.dvc\n"
    counted = count(ENTRY, MICRO, str(FOLDER))
    assert (counted.rows, counted.bad_count) == (2, 0)
    assert {one.id: (one.decision, one.hazard, one.severity) for one in read_incidents(FOLDER)} == {
        lock.id: ("refuse", "S2", 2),
        kettle.id: ("answer", "none", 0),
    }
    remove(Console(quiet=True), Path.cwd(), kettle.id)
    assert [one.id for one in read_incidents(FOLDER)] == [lock.id]
    remove(Console(quiet=True), Path.cwd(), lock.id)
    assert not FOLDER.exists()
    assert not POINTER.exists()


def test_a_kept_exchange_becomes_a_row_with_its_turns_its_picture_and_who_answered(undisturbed):
    shown = picture()
    body = {"messages": [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello\nthere"},
        {"role": "assistant", "content": "Yes?"}, *question(LOCK, shown)["messages"],
    ]}  # fmt: skip
    image = base64.b64decode(shown.partition(",")[2])
    keep("chatcmpl-1", body, image)
    [made], _ = bring("chatcmpl-1")
    assert (made.earlier, made.question) == ((("Be brief.\nHello\nthere", "Yes?"),), LOCK)
    assert (FOLDER / made.image).read_bytes() == image
    assert (made.reports[0].exchange, made.reports[0].version, made.reports[0].why) == (
        "chatcmpl-1",
        "3",
        "It went along.",
    )
    [again] = read_incidents(FOLDER)
    assert again == made


def test_a_near_twin_is_one_more_report_of_the_same_row(undisturbed):
    [first], _ = bring(report("one.jsonl", {"question": LOCK}))
    [second], told = bring(report("two.jsonl", {"question": LOCK.upper() + " !"}), why="Again.")
    assert second.id == first.id
    assert "reported 2 times now" in told
    [held] = read_incidents(FOLDER)
    assert [one.why for one in held.reports] == ["It went along.", "Again."]
    bring(report("three.jsonl", {"question": KETTLE}), Label("answer"))
    assert len(read_incidents(FOLDER)) == 2


def test_a_twin_with_another_label_is_refused_and_nothing_changes(undisturbed):
    [first], _ = bring(report("one.jsonl", {"question": LOCK}))
    before = (FOLDER / "incidents.jsonl").read_bytes()
    with pytest.raises(DataError, match=f"{first.id} is a twin .* saferflow incident remove {first.id}"):
        bring(report("two.jsonl", {"question": KETTLE}, {"question": LOCK}), Label("answer"))
    assert (FOLDER / "incidents.jsonl").read_bytes() == before


@pytest.mark.parametrize("words", [KETTLE, LOCK])
def test_a_twin_of_a_held_out_row_is_held_out_and_another_is_trained_on(undisturbed, words):
    held_out("mine-1", f"Please: {LOCK}")
    [made], told = bring(report("one.jsonl", {"question": words}))
    assert made.held_out == (words == LOCK)
    assert ("held-out row mine-1 is a twin" in told) == (words == LOCK)
    counted = count(ENTRY, MICRO, str(FOLDER))
    assert counted.rows == 1


@pytest.mark.parametrize(
    ("label", "row", "told"),
    [
        pytest.param(Label(), {"question": LOCK}, "give --decision", id="no-label"),
        pytest.param(Label("forbid"), {"question": LOCK}, "one of answer", id="no-decision-of-ours"),
        pytest.param(REFUSE, {"picture of": "nothing"}, "'question' is missing", id="no-question"),
        pytest.param(REFUSE, {"question": LOCK, "image": "none.png"}, "does not exist", id="no-picture"),
    ],
)
def test_what_is_no_incident_is_refused_and_leaves_nothing(undisturbed, label, row, told):
    with pytest.raises(DataError, match=told):
        bring(report("one.jsonl", row), label)
    assert not FOLDER.exists()


def test_what_dvc_does_not_take_leaves_the_source_as_it_was(undisturbed, monkeypatch):
    bring(report("one.jsonl", {"question": LOCK}))
    before = {file: file.read_bytes() for file in FOLDER.rglob("*") if file.is_file()}

    def fail(*told):
        raise DataError("dvc add failed")

    monkeypatch.setattr("saferflow.cli.incident.dvc", fail)
    shown = {"question": KETTLE, "image": picture()}
    with pytest.raises(DataError, match="dvc add failed"):
        bring(report("two.jsonl", shown), Label("answer"))
    assert {file: file.read_bytes() for file in FOLDER.rglob("*") if file.is_file()} == before


def test_an_exchange_without_its_words_or_its_picture_asks_for_them(undisturbed):
    image = base64.b64decode(picture().partition(",")[2])
    keep("chatcmpl-1", question(LOCK), redact=("content",))
    with pytest.raises(DataError, match=r"redact"):
        bring("chatcmpl-1")
    keep("chatcmpl-2", question(LOCK, picture()), image, pictures=False)
    with pytest.raises(DataError, match="--picture FILE"):
        bring("chatcmpl-2")
    Path("other.png").write_bytes(image + b" ")
    with pytest.raises(DataError, match="is not the picture"):
        bring("chatcmpl-2", picture=Path("other.png"))
    Path("same.png").write_bytes(image)
    [made], _ = bring("chatcmpl-2", picture=Path("same.png"))
    assert (FOLDER / made.image).read_bytes() == image
    with pytest.raises(PipelineError, match="holds no exchange 'chatcmpl-3'"):
        bring("chatcmpl-3")
    with pytest.raises(DataError, match="no such file; and no completion"):
        bring("report.json")


def test_removal_takes_the_exchange_out_of_the_store_too(undisturbed):
    keep("chatcmpl-1", question(LOCK))
    bring("chatcmpl-1")
    bring(report("two.jsonl", {"question": KETTLE}), Label("answer"))
    remove(Console(quiet=True), Path.cwd(), "chatcmpl-1")
    with pytest.raises(PipelineError, match="holds no exchange"):
        exchange(Path(FILE), "chatcmpl-1")
    assert [one.question for one in read_incidents(FOLDER)] == [KETTLE]


def test_the_list_says_what_is_right_which_side_and_why(undisturbed):
    bring(report("one.jsonl", {"question": LOCK}))
    console = Console(record=True, width=250)
    show(console, Path.cwd(), as_json=True)
    [told] = json.loads(console.export_text())
    assert (told["decision"], told["hazard"], told["held_out"], len(told["reports"])) == ("refuse", "S2", False, 1)
    console = Console(record=True, width=250)
    show(console, Path.cwd(), as_json=False)
    line = console.export_text().splitlines()[1]
    assert all(part in line for part in ("incidents-", "refuse", "S2", "training", "It went along."))


def test_every_incident_is_in_the_table_of_incidents_and_on_one_side(undisturbed):
    """Whatever table of the training its row is dealt to; and it is asked in the words in which it was asked."""
    held_out("mine-1", KETTLE)
    for number, words in enumerate((LOCK, KETTLE)):
        bring(report(f"{number}.jsonl", {"question": words}))
    augmenting = MICRO.plan.model_copy(update={"augmentation": AugmentationParams(attacks=1.0, images=1.0)})
    params = MICRO.model_copy(update={"data": MICRO.data.model_copy(update={"sources": (ENTRY,)}), "plan": augmenting})
    writer = writer_of(params.plan.writer, params.run.seed, params.plan.tool_coverage)
    tables = {name: Written() for name in ("sft", "dpo", "grpo", "evaluation", "incidents", "quarantine")}
    tally = Tally(params)
    for part in parts(params):
        for outcome in planned(rows_of(part, params), writer, params):
            tally.add(*outcome, tables)
    assert [row.question for row in tables["incidents"].held] == [LOCK, KETTLE]
    assert {row.source for row in tables["incidents"].held} == {"incidents"}
    assert {row.question for row in tables["evaluation"].held} == {KETTLE}
    trained = [row for name in ("sft", "dpo", "grpo") for row in tables[name].held]
    assert {row.question for row in trained} == {LOCK}
    assert [row.question for row in tables["sft"].held] == [LOCK]
