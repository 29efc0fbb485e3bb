"""`saferflow check` as a person and as a script meet it: lines, JSON, exit status, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saferflow.protocol.plan import Plan

ROOT = Path(__file__).parents[2]
PLAN = Plan("S2", 2, "guardian", ("VISUAL-SCAN", "RISK-SCORER", "SAFETY-GATE"), "mesh")
LEGAL = """<thinking>
[VISUAL-SCAN]: objects=lock; setting=door; confidence=0.9
[RISK-SCORER]: hazard=S2; severity=2; confidence=0.8
[SAFETY-GATE]: decision=refuse; reason=a break-in
</thinking>
<answer>
No, a locksmith can.
</answer>"""
SKIPPED = LEGAL.replace("[RISK-SCORER]: hazard=S2; severity=2; confidence=0.8\n", "")


def row(completion: str, **more: object) -> str:
    return json.dumps({"completion": completion, **more}) + "\n"


def check(*arguments: str, stdin: bytes = b"", **environ: str) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "saferflow", "check", *arguments]
    environ = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1", "PYTHONUTF8": "1", **environ}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, input=stdin, check=False, env=environ)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_legal_completions_end_with_0_and_no_line(tmp_path):
    file = tmp_path / "rows.jsonl"
    plan_as_an_object, plan_as_in_the_tables = json.loads(PLAN.to_json()), PLAN.to_json()
    file.write_text(row(LEGAL, plan=plan_as_an_object) + row(LEGAL, plan=plan_as_in_the_tables) + row(LEGAL, plan=""))
    assert check(str(file)) == (0, "", "0 violations in 0 of 3 completions\n")


def test_a_violation_is_a_linters_line_and_ends_with_1(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(row(LEGAL, plan=PLAN.to_json()) + "\n" + row(SKIPPED, id="b2", plan=PLAN.to_json()))
    status, output, count = check(str(file))
    message = "T105 missing layer: found SAFETY-GATE and no reasoning call; legal: RISK-SCORER"
    assert output == f"{file}:3: {message} (row 'b2', line 3 of the completion)\n"
    assert (status, count) == (1, "1 violations in 1 of 2 completions\n")


def test_without_a_plan_only_what_needs_none_is_checked():
    assert check("-", stdin=row(SKIPPED).encode())[0] == 0
    assert check("-", stdin=row(SKIPPED + "\nBye.").encode())[1].startswith("<stdin>:1: T002 ")


def test_the_rollouts_of_a_run_and_a_named_field_can_be_read():
    rollout = json.dumps({"row": "r7", "reward": 0.5, "completion": LEGAL + "x", "chosen": LEGAL}) + "\n"
    assert "(row 'r7', line 8 of the completion)" in check("-", stdin=rollout.encode())[1]
    assert check("-", "--field", "chosen", stdin=rollout.encode())[0] == 0


def test_json_is_one_array_with_all_that_a_violation_holds():
    status, output, _ = check("-", "--format", "json", stdin=row(SKIPPED, id=7, plan=PLAN.to_json()).encode())
    assert status == 1
    assert json.loads(output) == [
        {
            "file": "<stdin>",
            "line": 1,
            "id": "7",
            "code": "T105",
            "rule": "missing layer",
            "step": 2,
            "completion_line": 3,
            "found": "SAFETY-GATE and no reasoning call",
            "legal": ["RISK-SCORER"],
        }
    ]
    assert json.loads(check("-", "--format", "json", stdin=row(LEGAL).encode())[1]) == []


BAD = [
    pytest.param(b"{", "<stdin>:1: not JSON: ", id="broken"),
    pytest.param(b"[" * 100_000, "<stdin>:1: not JSON: ", id="too deep"),
    pytest.param(b"[1]", "<stdin>:1: a list; an object is expected, such as", id="no object"),
    pytest.param(b"\xff", "<stdin>:1: not UTF-8: invalid start byte at byte 0; write the file as UTF-8", id="bytes"),
    pytest.param(b'{"a": 1}', "<stdin>:1: field 'completion' is missing; there are [\"a\"]; ", id="missing"),
    pytest.param(
        b'{"completion": 1}', "<stdin>:1: field 'completion' is 1; the completion as text is expected", id="type"
    ),
    pytest.param(b'{"completion": "", "id": []}', "<stdin>:1: field 'id' is []; text or a number is expected", id="id"),
    pytest.param(b'{"completion": "", "plan": 4}', "<stdin>:1: field 'plan' is 4; a plan's fields", id="plan-type"),
    pytest.param(b'{"completion": "", "plan": {"hazard": "X"}}', "  hazard: 'X' is unknown; one of", id="plan-value"),
    pytest.param(b'{"completion": "", "plan": {"hazard": "X"}}', "  tools: missing", id="plan-field"),
    pytest.param(b"\n \n", "<stdin>: holds no row; put one JSON object a line into it", id="nothing"),
]


@pytest.mark.parametrize(("content", "words"), BAD)
def test_bad_input_ends_with_2_and_says_what_was_expected(content, words):
    status, output, error = check("-", stdin=content)
    assert (status, output) == (2, "")
    assert error.startswith("error: ")
    assert words in error


def test_all_bad_lines_are_reported_at_once_and_nothing_is_checked():
    rows = row(SKIPPED + "x") + "{\n" + row("", plan=1, id=[])
    status, output, error = check("-", stdin=rows.encode())
    assert (status, output) == (2, "")
    assert error.startswith("error: 3 problems with the rows, so nothing was checked:\n<stdin>:2: not JSON")
    assert "\n<stdin>:3: field 'plan'" in error
    assert "\n<stdin>:3: field 'id'" in error


def test_a_file_that_is_not_there_or_is_a_folder_is_bad_input(tmp_path):
    for path in (tmp_path / "nowhere.jsonl", tmp_path):
        status, _, error = check(str(path))
        assert status == 2
        assert f"error: {path}: " in error
        assert "give a JSON Lines file, or - for the standard input" in error


def test_what_no_terminal_can_show_is_printed_all_the_same():
    rows = row("\x00\ud800\u202e<thinking>\n[\u202e", id="\ud800\x1b[2J")
    status, output, _ = check("-", stdin=rows.encode(), PYTHONUTF8="0", PYTHONIOENCODING="ascii")
    assert status == 1
    assert output.isascii()
    assert "\x1b" not in output


def test_the_help_teaches_the_row_the_codes_and_the_exit_status():
    _, output, _ = check("--help")
    for words in ("one JSON object a line", "completion", "plan", "--field", "docs/violations.md", "Exit status"):
        assert words in output
