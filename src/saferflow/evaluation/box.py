"""Draws the QI-Box: every prompt by quality and instability, kept or not, and the box [V]."""

from collections.abc import Sequence
from pathlib import Path

from saferflow.data.svg import svg

KEPT, LEFT = "#0072b2", "#999999"
"""Okabe and Ito's blue, and grey: distinct for colour-blind readers, and by shape as well."""


def draw_box(
    path: Path, points: Sequence[tuple[float, float, bool]], quality: tuple[float, float], instability: float
) -> None:
    """Write an SVG.

    Args:
        points: (mean reward, standard deviation, kept) of every prompt, in [0, 1].
        quality: the box's bounds of the mean.
        instability: the least standard deviation in the box.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot()
    for kept, colour, marker in ((False, LEFT, "x"), (True, KEPT, "o")):
        shown = [(mean, spread) for mean, spread, flag in points if flag == kept]
        if shown:
            label = f"{'kept' if kept else 'left out'} ({len(shown):,})"
            axes.scatter(*zip(*shown, strict=True), c=colour, marker=marker, s=14, alpha=0.6, label=label)
    top = max([spread for _, spread, _ in points], default=0.5) * 1.05
    width = quality[1] - quality[0]
    axes.add_patch(Rectangle((quality[0], instability), width, top - instability, fill=False, linestyle="--"))
    axes.set(xlabel="quality: mean reward of a prompt's samples", ylabel="instability: their standard deviation")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.01, top + 0.01), title="Which prompts GRPO learns from")
    if points:
        axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(svg(figure), encoding="utf-8")
