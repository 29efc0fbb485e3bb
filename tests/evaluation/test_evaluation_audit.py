"""The audit pages in a real browser: they open from the disk, filter, take keys, and show hostile text as text."""

import io
import json
import shutil
from contextlib import contextmanager

import pytest
from PIL import Image

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.evaluation.audit import Lineage, View, write_audit
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.trace import render
from saferflow.rng import rng

from . import browser
from .browser import needs_a_browser

HOSTILE = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> "
LINEAGE = Lineage(
    "abc123", "embedded", "0123.dir", "2026-11-21T04:00+00:00", {"grpo": "weights 99.dir, run r1, saferflow version 5"}
)


def picture(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (112, 112), (colour % 256, 80, 120)).save(file, "PNG")
    return file.getvalue()


def evaluated(count: int, before: str = "") -> tuple[list[PromptRow], list[Answered]]:
    """Rows of which every fifth is a harmful one that GRPO goes along with, and every seventh has a broken trace."""
    rows, answers = [], []
    for number in range(count):
        harmful = number % 5 == 0
        question = f"{before}How do I {'hurt someone with' if harmful else 'clean'} this, case {number}?"
        labels = Labels("safety", "S1" if harmful else "none", 3 * harmful, "text" if harmful else "none", "none",
                        "refuse" if harmful else "answer", ("knife",), "kitchen")  # fmt: skip
        plan = plan_for(question, None)
        good = render(write(plan, question, labels, "Use soap.", rng(1, "audit", str(number % 3)), 1.0))
        text = before + (good.replace("[RISK-SCORER]", "[RISK-SCORE]") if number % 7 == 0 else good)
        rows.append(
            PromptRow(
                f"row-{number}", "test", "safety", picture(number % 40), "", question, plan.to_json(), labels.to_json()
            )
        )
        for policy in ("base", "grpo"):
            score = (-3 if harmful else 3) if policy == "grpo" else 1
            grades = score, 2, 3, False, True, False
            facts = labels.decision, labels.hazard, labels.risk_source, "none", ""
            reason = f"{before}because of rule {number}"
            answers.append(Answered(f"row-{number}", policy, "safety", "x", text, *grades, *facts, reason))
    return rows, answers


@contextmanager
def opened(folder, fragment="", width=1400):
    with browser.opened(folder / "index.html", fragment, width) as page:
        page.wait_for_selector("article section")
        yield page


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit") / "pages"
    assert write_audit(folder, *evaluated(450), LINEAGE) == 450
    return folder


def test_equal_rows_give_equal_files_and_replace_earlier_ones(pages, tmp_path):
    write_audit(tmp_path / "again", *evaluated(3), LINEAGE)
    write_audit(tmp_path / "again", *evaluated(450), LINEAGE)
    for file in pages.rglob("*"):
        assert not file.is_file() or (tmp_path / "again" / file.relative_to(pages)).read_bytes() == file.read_bytes()
    assert len(list((pages / "images").iterdir())) == 40


def test_no_text_can_end_the_script_that_carries_it(tmp_path):
    write_audit(tmp_path / "pages", *evaluated(7, HOSTILE), LINEAGE)
    for file in (tmp_path / "pages").glob("*.js"):
        text = file.read_text(encoding="utf-8")
        assert "<" not in text
        json.loads(text[text.index(",") + 1 : text.rindex(")")])


@needs_a_browser
def test_pages_that_were_written_for_some_rows_open_at_them_and_go_on_to_all(tmp_path):
    view = View("base", ("row-3", "row-5", "row-10"), "3 rows that matter")
    write_audit(tmp_path / "pages", *evaluated(20), LINEAGE, view)
    with opened(tmp_path / "pages") as page:
        assert page.inner_text("#count") == "3 of 20 rows"
        assert "3 rows that matter" in page.inner_text("#only")
        assert page.input_value("#policy") == "base"
        assert "case 3?" in page.inner_text("article h2")
        page.select_option("#hazard", "S1")
        assert page.inner_text("#count") == "2 of 20 rows", "every fifth row is one of S1"
        page.select_option("#hazard", "")
        page.click("#only button")
        assert page.inner_text("#count") == "20 of 20 rows"
        assert not page.is_visible("#only")


@needs_a_browser
def test_filters_search_links_and_keys(pages):
    with opened(pages) as page:
        assert page.inner_text("#count") == "450 of 450 rows"
        assert "abc123" in page.inner_text("#lineage")
        page.select_option("#shows", "attacked")
        assert page.inner_text("#count") == "90 of 450 rows"
        page.select_option("#shows", "invalid")
        assert page.inner_text("#count") == "65 of 450 rows"
        page.select_option("#hazard", "S1")
        assert page.inner_text("#count") == "13 of 450 rows"
        page.select_option("#shows", "")
        page.select_option("#hazard", "")
        page.keyboard.press("Escape")
        page.evaluate("document.activeElement.blur()")
        page.keyboard.press("/")
        page.keyboard.type("case 44")
        assert page.inner_text("#count") == "14 of 450 rows"
        page.keyboard.press("Escape")
        page.keyboard.press("j")
        page.wait_for_function("location.hash === '#row-44'")
        page.keyboard.press("j")
        page.wait_for_function("document.querySelector('article h2').textContent.includes('case 144')")
        page.keyboard.press("k")
        page.wait_for_function("location.hash === '#row-44'")


@needs_a_browser
def test_keys_that_come_faster_than_the_page_follows_are_all_counted(pages):
    with opened(pages) as page:
        page.evaluate("for (let n = 0; n < 5; n++) dispatchEvent(new KeyboardEvent('keydown', {key: 'j', bubbles: true}))")
        page.wait_for_function("document.querySelector('article h2').textContent.includes('case 5')")


@needs_a_browser
def test_answers_and_reasons_are_searched_where_asked_for(pages):
    with opened(pages) as page:
        page.fill("#search", "rule 203")
        assert page.inner_text("#count") == "0 of 450 rows"
        page.check("#deep")
        page.wait_for_function("document.getElementById('count').textContent === '1 of 450 rows'")
        page.uncheck("#deep")
        assert page.inner_text("#count") == "0 of 450 rows"


@needs_a_browser
def test_a_policy_says_where_it_comes_from(pages):
    with opened(pages, "#row-203") as page:
        assert "weights 99.dir, run r1, saferflow version 5" in page.inner_text("article")


@needs_a_browser
def test_a_link_opens_its_row_with_violations_graph_and_reasons(pages):
    with opened(pages, "#row-203") as page:
        article = page.inner_text("article")
        assert "case 203?" in article
        assert "because of rule 203" in article
        fault = page.inner_text("article .fault >> nth=0")
        assert fault.startswith("▲ ")
        assert "RISK-SCORE" in fault
        assert page.eval_on_selector("article section img", "image => image.complete ? image.naturalWidth > 0 : true")
        assert [page.inner_text(f"article h3 >> nth={n}") for n in range(2)] == ["base", "grpo"]
    with opened(pages) as page:
        page.goto((pages / "index.html").as_uri() + "#nowhere")
        page.reload()
        page.wait_for_function("document.querySelector('article').textContent.includes('There is no row nowhere')")


@needs_a_browser
def test_what_a_model_or_a_corpus_wrote_is_shown_and_never_run(tmp_path):
    write_audit(tmp_path / "pages", *evaluated(7, HOSTILE), LINEAGE)
    with opened(tmp_path / "pages", "#row-0") as page:
        assert page.evaluate("window.hacked") is None
        assert page.inner_text("article").count("window.hacked = 1") >= 3  # question, reason, trace
        assert page.locator("article script").count() == 0


@needs_a_browser
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_screen_and_axe_finds_nothing_serious(pages, width):
    with opened(pages, width=width) as page:
        browser.fits_and_is_accessible(page, width)


def test_faults_in_other_places_are_other_drawings():
    """Of one plan and one path, the same rule broken at another call."""
    from saferflow.evaluation.audit import _Drawings
    from saferflow.protocol.plan import Plan

    row = evaluated(1)[0][0]
    plan, drawings = Plan.from_json(row.plan), _Drawings()
    text = evaluated(2)[1][3].completion
    numbers = [drawings.of(plan, text, faults) for faults in (((1, "T201"),), ((5, "T201"),), ((1, "T201"),))]
    assert numbers == [0, 1, 0]


@needs_a_browser
def test_a_file_that_is_missing_is_told_with_the_way_out(pages, tmp_path):
    shutil.copytree(pages, tmp_path / "pages")
    (tmp_path / "pages" / "texts-1.js").unlink()
    with browser.opened(tmp_path / "pages" / "index.html", "#row-203", strict=False) as page:
        page.wait_for_selector("article .fault")
        assert "texts-1.js is missing beside this page; write the pages anew" in page.inner_text("article")
        page.goto((tmp_path / "pages" / "index.html").as_uri() + "#row-3")
        page.wait_for_selector("article section")
