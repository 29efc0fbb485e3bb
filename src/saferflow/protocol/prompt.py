"""Renders a plan as the responder's system prompt; every rule in it comes from the automaton."""

from typing import Literal

from saferflow.protocol.fields import PlanFields
from saferflow.protocol.hazards import HAZARDS
from saferflow.protocol.paths import required, states, targets_first
from saferflow.protocol.personas import PERSONAS
from saferflow.protocol.tools import DECISIONS, TOOLS
from saferflow.protocol.topologies import GATE, Automaton

FORM = """<thinking>
[TOOL-NAME]: field=value; field=value
</thinking>
<answer>
the answer
</answer>"""
"""The surface form [K] with the typed fields (ours)."""

END = "the end"


def render_prompt(plan: PlanFields, automaton: Automaton, detail: Literal["brief", "full"]) -> str:
    """The configuration in four lines (`brief`), or with hazard, fields, form and rules (`full`).

    Args:
        automaton: of the plan.

    Raises:
        ValueError: `detail` is neither.
    """
    if detail == "brief":
        return _brief(plan)
    if detail == "full":
        return _full(plan, automaton)
    raise ValueError(f"detail is 'brief' or 'full', got {detail!r}")


def _brief(plan: PlanFields) -> str:
    return (
        f"Persona: {plan.persona}. {PERSONAS[plan.persona].stance}\n"
        f"Suspected: {plan.hazard}, severity {plan.severity}.\n"
        f"Topology: {_topology(plan)}.\n"
        f"Tools: {', '.join(plan.tools)}."
    )


def _topology(plan: PlanFields) -> str:
    """The kind, with this plan's differences from the kind's default."""
    if plan.branches:
        return f"tree, branches {', '.join(' > '.join(branch) for branch in plan.branches)}"
    return f"loop, returns {plan.max_returns}" if plan.topology == "loop" and plan.max_returns != 1 else plan.topology


def _full(plan: PlanFields, automaton: Automaton) -> str:
    hazard = HAZARDS.get(plan.hazard)
    suspected = f"{hazard.code} {hazard.name} ({hazard.phrase})" if hazard else plan.hazard
    persona = PERSONAS[plan.persona]
    return "\n".join(
        [
            f"Persona: {persona.name}. {persona.stance} For: {persona.applies}.",
            f"Suspected: {suspected}, severity {plan.severity} of 3.",
            f"Topology: {_topology(plan)}.",
            "Tools, with their layer and fields:",
            *(_tool(name) for name in plan.tools),
            "Think in tool calls, one a line, then answer, in exactly this form:",
            FORM,
            "Rules:",
            *(f"- {rule}" for rule in rules(automaton)),
        ]
    )


def _tool(name: str) -> str:
    tool = TOOLS[name]
    fields = "; ".join(f"{field.name}={field.expects}" for field in tool.fields)
    return f"- {name} ({tool.layer}): {fields or 'any text'}"


def rules(automaton: Automaton) -> tuple[str, ...]:
    """The automaton's rules in words: required calls, repeats, and what may follow what."""
    must = frozenset.intersection(*(required(automaton, decision) for decision in DECISIONS))
    tools = automaton.tools
    always = ", ".join(tool for tool in tools if tool in must)
    most = _most_calls(automaton, tools)
    again = [tool for tool in tools if most[tool] > 1]
    once = f"Call {', '.join(again)} at most twice, any other once." if again else "Call each tool at most once."
    back = max(state.returns for state in states(automaton))
    returns = f"Go back to perception at most {back} time{'s' * (back > 1)}." if back else "Never go back a layer."
    return (f"Always call {always}.", once, returns, *_successions(automaton, tools))


def _successions(automaton: Automaton, tools: tuple[str, ...]) -> list[str]:
    """One line for the start, each tool and each decision: what may follow it directly in some legal trace."""
    follows: dict[tuple[str, str], set[str]] = {("", ""): set(automaton.legal(automaton.start))}
    for state in states(automaton):
        for edge in automaton.edges(state):
            after = follows.setdefault((edge.tool, edge.decision), set())
            after.update(automaton.legal(edge.target))
            if automaton.accepting(edge.target):
                after.add(END)
    lines = [f"Begin with {_either(follows['', ''], tools)}."]
    for tool in tools[: tools.index(GATE)]:
        lines.append(f"After {tool}: {_either(follows[tool, ''], tools)}.")
    for decision in DECISIONS:
        lines.append(f"After {GATE} with decision={decision}: {_either(follows[GATE, decision], tools)}.")
    return lines


def _either(followers: set[str], tools: tuple[str, ...]) -> str:
    return " or ".join(tool for tool in (*tools, END) if tool in followers)


def _most_calls(automaton: Automaton, tools: tuple[str, ...]) -> dict[str, int]:
    """The most calls of each tool in one legal trace; the automaton has no cycle, so the walk ends."""
    most: dict[object, dict[str, int]] = {}
    for state in targets_first(automaton):
        best = dict.fromkeys(tools, 0)
        for edge in automaton.edges(state):
            for tool, count in most[edge.target].items():
                best[tool] = max(best[tool], count + (tool == edge.tool))
        most[state] = best
    return most[automaton.start]
