"""Draws a plan's graph with a trace's path as one SVG: legal steps, calls, and violations.

Boxes are tools. Thin lines are steps of some legal trace, numbered thick lines are steps of this trace. Layout by grandalf
(Sugiyama), drawing by a template of 20 lines: a plotting library lays out no graph. Colours are Okabe and Ito's; a broken
step is dashed and named too, not coloured alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from grandalf.graphs import Edge, Graph, Vertex
from grandalf.layouts import SugiyamaLayout
from jinja2 import Environment, PackageLoader, StrictUndefined

from saferflow.protocol.check import check
from saferflow.protocol.paths import states
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import parse

START, END = "start", "end"
WIDTH, HEIGHT, MARGIN = 190, 34, 40
"""Size of a box, and margin around the drawing, in pixels."""


@dataclass(frozen=True, slots=True)
class Box:
    """A tool with the place of its box, in pixels."""

    name: str
    x: float
    y: float
    known: bool
    """True if the plan has this tool."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the trace's path: from one box to the next."""

    number: int
    source: Box
    target: Box
    faults: str
    """Codes of the violations of the call at its end."""


def draw(plan: Plan, text: str | None = None) -> str:
    """Draw a plan as SVG, with the path of a completion if one is given."""
    legal = followers(plan)
    calls = [call.tool for call in parse(text).trace] if text is not None else []
    faults: dict[int, list[str]] = {}
    for violation in check(plan, text) if text is not None else ():
        faults.setdefault(violation.step, []).append(violation.code)
    path = list(zip([START, *calls], [*calls, END], strict=True)) if calls else []
    boxes = _placed(plan, legal | set(path))
    steps = [
        Step(number, boxes[a], boxes[b], " ".join(dict.fromkeys(faults.get(number, ()))))
        for number, (a, b) in enumerate(path, 1)
    ]
    environment = Environment(
        loader=PackageLoader("saferflow.evaluation", "."), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("drawing.svg.j2").render(
        boxes=boxes.values(),
        legal=[(boxes[a], boxes[b]) for a, b in sorted(legal)],
        steps=steps,
        rest=" ".join(dict.fromkeys(faults.get(0, ()))),
        width=max(box.x for box in boxes.values()) + WIDTH + MARGIN,
        height=max(box.y for box in boxes.values()) + HEIGHT + 2 * MARGIN,
        box=(WIDTH, HEIGHT),
        title=f"{plan.topology}: {', '.join(plan.tools)}",
    )


def followers(plan: Plan) -> set[tuple[str, str]]:
    """Pairs of tools such that the second directly follows the first in some legal trace; `start` and `end` included."""
    automaton = plan.automaton
    pairs = {(START, tool) for tool in automaton.legal(automaton.start)}
    for state in states(automaton):
        for edge in automaton.edges(state):
            pairs |= {(edge.tool, tool) for tool in automaton.legal(edge.target)}
            if automaton.accepting(edge.target):
                pairs.add((edge.tool, END))
    return pairs


def _placed(plan: Plan, pairs: Iterable[tuple[str, str]]) -> dict[str, Box]:
    """Name -> box with its place, for every name in the pairs."""
    order = [START, *plan.tools, END]
    pairs = sorted(pairs, key=lambda pair: [order.index(name) if name in order else len(order) for name in pair])
    vertices = {name: Vertex(name) for pair in pairs for name in pair}
    for vertex in vertices.values():
        vertex.view = _View()
    graph = Graph(list(vertices.values()), [Edge(vertices[a], vertices[b]) for a, b in pairs if a != b])
    layout = SugiyamaLayout(graph.C[0])
    layout.xspace, layout.yspace = 40, 44
    layout.init_all(roots=[vertices[START]])
    layout.draw()
    left = min(vertex.view.xy[0] for vertex in vertices.values())
    top = min(vertex.view.xy[1] for vertex in vertices.values())
    known = {START, END, *plan.tools}
    return {
        name: Box(name, vertex.view.xy[0] - left + MARGIN, vertex.view.xy[1] - top + MARGIN, name in known)
        for name, vertex in vertices.items()
    }


class _View:
    """A box for grandalf, which reads its size and sets `xy`."""

    w, h = WIDTH, HEIGHT
    xy = (0.0, 0.0)
