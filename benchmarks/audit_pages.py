"""First paint and filters of the audit pages, in a real browser.

    PYTHONPATH=src python benchmarks/audit_pages.py --rows 5000

Medians of `--repeat` openings; a filter's time is from the change of its field to the painted list. Needs Chromium. Source: ours.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.data.scenes.corpus import safety_rows
from saferflow.evaluation.audit import Lineage, write_audit
from saferflow.layout import POLICIES
from saferflow.planner.rules import plan_for
from saferflow.planner.teacher import write
from saferflow.protocol.trace import render
from saferflow.rng import rng

FILTER = """([id, value]) => new Promise(done => {
  const field = document.getElementById(id), started = performance.now();
  field.value = value;
  field.dispatchEvent(new Event("input", {bubbles: true}));
  requestAnimationFrame(() => setTimeout(() => done(performance.now() - started)));
})"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--repeat", type=int, default=7)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "audit"
        rows, answered = evaluated(asked.rows)
        started = time.perf_counter()
        write_audit(pages, rows, answered, Lineage("-", "benchmark", "-", "-"))
        size = sum(file.stat().st_size for file in pages.rglob("*")) / 1e6
        print(
            f"{asked.rows:,} rows, {len(POLICIES)} policies: written in {time.perf_counter() - started:.1f} s, {size:.1f} MB"
        )
        paints, ready, filters = [], [], {"search": [], "shows": [], "hazard": []}
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            for _ in range(asked.repeat):
                page = browser.new_page(viewport={"width": 1400, "height": 900})
                page.goto((pages / "index.html").as_uri())
                page.wait_for_selector("article section")
                ready.append(page.evaluate("performance.now()"))
                paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
                for field, value in (("search", "clean"), ("shows", "unsafe"), ("hazard", "S1")):
                    filters[field].append(page.evaluate(FILTER, [field, value]))
                page.close()
            browser.close()
    print(f"first paint {statistics.median(paints):.0f} ms, first row shown {statistics.median(ready):.0f} ms")
    for field, times in filters.items():
        print(f"filter by {field:<7} {statistics.median(times):.0f} ms, at most {max(times):.0f} ms")


def evaluated(count: int) -> tuple[list[PromptRow], list[Answered]]:
    rows, answered = [], []
    for row in safety_rows(count, 1, "evaluation"):
        plan = plan_for(row.question, row.image)
        labels: Labels = row.labels
        text = render(write(plan, row.question, labels, row.answer, rng(1, "bench", row.id), 1.0))
        rows.append(
            PromptRow(row.id, row.source, "safety", row.image, "", row.question, plan.to_json(), labels.to_json())
        )
        answered += [
            Answered(
                row.id, policy, "safety", "x", text, len(row.id + policy) % 7 - 3, 2, 3, False, True, False,
                labels.decision, labels.hazard, labels.risk_source, labels.attack, "", "a reason in some words",
            )
            for policy in POLICIES
        ]  # fmt: skip
    return rows, answered


if __name__ == "__main__":
    main()
