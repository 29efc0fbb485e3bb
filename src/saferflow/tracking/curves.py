"""Draws a stage's training curves as small multiples in one picture, for places without MLflow's page."""

from saferflow.data.svg import svg
from saferflow.tracking import runs

COLUMNS = 4
FEWEST = 3
"""Least number of points of a curve."""
HIDDEN = ("completions/", "profiling/", "system/", "epoch", "num_tokens")
COLOUR = "#0072b2"


def draw(run: str) -> str | None:
    """Draw the curves of an MLflow run as SVG; None where it has none."""
    histories = {name: runs.history(run, name) for name in runs.metric_names(run) if not name.startswith(HIDDEN)}
    curves = {name: points for name, points in histories.items() if len(points) >= FEWEST}
    if not curves:
        return None

    from matplotlib.figure import Figure

    lines = -(-len(curves) // COLUMNS)
    figure = Figure(figsize=(3.2 * COLUMNS, 2.2 * lines), layout="constrained")
    for place, (name, points) in enumerate(sorted(curves.items()), 1):
        axes = figure.add_subplot(lines, COLUMNS, place)
        axes.plot(*zip(*points, strict=True), color=COLOUR, linewidth=1)
        axes.set_title(name, fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
    return svg(figure)
