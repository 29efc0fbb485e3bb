"""The data docs: our index, and one page per table by Great Expectations, without anything from outside.

Great Expectations' pages load scripts, styles, fonts and a logo from six hosts. We keep only their content: no script, no
address outside the folder, and text of rows is escaped.
"""

import html
import json
import shutil
from pathlib import Path
from typing import Any

import nh3
from great_expectations.core import ExpectationSuiteValidationResult
from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
from great_expectations.render.renderer import ValidationResultsPageRenderer
from great_expectations.render.view import DefaultJinjaPageView
from jinja2 import Environment, PackageLoader, StrictUndefined

DROPPED = {"script", "style", "title", "nav", "form", "button", "svg"}
"""Elements that are removed with their content; other elements that are not allowed leave their text."""


def publish(
    outcomes: dict[str, ExpectationSuiteValidationResult],
    results: dict[str, list[dict[str, Any]]],
    rows: dict[str, int],
    docs: Path,
) -> None:
    """Rewrite the folder `docs`; equal tables give equal files.

    Args:
        outcomes: each table's validation.
        results: each table's results by expectation, as stage `validate` keeps them.
        rows: table -> number of its rows.
    """
    environment = Environment(
        loader=PackageLoader("saferflow.data", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("docs.html.j2")
    shutil.rmtree(docs, ignore_errors=True)
    docs.mkdir(parents=True)
    (docs / "index.html").write_text(template.render(results=results, rows=rows, table="", body=""), encoding="utf-8")
    for table, outcome in outcomes.items():
        text = template.render(results=results, rows=rows, table=table, body=closed(rendered(outcome)))
        (docs / f"{table}.html").write_text(text, encoding="utf-8")


def rendered(outcome: ExpectationSuiteValidationResult) -> str:
    """Render a validation as Great Expectations' page, without its menus."""
    result = json.loads(json.dumps(outcome.to_json_dict()))  # plain numbers: the renderer knows none of numpy's
    for item in result["results"]:
        item["result"].pop("unexpected_index_query", None)  # asks a frame that is gone
        item["result"] = escaped(item["result"])
    page = ValidationResultsPageRenderer(run_info_at_end=True).render(expectationSuiteValidationResultSchema.load(result))
    page.sections = page.sections[1:-1]  # the first counts what our index counts, the last tells when it ran
    return DefaultJinjaPageView().render(page, template="page_minimal.j2")


def escaped(value: Any) -> Any:
    """Escape all text in a JSON value; the view would take a row's text for HTML."""
    if isinstance(value, str):
        return html.escape(value)
    if isinstance(value, dict):
        return {name: escaped(item) for name, item in value.items()}
    return [escaped(item) for item in value] if isinstance(value, list) else value


def closed(page: str) -> str:
    """Reduce a page to HTML that loads nothing and links nowhere."""
    return nh3.clean(
        page,
        tags=nh3.ALLOWED_TAGS - DROPPED - {"a", "img", "map", "area"},
        clean_content_tags=DROPPED,
        attributes={"i": {"class"}},  # the verdict's icon, which the style sheet spells out
    )
