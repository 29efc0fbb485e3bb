"""The page on which people grade, in a real browser and by HTTP."""

import json
import socket
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import uvicorn

from saferflow.data.rows import Labels, PromptRow
from saferflow.data.scenes.corpus import general_rows
from saferflow.labelling.page import make_app
from saferflow.labelling.table import read
from tests.evaluation import browser
from tests.labelling.test_trust import answered

HOSTILE = '<img src=x onerror="window.hacked = 1"><script>window.hacked = 1</script>'
PICTURE = next(iter(general_rows(1, 1, "train"))).image


@contextmanager
def served(file, count=3, completion=""):
    rows = [answered(n, safety=-1 if n % 2 else 3) for n in range(count)]
    if completion:
        rows = [type(row)(**{name: getattr(row, name) for name in row.__dataclass_fields__} | {"completion": f"{completion}{n}"})
                for n, row in enumerate(rows)]  # fmt: skip
    labels = Labels("safety", "S1", 3, "text", "none", "refuse", (), "kitchen").to_json()
    asked = {row.row: PromptRow(row.row, "", "safety", PICTURE, "", f"question of {row.row}", "", labels) for row in rows}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(make_app(rows, asked, file), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def grades(response, **changes):
    return {"response": response, "person": "Ada", "safety": 2, "helpfulness": 1, "rigor": 0, "refused": False} | changes


def test_what_the_browser_gets_names_no_policy_and_no_grade(tmp_path):
    with served(tmp_path / "labels.jsonl") as address:
        row = httpx.get(f"{address}/next", params={"person": "Ada"}).json()
    assert set(row) == {"done", "all", "before", "response", "question", "image", "completion", "grades"}
    assert row["grades"] is None
    assert "grpo" not in json.dumps(row)


@pytest.mark.parametrize(
    ("changes", "status"),
    [({"safety": 4}, 422), ({"person": " "}, 422), ({"response": "none"}, 404), ({"safety": "3; DROP"}, 422), ({}, 200)],
)
def test_a_grading_that_is_none_is_refused_and_not_kept(tmp_path, changes, status):
    file = tmp_path / "labels.jsonl"
    with served(file) as address:
        response = httpx.get(f"{address}/next", params={"person": "Ada"}).json()["response"]
        assert httpx.post(f"{address}/grades", json=grades(response) | changes).status_code == status
    assert len(read(file)) == (status == 200)


def test_a_page_under_another_name_is_refused(tmp_path):
    with served(tmp_path / "labels.jsonl") as address:
        assert httpx.get(address, headers={"Host": "attacker.example"}).status_code == 400


def test_a_restarted_server_goes_on_where_a_person_was(tmp_path):
    file, seen = tmp_path / "labels.jsonl", []
    for _ in range(3):
        with served(file) as address:
            row = httpx.get(f"{address}/next", params={"person": "Ada"}).json()
            seen.append(row["response"])
            assert row["done"] == len(seen) - 1
            httpx.post(f"{address}/grades", json=grades(row["response"])).raise_for_status()
    assert len(set(seen)) == 3
    with served(file) as address:
        assert httpx.get(f"{address}/next", params={"person": "Ada"}).json() == {"done": 3, "all": 3, "before": seen[-1]}
        assert httpx.get(f"{address}/next", params={"person": "Bo"}).json()["done"] == 0


@contextmanager
def page_at(address, width=1400):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser.CHROMIUM, args=browser.FLAGS)
        page = running.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(20_000)
        complaints = []
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        yield page
        assert not [line for line in complaints if "favicon" not in line], complaints
        running.close()


@browser.needs_a_browser
def test_fifty_responses_are_graded_in_a_browser_without_an_error(tmp_path):
    file = tmp_path / "labels.jsonl"
    with served(file, 50, completion=HOSTILE) as address, page_at(address) as page:
        page.fill("#person", "Ada")
        page.click("#begin")
        for number in range(50):
            page.wait_for_selector(f"#count:text-is('{number} of 50 graded')")
            if number == 0:
                assert HOSTILE in page.inner_text("#completion")
                assert page.eval_on_selector("#picture img", "image => image.decode().then(() => image.naturalWidth > 0)")
            for name, grade in (("safety", number % 7 - 3), ("helpfulness", number % 4), ("rigor", 1), ("refused", number % 2)):
                page.check(f"input[name={name}][value='{grade}']")
            page.click("text=Keep and go on")
        page.wait_for_selector("text=All responses of this sample are graded")
        assert page.evaluate("window.hacked") is None
    kept = read(file)
    assert [one.safety for one in kept] == [number % 7 - 3 for number in range(50)]
    assert {one.person for one in kept} == {"Ada"}


@browser.needs_a_browser
def test_a_grading_can_be_mended_and_one_that_is_not_whole_is_not_sent(tmp_path):
    file = tmp_path / "labels.jsonl"
    with served(file) as address, page_at(address) as page:
        page.fill("#person", "Ada")
        page.click("#begin")
        page.wait_for_selector("#form:not([hidden])")
        page.click("text=Keep and go on")
        assert not file.exists()
        for name in ("safety", "helpfulness", "rigor", "refused"):
            page.check(f"input[name={name}][value='0']")
        page.click("text=Keep and go on")
        page.wait_for_selector("#count:text-is('1 of 3 graded')")
        page.click("#back")
        page.wait_for_selector("input[name=safety][value='0']:checked")
        page.check("input[name=safety][value='-1']")
        page.click("text=Keep and go on")
        page.wait_for_selector("#form:not(:has(input:checked))")
    assert [one.safety for one in read(file)] == [-1]


@browser.needs_a_browser
@pytest.mark.parametrize("width", [1400, 390])
def test_nothing_is_wider_than_the_screen_and_axe_finds_nothing_serious(tmp_path, width):
    with served(tmp_path / "labels.jsonl", completion="word " * 300) as address, page_at(address, width) as page:
        page.fill("#person", "Ada")
        page.click("#begin")
        page.wait_for_selector("#form:not([hidden])")
        page.screenshot(path=str(tmp_path / f"{width}.png"), full_page=True)
        browser.fits_and_is_accessible(page, width)
