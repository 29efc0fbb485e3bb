"""`saferflow audit`: the pages of the last evaluation, written and opened."""

import json
import shutil
import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from saferflow.cli.misses import Choice, chosen, print_chosen
from saferflow.data.rows import Answered, PromptRow
from saferflow.data.tables import read_table
from saferflow.evaluation.audit import Lineage, View, write_audit
from saferflow.params import Params
from saferflow.release import registry
from saferflow.stages.evaluate import POLICIES
from saferflow.stages.gate import CANDIDATE
from saferflow.tracking import graph, lineage

ROWS = Path("data/tables/evaluation.parquet")
EVALUATED = Path("data/evaluated.parquet")
SCORES = Path("metrics/evaluate.json")
PAGES = Path("reports/audit")
LOGS = Path("reports/inspect")


def write_pages(
    root: Path, params: Params, console: Console, *, show: bool, inspect: bool = False, choice: Choice | None = None
) -> None:
    """Write reports/audit from the evaluated rows, and open it in the browser where `show` says so.

    Args:
        inspect: also write reports/inspect, a log a policy for Inspect's viewer.
        choice: rows to list here, and to open the pages at.

    Raises:
        DataError: nothing has been evaluated yet, or by no policy of the choice's name.
        ParamsError: the choice names what is not there.
        PipelineError: Inspect is not installed, or the registry has no version of the choice's name.
    """
    if inspect:
        from saferflow.evaluation.inspect_log import require

        require()
    answered = read_table(root / EVALUATED, Answered)
    rows = read_table(root / ROWS, PromptRow)
    found = chosen(root, params, choice, answered) if choice else None
    if choice and found:
        print_chosen(console, {row.id: row for row in rows}, found, choice.limit)
        console.print()
    view = View(choice.policy, tuple(row.row for row in found.missed), found.title) if found and found.missed else None
    entries = graph.lock_entries(root)
    digest, _ = graph.out_digest(entries.get("evaluate", {}), str(EVALUATED)) or ("unknown", 0)
    made = datetime.now(UTC).isoformat(timespec="minutes")
    commit = lineage.run_tags(root, params.run.profile, "").get(lineage.PREFIX + "git.commit", "unknown")
    pages = root / PAGES
    lines = Lineage(commit, params.run.profile, digest, made, _policies(entries, params))
    written = write_audit(pages, rows, answered, lines, view)
    console.print(
        f"{written:,} rows: {pages / 'index.html'}" + (", opened at those above" if view else ""), soft_wrap=True
    )
    if inspect:
        from saferflow.evaluation.inspect_log import write_logs

        shutil.rmtree(root / LOGS, ignore_errors=True)
        write_logs(root / LOGS, rows, answered, json.loads((root / SCORES).read_text(encoding="utf-8")), str(ROWS))
        console.print(f"logs: inspect view --log-dir {root / LOGS}")
    if show:
        webbrowser.open((pages / "index.html").as_uri())


def _policies(entries: dict[str, dict[str, Any]], params: Params) -> dict[str, str]:
    """Where each policy comes from, in words."""
    digests = {
        stage: found[0] for stage in POLICIES if (found := graph.out_digest(entries.get(stage, {}), f"models/{stage}"))
    }
    version = registry.by_digest(params.gate.registered_model, digests[CANDIDATE]) if CANDIDATE in digests else None
    told = {}
    for stage, digest in digests.items():
        words = [f"weights {digest}"]
        if version and (run := version.tags.get(f"{lineage.PREFIX}{stage}.run")):
            words.append(f"run {run}")
        if version and stage == CANDIDATE:
            words.append(f"{version.model} version {version.number}")
        told[stage] = ", ".join(words)
    return told
