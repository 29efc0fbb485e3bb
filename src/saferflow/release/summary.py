"""The Markdown at the top of a pipeline run's MLflow page: the decision, the table of scores, links."""

from collections.abc import Mapping, Sequence
from typing import Any

from saferflow.evaluation.measures import LOWER_IS_BETTER, MEASURES
from saferflow.layout import in_order
from saferflow.release.card import cell


def render_summary(decision: str, metrics: Mapping[str, Any], links: Sequence[tuple[str, str]]) -> str:
    """The description of a run.

    Args:
        decision: whether the version was promoted, and why, in words.
        metrics: as stage `evaluate` writes them.
        links: (text, address) each.
    """
    names = [name for name in MEASURES if any(name in scores for scores in metrics["policies"].values())]
    heads = [name.replace("_", " ") + (" (less is better)" if name in LOWER_IS_BETTER else "") for name in names]
    policies = in_order(metrics["policies"])
    lines = [
        decision, "",
        f"Scores on {metrics['rows']} held-out rows (percent, with interval):", "",
        f"| policy | {' | '.join(heads)} |",
        f"|---|{'---:|' * len(heads)}",
    ]  # fmt: skip
    for policy in policies:
        intervals = metrics.get("intervals", {}).get(policy, {})
        scores = [_score(metrics["policies"][policy].get(name), intervals.get(name)) for name in names]
        lines.append(f"| {cell(policy)} | {' | '.join(scores)} |")
    lines += ["", " · ".join(f"[{text}]({address})" for text, address in links)]
    return "\n".join(lines) + "\n"


def _score(score: float | None, interval: Sequence[float] | None) -> str:
    if score is None:
        return "–"
    return f"{score:.1f}" + (f" ({interval[0]:.0f}–{interval[1]:.0f})" if interval else "")
