"""A figure of matplotlib as SVG; the same figure gives the same bytes."""

from io import StringIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def svg(figure: "Figure") -> str:
    """The figure's SVG, without a date."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    text = StringIO()
    with rc_context({"svg.hashsalt": "saferflow"}):
        FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
    return text.getvalue()
