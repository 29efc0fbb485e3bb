"""`saferflow audit`: writes and opens the pages of the last evaluation."""

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
from saferflow.layout import CANDIDATE, EVALUATED, EVALUATION, POLICIES, SCORES
from saferflow.params import Params
from saferflow.release import registry
from saferflow.tracking import graph, lineage

PAGES = Path("reports/audit")
LOGS = Path("reports/inspect")


def write_pages(
    root: Path, params: Params, console: Console, *, show: bool, inspect: bool = False, choice: Choice | None = None
) -> None:
    """Write reports/audit from the evaluated rows, and with `show` open it in the browser.

    Args:
        inspect: also write reports/inspect, one log per policy, for Inspect's viewer.
        choice: the rows to list here and to show first on the pages.

    Raises:
        DataError: nothing is evaluated yet, or not the choice's policy.
        ParamsError: the choice names an unknown measure, hazard or risk source.
        PipelineError: Inspect is not installed, or the registry has no version of the choice's name.
    """
    if inspect:
        from saferflow.evaluation.inspect_log import require

        require()
    answered = read_table(root / EVALUATED, Answered)
    rows = read_table(root / EVALUATION, PromptRow)
    selection = chosen(root, params, choice, answered) if choice else None
    if choice and selection:
        print_chosen(console, {row.id: row for row in rows}, selection, choice.limit)
        console.print()
    view = (
        View(choice.policy, tuple(row.row for row in selection.missed), selection.title)
        if selection and selection.missed
        else None
    )
    entries = graph.lock_entries(root)
    digest, _ = graph.out_digest(entries.get("evaluate", {}), str(EVALUATED)) or ("unknown", 0)
    written_at = datetime.now(UTC).isoformat(timespec="minutes")
    commit = lineage.run_tags(root, params.run.profile, "").get(lineage.PREFIX + "git.commit", "unknown")
    pages = root / PAGES
    lines = Lineage(commit, params.run.profile, digest, written_at, _policies(entries, params))
    written = write_audit(pages, rows, answered, lines, view)
    console.print(
        f"{written:,} rows: {pages / 'index.html'}" + (", opened at those above" if view else ""), soft_wrap=True
    )
    if inspect:
        from saferflow.evaluation.inspect_log import write_logs

        shutil.rmtree(root / LOGS, ignore_errors=True)
        write_logs(root / LOGS, rows, answered, json.loads((root / SCORES).read_text(encoding="utf-8")), str(EVALUATION))
        console.print(f"logs: inspect view --log-dir {root / LOGS}")
    if show:
        webbrowser.open((pages / "index.html").as_uri())


def _policies(entries: dict[str, dict[str, Any]], params: Params) -> dict[str, str]:
    """Policy -> its origin in words: digest, run, version."""
    digests = {
        stage: out[0] for stage in POLICIES if (out := graph.out_digest(entries.get(stage, {}), f"models/{stage}"))
    }
    version = registry.by_digest(params.gate.registered_model, digests[CANDIDATE]) if CANDIDATE in digests else None
    origins = {}
    for stage, digest in digests.items():
        words = [f"weights {digest}"]
        if version and (run := version.tags.get(f"{lineage.PREFIX}{stage}.run")):
            words.append(f"run {run}")
        if version and stage == CANDIDATE:
            words.append(f"{version.model} version {version.number}")
        origins[stage] = ", ".join(words)
    return origins
