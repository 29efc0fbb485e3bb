"""The rule teacher: the reference trace and answer for a plan, written from gold labels.

It walks the plan's automaton for the order of the calls and fills their fields. Source: ours; the paper's references
come from a large model [K].
"""

import random

from saferflow.data.rows import Labels
from saferflow.data.scenes.objects import CLASSES, MARK_MISUSE, MISUSE
from saferflow.planner import lexicon
from saferflow.protocol.hazards import HAZARDS, NONE
from saferflow.protocol.plan import Plan
from saferflow.protocol.sample import sample
from saferflow.protocol.trace import Call, Response

_ALTERNATIVE = {
    "S1": "talk it over with a mediator",
    "S2": "look for a legal way",
    "S5": "write only what you can prove",
    "S6": "ask a doctor or another licensed expert",
    "S7": "ask the person for consent",
    "S8": "buy a licensed copy",
    "S9": "read about public safety",
    "S10": "learn what the group values",
    "S11": "call a crisis helpline or someone you trust",
    "S13": "check the election office's own notices",
    "S14": "test only on a system that is yours",
}
MISUSED = {name: MISUSE[group] for group, names in CLASSES.items() if group in MISUSE for name in names} | MARK_MISUSE
"""Object or mark -> its worst misuse."""
_VERDICT = frozenset({"RISK-SCORER"})
"""Tools called after the ones they rest on, wherever the automaton leaves the choice."""
_DEFAULT_ALTERNATIVE = "choose a goal that harms nobody"


def write(plan: Plan, question: str, labels: Labels, answer: str, rng: random.Random, coverage: float) -> Response:
    """Write the reference response.

    Args:
        answer: a plain reference answer, used where the decision is to answer; may be empty.
        coverage: probability of taking an optional tool.
    """
    names = sample(plan, rng, labels.decision, coverage, last=_VERDICT)
    calls = tuple(Call(name, fields_of(name, question, labels)) for name in names)
    return Response(calls, answer_for(labels, answer))


def fields_of(tool: str, question: str, labels: Labels) -> tuple[tuple[str, str], ...]:
    """The (name, value) fields of a call of `tool`, from gold labels.

    Raises:
        ValueError: the teacher does not know the tool.
    """
    terms = _terms(question)
    risk = HAZARDS[labels.hazard].phrase if labels.hazard in HAZARDS else "no risk found"
    match tool:
        case "VISUAL-SCAN":
            return (
                ("objects", ", ".join(labels.objects) or "none"),
                ("setting", labels.setting or "unknown"),
                ("confidence", "0.9"),
            )
        case "OCR-EXTRACT":
            return (("text", labels.sign or "none"),)
        case "KEYWORD-FLAGGING":
            in_words = labels.severity if labels.risk_source == "text" else 0
            return (("terms", ", ".join(terms) or "none"), ("risk", str(in_words)))
        case "CROSS-MODAL-SYNC":
            return (("relation", _relation(labels)),)
        case "INTENT-RADAR":
            return (("intent", _intent(labels)), ("confidence", "0.9"))
        case "RISK-SCORER":
            return (("hazard", labels.hazard), ("severity", str(labels.severity)), ("confidence", "0.9"))
        case "JAILBREAK-SENTINEL":
            return (("attack", labels.attack),)
        case "CONSEQUENCE-MAP":
            # Labels name the object first; a mark beside it tells more.
            worst = next((MISUSED[thing] for thing in reversed(labels.objects) if thing in MISUSED), "nothing much")
            return (("harm", worst), ("victim", lexicon.party(question)))
        case "POLICY-MATCH":
            return (("rule", risk), ("verdict", "forbidden" if labels.decision == "refuse" else "allowed"))
        case "SAFETY-GATE":
            return (("decision", labels.decision), ("reason", reason(labels)))
        case "REFUSAL-GENERATOR":
            return (("reason", risk), ("alternative", alternative(labels)))
        case "REDIRECT-ENGINE":
            return (("alternative", alternative(labels)),)
        case "ANSWER-COMPOSER":
            return (("outline", "name the scene, then the advice"),)
    raise ValueError(f"the rule teacher has no words for tool {tool}")


def alternative(labels: Labels) -> str:
    """What the user could do instead of the hazard in the labels."""
    return _ALTERNATIVE.get(labels.hazard, _DEFAULT_ALTERNATIVE)


def _terms(question: str) -> list[str]:
    return [term for terms in lexicon.TERMS.values() for term in lexicon.matches(terms, question)][:3]


def _relation(labels: Labels) -> str:
    if labels.attack != "none":
        return "contradicts"
    return "completes" if labels.harmful else "agrees"


def _intent(labels: Labels) -> str:
    if labels.decision == "refuse":
        return "harmful"
    return "ambiguous" if labels.decision == "redirect" else "benign"


def reason(labels: Labels) -> str:
    """The reason for the gate's decision, as a field of its call."""
    if labels.harmful:
        return f"risk from the {_SOURCE.get(labels.risk_source, 'request')}"
    return "instruction in the image ignored" if labels.attack != "none" else "no risk found"


_SOURCE = {"text": "words", "image": "image", "combination": "image and words together", "typographic": "sign"}


def answer_for(labels: Labels, answer: str) -> str:
    """The answer to the user, whatever the plan.

    Args:
        answer: as in `write`.
    """
    thing = f"the {labels.objects[0]}" if labels.objects else "this"
    if labels.harmful:
        risk = HAZARDS[labels.hazard].phrase if labels.hazard in HAZARDS else "harm to people"
        if labels.decision == "redirect":
            return (
                f"I can't advise on this with {thing}, because it could lead to {risk}. Please {alternative(labels)}."
            )
        return f"I can't help with this. With {thing} it could lead to {risk}. Instead, {alternative(labels)}."
    plain = answer.removeprefix("Sure. ") or "I can help with this, step by step."
    if labels.attack != "none":
        return f"I ignore the instruction on the sign. {plain}"
    return f"This is safe. {plain}" if labels.hazard == NONE else plain
