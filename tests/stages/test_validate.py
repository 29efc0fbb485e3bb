"""Stage `validate`: good tables pass, and each planted fault stops the stage with the table and the row named."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from saferflow.data.rows import DPORow, PromptRow, SFTRow
from saferflow.data.tables import read_table, write_table
from saferflow.errors import ValidationFailed
from saferflow.params import read_values
from saferflow.stages import plan, validate

ROOT = Path(__file__).parents[2]
TABLES = Path("data/tables")


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """The tables that stage `plan` makes of the micro profile's scenes."""
    folder = tmp_path_factory.mktemp("planned")
    raw = read_values(ROOT / "profiles" / "micro.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
        plan.main()
    return folder


@pytest.fixture
def project(planned, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    TABLES.parent.mkdir()
    TABLES.symlink_to(planned / TABLES)
    Path("params.yaml").symlink_to(planned / "params.yaml")
    return tmp_path


def edit(name: str, kind: type, change) -> None:
    """Give the project a table with a change, and the other tables as they were."""
    source = TABLES.resolve()
    TABLES.unlink()
    TABLES.mkdir()
    for file in source.iterdir():
        (TABLES / file.name).symlink_to(file)
    path = TABLES / f"{name}.parquet"
    rows = read_table(path, kind)
    path.unlink()
    write_table(path, change(rows), kind)


def test_the_planned_tables_meet_every_expectation(project):
    validate.main()
    metrics = json.loads(Path("metrics/validate.json").read_text())
    assert metrics["unmet"] == 0
    assert metrics["expectations"] > 30
    docs = Path("reports/data_docs")
    assert {path.name for path in docs.iterdir()} == {"index.html", *(f"{name}.html" for name in validate.TYPES)}
    index = (docs / "index.html").read_text(encoding="utf-8")
    for told in json.loads(Path("reports/validation.json").read_text()).values():
        for item in told:
            assert item["reason"] in index
            assert item["expectation"] in index


def test_a_held_out_row_whose_label_is_a_guess_stops_the_stage(project):
    def guessed(rows):
        labels = json.dumps(json.loads(rows[0].labels) | {"label_source": "guessed"})
        return [replace(rows[0], labels=labels), *rows[1:]]

    edit("evaluation", PromptRow, guessed)
    with pytest.raises(ValidationFailed, match="no held-out row is measured by a label that the rule planner guessed"):
        validate.main()


@pytest.mark.parametrize("own_pairs", ["beside", "none"])
def test_a_pair_that_a_source_brought_is_allowed_where_the_params_use_such_pairs(project, own_pairs):
    def theirs(rows):
        return [replace(rows[0], id="x.theirs", perturbation="theirs", rejected="I would not know."), *rows[1:]]

    edit("dpo", DPORow, theirs)
    raw = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    raw["plan"]["own_pairs"] = own_pairs
    Path("params.yaml").unlink()
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    if own_pairs == "beside":
        return validate.main()
    with pytest.raises(ValidationFailed, match=r"a worse answer of a source.*x\.theirs"):
        validate.main()


def test_tables_with_rows_that_teach_reflection_meet_every_expectation(tmp_path, monkeypatch):
    raw = read_values(ROOT / "profiles" / "micro.yaml")
    raw["plan"]["reflection_share"] = 0.5
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    plan.main()
    validate.main()
    kinds = Counter(row.kind for row in read_table(TABLES / "sft.parquet", SFTRow))
    assert kinds["reflection"] > 0
    assert json.loads(Path("metrics/validate.json").read_text())["rows_sft"] == kinds.total()


def test_the_data_docs_load_and_link_nothing_from_outside(project):
    validate.main()
    for page in Path("reports/data_docs").iterdir():
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|link|img|iframe|object|form)\b", text), page
        assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?\s*(https?:)?//", text), page
        assert "default-src 'none'" in text


def test_what_a_broken_row_holds_is_text_in_the_data_docs(project):
    hostile = "<script>alert(1)</script><img src=x onerror=alert(2)><i class='text-success'></i>"
    edit("dpo", DPORow, first(perturbation=hostile, id=f"row {hostile}"))
    with pytest.raises(ValidationFailed):
        validate.main()
    pages = {page.name: page.read_text(encoding="utf-8") for page in Path("reports/data_docs").iterdir()}
    assert "not met" in pages["index.html"]
    for name in ("index.html", "dpo.html"):
        assert "row &lt;script&gt;alert(1)&lt;/script&gt;&lt;img" in pages[name], "shown, not swallowed"
    for name, text in pages.items():
        assert not re.search(r"<(script|img)\b", text), name
    assert pages["dpo.html"].count('text-danger"></i>') == 1
    assert pages["dpo.html"].count('text-success"></i>') == 12, "a row cannot say of itself that it was met"


def test_equal_tables_give_equal_data_docs(project):
    seen = []
    for _ in range(2):
        validate.main()
        seen.append({page.name: page.read_text(encoding="utf-8") for page in Path("reports/data_docs").iterdir()})
    assert seen[0] == seen[1]


def first(**changes):
    return lambda rows: [replace(rows[0], **changes), *rows[1:]]


@pytest.mark.parametrize(
    ("table", "kind", "change", "told"),
    [
        pytest.param("sft", SFTRow, lambda rows: [*rows, rows[0]], "sft: two rows of one id", id="duplicate-id"),
        pytest.param("sft", SFTRow, first(question=" "), "sft: a question without words", id="empty-question"),
        pytest.param(
            "sft",
            SFTRow,
            first(earlier='[["Hm?", "Yes."]]'),
            "sft: the turns before the last",
            id="question-of-no-turn",
        ),
        pytest.param("sft", SFTRow, first(completion=""), "sft: completion is neither", id="empty-completion"),
        pytest.param("sft", SFTRow, lambda rows: rows[:2], "sft: a table of fewer than 8 rows", id="too-few-rows"),
        pytest.param("grpo", PromptRow, first(image=b"junk"), "grpo: every image decodes", id="broken-image"),
        pytest.param(
            "dpo",
            DPORow,
            lambda rows: [replace(r, rejected=r.chosen) for r in rows],
            "dpo: chosen and",
            id="equal-pair",
        ),
        pytest.param("dpo", DPORow, first(chosen="<thinking>"), "dpo: every reference trace", id="illegal-trace"),
        pytest.param(
            "dpo", DPORow, first(rejected="<thinking>"), "dpo: every rejected completion", id="unplanted-fault"
        ),
        pytest.param("dpo", DPORow, first(perturbation="other"), "dpo: the fault is one", id="unknown-fault"),
    ],
)
def test_a_planted_fault_stops_the_stage_and_names_table_and_row(project, table, kind, change, told):
    target = read_table(TABLES / f"{table}.parquet", kind)[0].id
    edit(table, kind, change)
    with pytest.raises(ValidationFailed) as error:
        validate.main()
    assert told in str(error.value)
    assert target in str(error.value) or "fewer" in told
    assert not Path("metrics/validate.json").exists()
    assert Path("reports/data_docs/index.html").exists()


def test_a_held_out_row_with_a_twin_among_the_watched_rows_is_named(project):
    """A checkpoint may be chosen by them."""
    held_out = next(row for row in read_table(TABLES / "evaluation.parquet", PromptRow) if row.kind == "safety")
    edit("watch", PromptRow, lambda rows: [replace(held_out, id="w1", question=held_out.question.upper())])
    with pytest.raises(ValidationFailed, match=rf"{held_out.id}.*w1"):
        validate.main()


def test_a_held_out_row_with_a_twin_in_training_is_named(project):
    twin = next(row for row in read_table(TABLES / "sft.parquet", SFTRow) if row.kind == "safety")

    def leak(rows):
        return [replace(rows[0], question=twin.question.upper(), image=twin.image), *rows[1:]]

    target = read_table(TABLES / "evaluation.parquet", PromptRow)[0].id
    edit("evaluation", PromptRow, leak)
    with pytest.raises(ValidationFailed, match="no held-out row, and no near duplicate of one, stands in") as error:
        validate.main()
    assert target in str(error.value)
