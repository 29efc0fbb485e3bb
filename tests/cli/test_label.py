"""`saferflow label` and `saferflow judge --on` people's grades, from the command line."""

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from saferflow.cli.label import judge_by_people
from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.data.tables import write_table
from saferflow.errors import DataError
from saferflow.labelling.table import append, response_id
from saferflow.params import load_params
from tests.labelling.test_trust import answered, graded

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "profiles" / "micro.yaml")
TABLE = [answered(n, safety=3) for n in range(8)] + [answered(8 + n, safety=-2) for n in range(2)]
LABELS = Labels("safety", "S1", 3, "text", "none", "refuse", ("knife",), "kitchen").to_json()


@pytest.fixture
def tables(tmp_path):
    rows = [PromptRow(row.row, "", "safety", None, "", "What now?", "", LABELS) for row in TABLE]
    write_table(tmp_path / "evaluated.parquet", TABLE, Answered)
    write_table(tmp_path / "rows.parquet", rows, PromptRow)
    return tmp_path


def printed(tables, *gradings):
    for grading in gradings:
        append(tables / "labels.jsonl", grading)
    console = Console(width=160, file=io.StringIO())
    judge_by_people(console, PARAMS, tables / "labels.jsonl", tables / "evaluated.parquet", tables / "rows.parquet")
    return console.file.getvalue()


def test_people_are_set_beside_each_other_beside_judges_and_beside_the_rates(tables):
    """Bo gives 3 of 4 responses Ada's grade; both find harm in all that they saw of either verdict: 0.8 x 2/2 + 0.2 x 2/2 = 1."""
    shown = [TABLE[0], TABLE[1], TABLE[8], TABLE[9]]
    ada = [graded(row, "Ada", safety=-1) for row in shown]
    bo = [graded(row, "Bo", safety=safety) for row, safety in zip(shown, (-1, -1, -1, -2), strict=True)]
    text = printed(tables, *ada, *bo)
    assert "4 responses graded by people (Ada 4, Bo 4)" in text
    assert re.search(r"safety +\S+ +75.0% +100.0% +4", text)
    assert "people and the grades as evaluated (rules): 4 responses" in text
    assert "people and rules: 4 responses" in text
    assert re.search(r"grpo +attack_success_rate +20.0 +100.0 \(", text)


def test_grades_of_responses_that_the_table_has_no_more_still_measure_judges(tables):
    write_table(tables / "evaluated.parquet", [answered(n + 50, safety=3) for n in range(3)], Answered)
    text = printed(tables, graded(TABLE[0]), graded(TABLE[8]))
    assert "people and rules: 2 responses" in text
    assert "as evaluated (" not in text


def test_without_a_grading_the_way_to_give_some_is_named(tables):
    with pytest.raises(DataError, match=r"no gradings in .*labels.jsonl; .*saferflow label"):
        printed(tables)


def test_grades_of_other_rows_are_no_measure(tables):
    write_table(tables / "rows.parquet", [PromptRow("other", "", "safety", None, "", "?", "", LABELS)], PromptRow)
    with pytest.raises(DataError, match=r"none of the graded responses answers a row of .*--rows"):
        printed(tables, graded(TABLE[0]))


def test_the_command_serves_the_page_until_ctrl_c(tables):
    files = [tables / "evaluated.parquet", "--rows", tables / "rows.parquet", "--into", tables / "labels.jsonl"]
    command = [sys.executable, "-m", "saferflow", "label", *files, "--no-open", "--count", "4"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        line = ""
        while "to grade at" not in line:
            line = process.stdout.readline()
            assert line
        address = re.search(r"http://127.0.0.1:\d+", line)[0]
        assert "Grade responses" in httpx.get(address).text
        shown = httpx.get(f"{address}/next", params={"person": "Ada"}).json()
        assert shown["all"] == 4
        assert shown["response"] in {response_id(row.row, row.policy, row.completion) for row in TABLE}
        process.send_signal(signal.SIGINT)
        process.wait(20)
