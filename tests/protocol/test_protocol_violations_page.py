"""`docs/violations.md` against the code: the same codes, and examples that behave as the page says."""

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from saferflow.protocol.check import CODES, check
from saferflow.protocol.plan import Plan

PAGE = (Path(__file__).parents[2] / "docs" / "violations.md").read_text(encoding="utf-8")
FIRST, *SECTIONS = re.split(r"^## ", PAGE, flags=re.MULTILINE)


class Section(NamedTuple):
    code: str
    title: str
    plan: Plan
    bad: str
    good: str


def fenced(text: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)\n```$", text, flags=re.MULTILINE | re.DOTALL)


def section(text: str) -> Section:
    code, _, title = text.split("\n", 1)[0].partition(" ")
    (bad, good), plans = fenced(text, "text"), fenced(text, "json") or fenced(FIRST, "json")
    return Section(code, title, Plan.from_json(plans[0]), bad, good)


READ = [pytest.param(section(text), id=text[:4]) for text in SECTIONS]


def test_the_page_has_every_code_once_in_order_with_its_meaning():
    assert [(param.values[0].code, param.values[0].title) for param in READ] == list(CODES.items())


@pytest.mark.parametrize("section", READ)
def test_the_bad_trace_has_exactly_this_violation(section):
    assert [violation.code for violation in check(section.plan, section.bad)] == [section.code]


@pytest.mark.parametrize("section", READ)
def test_the_good_trace_has_none(section):
    assert check(section.plan, section.good) == ()


@pytest.mark.parametrize("section", READ)
def test_the_page_says_which_codes_need_no_plan(section):
    named = re.findall(r"T\d{3}", FIRST.split("Without a plan only")[1].split(":")[0])
    assert (section.code in [violation.code for violation in check(None, section.bad)]) == (section.code in named)


def test_the_line_at_the_top_is_one_that_the_check_prints():
    shown = fenced(FIRST, "")[0]
    plan = Plan("S2", 2, "guardian", ("VISUAL-SCAN", "RISK-SCORER", "SAFETY-GATE"), "linear")
    bad = "<thinking>\n[RISK-SCORER]: hazard=S2; severity=2; confidence=0.8\n[VISUAL-SCAN]: x"
    messages = [f"{found.code} {found.message}" for found in check(plan, bad)]
    assert any(message in shown for message in messages)
