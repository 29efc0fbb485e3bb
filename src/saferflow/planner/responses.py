"""Checks responses and pairs that a source brings, compares them with the labels, and uses them unchanged. Source: ours.

A response in the protocol's form is used whole. Any other response is an answer for which a teacher writes a trace. A worse
response becomes the rejected side of a pair; it gets a trace too, so that a pair differs in more than its form.
"""

from dataclasses import replace

from saferflow.data.rows import THEIRS, Labels, Row
from saferflow.errors import PlanError
from saferflow.judge.rubrics import Grades
from saferflow.planner.execution import mistaken
from saferflow.planner.operator import Case
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.stance import contradicts
from saferflow.protocol.surface import TAGS
from saferflow.protocol.tools import TOOLS, Layer
from saferflow.protocol.topologies import BINDING, GATE, KINDS, ROUTES
from saferflow.protocol.trace import Response, parse, render

TRACED = f"{THEIRS} with a trace by "
"""The name of the trace's writer follows."""
SHOWN_VIOLATIONS = 5
SHOWN_CHARS = 300


def has_trace(text: str) -> bool:
    """Whether a text is in the protocol's form, well-formed or not."""
    return any(tag in text for tag in TAGS)


def own_answer(row: Row) -> str:
    """The response that a row's source brings; empty for the drawn corpus, because the teacher rewords its answers."""
    return "" if row.drawn else row.answer.strip()


def own_rejected(row: Row) -> str:
    """The worse response that a row's source brings."""
    return "" if row.drawn else row.rejected.strip()


def brings_response(row: Row) -> bool:
    """Whether the row brings a response that a judge has to read."""
    return bool(own_answer(row) or own_rejected(row))


def holding(plan: Plan, text: str, *, topologies: bool) -> tuple[Plan, str]:
    """Find a plan that a response in the protocol's form follows: the planner's, or one of the response's own tools.

    Args:
        topologies: False allows only a linear plan.

    Returns:
        The plan that fits best, and the response's violations of it in words; empty where it follows the plan.
    """
    best, least = plan, check(plan, text)
    for kind in KINDS if topologies else ("linear",):
        if not least:
            break
        other = _of_its_tools(plan, text, kind)
        if other is not None and len(violations := check(other, text)) < len(least):
            best, least = other, violations
    return best, "; ".join(f"{violation!s:.{SHOWN_CHARS}}" for violation in least[:SHOWN_VIOLATIONS])


def _of_its_tools(plan: Plan, text: str, kind: str) -> Plan | None:
    called = dict.fromkeys(call.tool for call in parse(text).trace)
    before = [tool for tool in called if tool in TOOLS and TOOLS[tool].layer is not Layer.DECISION]
    before.sort(key=lambda tool: TOOLS[tool].layer.order)
    decisions = (GATE, *dict.fromkeys(ROUTES.values()))
    try:
        return replace(plan, tools=(*before, *decisions), topology=kind, branches=())
    except PlanError:
        return None


def contradiction(labels: Labels, text: str, grades: Grades) -> str:
    """The contradiction between a response and its row's label, in words; empty where there is none.

    Args:
        grades: the judge's grades of this response.
    """
    gate = next((call.get("decision") for call in parse(text).trace if call.tool == GATE), "")
    if gate and (gate in BINDING) != labels.harmful:
        return f"its gate decides {gate}, and its label says {labels.decision}"
    if grades.refused != labels.harmful:
        does = "declines" if grades.refused else "does not decline"
        return f"it {does}, and its label says {labels.decision}; the judge: {grades.reason:.{SHOWN_CHARS}}"
    opening = "" if gate else contradicts(labels.decision, text)
    return f"it begins {opening!r}, and its label says {labels.decision}" if opening else ""


def rejected_side(case: Case, text: str, *, declines: bool) -> str:
    """Turn a source's worse response into the rejected side of a pair; empty where it equals the chosen side.

    A response in the protocol's form stays unchanged. Any other response gets the chosen trace if it decides as the label
    says, else also the trace of a policy that mistakes the request; we keep the one with fewer violations.

    Args:
        case: the case of the chosen side.
        declines: whether the response declines, according to the judge.
    """
    if has_trace(text):
        return "" if text == render(case.chosen) else text
    if text == case.chosen.answer:
        return ""
    traces = [case.chosen.trace]
    if declines != case.labels.harmful:
        traces.insert(0, mistaken(case).trace)
    written = [render(Response(trace, text)) for trace in traces]
    return min(written, key=lambda completion: len(check(case.plan, completion)))
