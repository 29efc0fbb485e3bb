"""The lines at the end of a run and in `saferflow status`: scores, verdict, versions, where to look."""

import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli.advice import block, in_one_line
from saferflow.errors import PipelineError
from saferflow.evaluation.advice import Advice
from saferflow.layout import BASE, CANDIDATE, MODELS, REPORT, SCORES, VERDICT, in_order
from saferflow.params import Params
from saferflow.release import registry
from saferflow.tracking import graph, runs, services

COLUMNS = {
    "safety": "safety",
    "helpfulness": "helpful-\nness",
    "rigor": "rigor",
    "over_refusal_rate": "over-\nrefusal",
    "attack_success_rate": "attack\nsuccess",
    "validity": "protocol\nvalidity",
    "general": "general\nability",
}
TABLE_WIDTH = 80
SHOWN_REASONS = 3


def wide(console: Console, width: int = TABLE_WIDTH) -> Console:
    """The console with at least so many columns, for tables."""
    return Console(width=max(console.width, width), file=console.file, highlight=False)


def cut(text: str, most: int) -> str:
    """A text in one line, of `most` characters at most."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most]}…"


def duration(seconds: float) -> str:
    """`8 s`, `2 min 12 s`, `1 h 4 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(reasons: Iterable[str]) -> str:
    """The first reasons, and the number of further ones."""
    reasons = list(reasons)
    more = len(reasons) - SHOWN_REASONS
    return ", ".join(reasons[:SHOWN_REASONS]) + (f" and {more} more" if more > 0 else "")


def score_table(metrics: dict) -> Table:
    """`metrics/evaluate.json` as a table: one line per policy, in percent with intervals."""
    title = f"Scores on {metrics['rows']} held-out rows (percent, with interval)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    intervals = metrics.get("intervals", {})
    for policy in in_order(metrics["policies"]):
        scores = metrics["policies"][policy]
        cells = [_cell(scores.get(name), intervals.get(policy, {}).get(name)) for name in COLUMNS]
        table.add_row(policy.upper() if policy != BASE else policy, *cells)
    return table


def _cell(score: float | None, interval: list[float] | None) -> str:
    if score is None:
        return "-"
    return f"{score:.1f}" + (f"\n{interval[0]:.0f}-{interval[1]:.0f}" if interval else "")


def verdict_lines(verdict: dict) -> list[Text]:
    """The gate's verdict, with each check that failed."""
    failed = [check for check in verdict["checks"] if not check["passed"]]
    lines = [_verdict(verdict), *(Text(f"  {check['name']}: {check['detail']}") for check in failed)]
    return lines + _notes(verdict)


def _notes(verdict: dict) -> list[Text]:
    """The verdict's notes; none in verdicts from before notes existed."""
    return [Text(f"  {note}", "dim") for note in verdict.get("notes", ())]


def _verdict(verdict: dict) -> Text:
    return Text("gate: passed", "green") if verdict["passed"] else Text("gate: failed", "red")


@dataclass(frozen=True, slots=True)
class Comparison:
    """The comparison of a candidate that may not lead with the champion."""

    champion: int
    failed: tuple[str, ...]
    """Names of the checks."""
    advice: Advice | None
    """None in comparisons from before advice existed."""


def comparison(root: Path, model: str) -> Comparison | None:
    """The stored comparison of this checkout's candidate with the current champion; None if the candidate passed.

    A candidate of another checkout, and a comparison with a champion that no longer leads, say nothing here.
    """
    candidate, champion = registry.by_alias(model, registry.CANDIDATE), registry.by_alias(model, registry.CHAMPION)
    digest = graph.out_digest(graph.lock_entries(root).get(CANDIDATE, {}), (MODELS / CANDIDATE).as_posix())
    if candidate is None or champion is None or digest is None or champion.number == candidate.number:
        return None
    run = candidate.tags.get(registry.EVALUATION_RUN)
    if run is None or candidate.tags.get(registry.MODEL_DIGEST) != digest[0]:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            kept = json.loads(runs.fetch_artifact(run, registry.COMPARISON, Path(folder)).read_text(encoding="utf-8"))
        except PipelineError:
            return None
    if kept["passed"] or kept.get("champion") != champion.number:
        return None
    failed = tuple(check["name"] for check in kept["checks"] if not check["passed"])
    return Comparison(champion.number, failed, Advice.from_dict(kept["advice"]) if kept.get("advice") else None)


def version_line(model: str) -> str:
    """The candidate's version with its aliases, and the champion's if it is a different version."""
    candidate, champion = registry.by_alias(model, registry.CANDIDATE), registry.by_alias(model, registry.CHAMPION)
    if candidate is None:
        return f"registered: no version of {model} yet"
    line = f"registered: {model} version {candidate.number} ({', '.join(candidate.aliases)})"
    if champion is None:
        return line + "; there is no champion yet"
    return line if champion.number == candidate.number else line + f"; the champion is version {champion.number}"


def closing(console: Console, root: Path, params: Params) -> None:
    """Scores, verdict, version and where to look next."""
    results(console, root, params)
    prefect, mlflow = services.running(services.PREFECT, root), services.running(services.MLFLOW, root)
    console.print("\nwhere to look:")
    if (root / REPORT).exists():
        console.print(f"  report       {REPORT}")
    console.print("  MLflow       " + (mlflow or "saferflow ui (or make ui) starts its page"))
    console.print("  Prefect      " + (prefect or "saferflow ui (or make ui) starts its page"))
    console.print("  try it       saferflow chat IMAGE QUESTION --policy grpo")
    if prefect or mlflow:
        console.print("  the servers stay up until saferflow stop (or make stop)")


def results(console: Console, root: Path, params: Params, *, brief: bool = False) -> None:
    """Print the last scores, their verdict, remedies if it failed, and the registered versions.

    Args:
        brief: one line of advice in place of the block.
    """
    console.print()
    if (root / SCORES).exists():
        wide(console).print(score_table(json.loads((root / SCORES).read_text(encoding="utf-8"))))
    model = params.gate.registered_model
    if (root / VERDICT).exists():
        verdict = json.loads((root / VERDICT).read_text(encoding="utf-8"))
        advice = Advice.from_dict(verdict["advice"]) if verdict.get("advice") else None
        for line in advised(verdict, advice, comparison(root, model), console.width, brief=brief):
            console.print(line, soft_wrap=True)
    console.print(version_line(model))


def advised(verdict: dict, advice: Advice | None, against: Comparison | None, width: int, *, brief: bool) -> list[Text]:
    """The verdict and its remedies: of the gate's checks, or, if these passed, of the comparison with the champion."""
    lines = [_verdict(verdict), *_notes(verdict)] if advice and not brief else verdict_lines(verdict)
    if against:
        lines.append(Text(f"not better than champion version {against.champion}: {', '.join(against.failed)}", "red"))
    if advice is None and verdict["passed"] and against:
        advice = against.advice
    if advice is None:
        return lines
    return lines + ([Text(f"  {in_one_line(advice)}")] if brief else block(advice, width))
