"""The rule planner: (question, image) to a plan. It sees what a policy sees, and never a label.

It knows only the drawn corpus. It suspects few of the unsafe requests of other corpora (XSTest 25%, and 22% of the safe ones;
FigStep none), so there its suspicion is a line of the plan and no label.

A planner that knew the labels would give the verdict away in the system prompt, in training and in evaluation alike.
Source: ours; the paper's planner is a large model [K].
"""

import io

from PIL import Image, ImageStat

from saferflow.planner import lexicon
from saferflow.protocol.hazards import NONE
from saferflow.protocol.plan import Plan

_DECISION = ("SAFETY-GATE", "REFUSAL-GENERATOR", "REDIRECT-ENGINE", "ANSWER-COMPOSER")
_PERSONA = {
    "S5": "advocate",
    "S6": "educator",
    "S7": "advocate",
    "S8": "educator",
    "S10": "advocate",
    "S11": "counselor",
}
_SEVERITY = {"S1": 3, "S9": 3, "S11": 3, "S8": 1}
_UNCLEAR = 20.0
"""An image whose grey values (0..255) have a smaller standard deviation counts as unclear."""


def plan_for(question: str, image: bytes | None) -> Plan:
    """A plan from the words of the question and how clear the image is.

    * words that send the reader to text in the image: `shield`, persona `sentinel`
    * an unclear image: `loop`, so that perception can be repeated
    * a question that points into the image: `tree`, image and text being clues of their own
    * a term of the hazard lexicon: `mesh`, because words alone leave the intent ambiguous
    * anything else: `linear`
    """
    hits = {hazard: lexicon.matches(terms, question) for hazard, terms in lexicon.TERMS.items()}
    hazard = max(hits, key=lambda code: len(hits[code])) if any(hits.values()) else NONE
    severity = _SEVERITY.get(hazard, 2) if hazard != NONE else 0
    persona = _PERSONA.get(hazard, "guardian") if hazard != NONE else "helper"
    branches: tuple[tuple[str, ...], ...] = ()
    if image is None:
        kind, tools = "linear", ("KEYWORD-FLAGGING", "INTENT-RADAR", "RISK-SCORER")
    elif lexicon.matches(lexicon.READING, question):
        kind, persona = "shield", "sentinel"
        tools = ("VISUAL-SCAN", "OCR-EXTRACT", "JAILBREAK-SENTINEL", "RISK-SCORER")
    elif (blurred := unclear(image)) or lexicon.matches(lexicon.POINTING, question):
        # What a thing lends itself to, and to whom, comes before the verdict on it.
        flagging = ("KEYWORD-FLAGGING",) if hazard != NONE else ()
        tools = ("VISUAL-SCAN", "OCR-EXTRACT", *flagging, "CONSEQUENCE-MAP", "RISK-SCORER")
        kind = "loop" if blurred else "tree"
        if kind == "tree":
            branches = (("OCR-EXTRACT",), *((tool,) for tool in flagging), ("CONSEQUENCE-MAP", "RISK-SCORER"))
    elif hazard != NONE:
        kind, tools = "mesh", ("VISUAL-SCAN", "KEYWORD-FLAGGING", "INTENT-RADAR", "RISK-SCORER")
    else:
        kind, tools = "linear", ("VISUAL-SCAN", "INTENT-RADAR", "RISK-SCORER")
    return Plan(hazard, severity, persona, tools + _DECISION, kind, branches)


def unclear(image: bytes) -> bool:
    """Whether an image has so little contrast that a second look is worth it."""
    with Image.open(io.BytesIO(image)) as opened:
        grey = opened.convert("L").resize((32, 32))
    return ImageStat.Stat(grey).stddev[0] < _UNCLEAR
