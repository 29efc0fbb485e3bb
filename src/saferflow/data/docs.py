"""The data docs: an index of ours, and a page a table from Great Expectations' own, cut off from the outside.

Great Expectations' pages load scripts, styles, fonts and a logo from six hosts. Here only their content is kept: no
script, no address outside the folder, and what a row holds is text.
"""

import shutil
from pathlib import Path
from typing import Any

import nh3
from jinja2 import Environment, PackageLoader, StrictUndefined

DROPPED = {"script", "style", "title", "nav", "form", "button", "svg"}
"""Elements that go with all that they hold; others that are not allowed leave their text."""


def publish(site: Path, results: dict[str, list[dict[str, Any]]], rows: dict[str, int], docs: Path) -> None:
    """Write the folder `docs` anew.

    Args:
        site: Great Expectations' rendered site.
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
    for table in results:
        [page] = (site / "validations" / table).rglob("*.html")
        body = closed(page.read_text(encoding="utf-8"))
        text = template.render(results=results, rows=rows, table=table, body=body)
        (docs / f"{table}.html").write_text(text, encoding="utf-8")


def closed(page: str) -> str:
    """The content of a page as HTML that loads and links nothing."""
    return nh3.clean(
        page,
        tags=nh3.ALLOWED_TAGS - DROPPED - {"a", "img", "map", "area"},
        clean_content_tags=DROPPED,
        attributes={"i": {"class"}},  # the verdict's icon, which the style sheet spells out
    )
