"""`saferflow audit`: the pages of the last evaluation, written and opened."""

import webbrowser
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table
from saferflow.evaluation.audit import Lineage, write_audit
from saferflow.params import Params
from saferflow.tracking import graph, lineage

ROWS = Path("data/tables/evaluation.parquet")
EVALUATED = Path("data/evaluated.parquet")
PAGES = Path("reports/audit")


def write_pages(root: Path, params: Params, console: Console, *, show: bool) -> None:
    """Write reports/audit from the evaluated rows, and open it in the browser where `show` says so.

    Raises:
        DataError: nothing has been evaluated yet.
    """
    answered = read_table(root / EVALUATED, Answered)
    rows = read_table(root / ROWS, PromptRow)
    digest, _ = graph.out_digest(graph.lock_entries(root).get("evaluate", {}), str(EVALUATED)) or ("unknown", 0)
    made = datetime.now(UTC).isoformat(timespec="minutes")
    commit = lineage.run_tags(root, params.run.profile, "").get(lineage.PREFIX + "git.commit", "unknown")
    pages = root / PAGES
    written = write_audit(pages, rows, answered, Lineage(commit, params.run.profile, digest, made))
    console.print(f"{written:,} rows: {pages / 'index.html'}")
    if show:
        webbrowser.open((pages / "index.html").as_uri())
