"""What a person sees at the end of a run, and in `saferflow status`: scores, verdict, versions, where to look."""

import json
from collections.abc import Iterable
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.params import Params
from saferflow.tracking import registry, services

SCORES = Path("metrics/evaluate.json")
VERDICT = Path("reports/gate.json")
REPORT = Path("reports/report.html")
COLUMNS = {
    "safety": "safety",
    "helpfulness": "helpful-\nness",
    "rigor": "rigor",
    "over_refusal_rate": "over-\nrefusal",
    "attack_success_rate": "attack\nsuccess",
    "validity": "protocol\nvalidity",
    "general": "general\nability",
}
POLICIES = ("base", "sft", "dpo", "grpo")
"""In the order of training; the metrics file sorts its keys."""
TABLE_WIDTH = 80
SHOWN_REASONS = 3


def duration(seconds: float) -> str:
    """`8 s`, `2 min 12 s`, `1 h 4 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def listed(reasons: Iterable[str]) -> str:
    """The first reasons, and how many there are beyond them."""
    reasons = list(reasons)
    more = len(reasons) - SHOWN_REASONS
    return ", ".join(reasons[:SHOWN_REASONS]) + (f" and {more} more" if more > 0 else "")


def score_table(metrics: dict) -> Table:
    """`metrics/evaluate.json` as a table: a policy a line, percent with its interval."""
    title = f"Scores on {metrics['rows']} held-out rows (percent, with interval)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right", no_wrap=True)
    intervals = metrics.get("intervals", {})
    for policy in sorted(metrics["policies"], key=lambda name: (name not in POLICIES, [*POLICIES, name].index(name))):
        scores = metrics["policies"][policy]
        cells = [_cell(scores.get(name), intervals.get(policy, {}).get(name)) for name in COLUMNS]
        table.add_row(policy.upper() if policy != "base" else policy, *cells)
    return table


def _cell(score: float | None, interval: list[float] | None) -> str:
    if score is None:
        return "-"
    return f"{score:.1f}" + (f"\n{interval[0]:.0f}-{interval[1]:.0f}" if interval else "")


def verdict_lines(verdict: dict) -> list[Text]:
    """The gate's verdict, with each check that failed."""
    lines = [Text("gate: passed", "green") if verdict["passed"] else Text("gate: failed", "red")]
    failed = [check for check in verdict["checks"] if not check["passed"]]
    return lines + [Text(f"  {check['name']}: {check['detail']}") for check in failed]


def version_line(model: str) -> str:
    """The candidate's version with its aliases, and the champion's where that is another."""
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


def results(console: Console, root: Path, params: Params) -> None:
    """The last scores, the verdict on them, and what is registered."""
    console.print()
    if (root / SCORES).exists():
        wide = Console(width=max(console.width, TABLE_WIDTH), file=console.file, highlight=False)
        wide.print(score_table(json.loads((root / SCORES).read_text(encoding="utf-8"))))
    if (root / VERDICT).exists():
        for line in verdict_lines(json.loads((root / VERDICT).read_text(encoding="utf-8"))):
            console.print(line)
    console.print(version_line(params.gate.registered_model))
