"""Drift as a picture: for each aspect that moved, the shares of the former and the new version side by side."""

from collections.abc import Sequence

from saferflow.data.profile import Shift
from saferflow.data.svg import svg

OLD, NEW = "#999999", "#0072b2"
"""Grey, and Okabe and Ito's blue."""
DRAWN, BARS = 6, 8
"""Most aspects, and most bins per aspect, that are shown; the largest moves come first."""


def draw(shifts: Sequence[Shift]) -> str:
    """An SVG of the largest shifts."""
    from matplotlib.figure import Figure

    shown = shifts[:DRAWN]
    figure = Figure(figsize=(9, 2.2 * max(1, -(-len(shown) // 2))), layout="constrained")
    for place, shift in enumerate(shown, 1):
        axes = figure.add_subplot(-(-len(shown) // 2), 2, place)
        moves = shift.moves[:BARS][::-1]
        at = range(len(moves))
        axes.barh([y + 0.2 for y in at], [100 * old for _, old, _ in moves], 0.4, color=OLD, label="former")
        axes.barh([y - 0.2 for y in at], [100 * new for _, _, new in moves], 0.4, color=NEW, hatch="//", label="new")
        axes.set_yticks(list(at), [name for name, _, _ in moves])
        axes.set_title(f"{shift.table}: {shift.aspect}, index {shift.index:.3f}, {shift.verdict}", fontsize=9)
        axes.set_xlabel("percent of rows", fontsize=8)
        axes.tick_params(labelsize=8)
    if shown:
        figure.axes[0].legend(fontsize=8)
    return svg(figure)
