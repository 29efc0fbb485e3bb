"""A plan cannot exist incoherent, and its prompt says what its automaton allows."""

import json

import pytest

from saferflow.errors import PlanError, SaferflowError
from saferflow.protocol.hazards import HAZARDS
from saferflow.protocol.personas import PERSONAS
from saferflow.protocol.plan import Plan
from saferflow.protocol.tools import TOOLS, Layer

TOOLS_OF_A_SHIELD = ("VISUAL-SCAN", "JAILBREAK-SENTINEL", "RISK-SCORER", "SAFETY-GATE", "REFUSAL-GENERATOR")
GOOD = {
    "hazard": "S1",
    "severity": 3,
    "persona": "guardian",
    "tools": TOOLS_OF_A_SHIELD,
    "topology": "shield",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"hazard": "S15"}, "hazard: 'S15' is unknown", id="hazard"),
        pytest.param({"hazard": 1}, "hazard: a string is expected, got 1", id="hazard-type"),
        pytest.param({"severity": 4}, "severity: 4 is out of range", id="severity"),
        pytest.param({"severity": True}, "severity: an integer is expected, got True", id="severity-type"),
        pytest.param({"severity": 0}, "severity: 0 does not fit hazard 'S1'", id="hazard-without-severity"),
        pytest.param({"hazard": "none"}, "severity: 3 does not fit hazard 'none'", id="severity-without-hazard"),
        pytest.param({"persona": "pirate"}, "persona: 'pirate' is unknown", id="persona"),
        pytest.param({"topology": "ring"}, "topology: 'ring' is unknown", id="topology"),
        pytest.param({"max_returns": 3}, "max_returns: 3 is out of range; 0 to 2", id="returns"),
        pytest.param({"tools": list(TOOLS_OF_A_SHIELD)}, "tools: a tuple of tool names", id="tools-type"),
        pytest.param({"tools": (*TOOLS_OF_A_SHIELD, "X")}, "tools: 'X' is unknown", id="unknown-tool"),
        pytest.param({"tools": TOOLS_OF_A_SHIELD * 2}, "VISUAL-SCAN is named 2 times", id="tool-twice"),
        pytest.param({"tools": TOOLS_OF_A_SHIELD[1:]}, "none is of the perception layer", id="no-perception"),
        pytest.param({"tools": (*TOOLS_OF_A_SHIELD[:3],)}, "SAFETY-GATE is mandatory", id="no-gate"),
        pytest.param(
            {"tools": TOOLS_OF_A_SHIELD[:1] + TOOLS_OF_A_SHIELD[2:]},
            "JAILBREAK-SENTINEL is mandatory in a shield",
            id="shield-without-guard",
        ),
        pytest.param(
            {"tools": TOOLS_OF_A_SHIELD[::-1], "topology": "linear"}, "leaves a layer backwards", id="linear-backwards"
        ),
        pytest.param({"branches": (("RISK-SCORER",),)}, "branches: only a tree has them", id="branches-of-a-shield"),
        pytest.param(
            {"topology": "tree", "branches": (("RISK-SCORER",),)},
            "they hold each of JAILBREAK-SENTINEL, RISK-SCORER once",
            id="branches-that-miss-a-tool",
        ),
        pytest.param(
            {
                "topology": "tree",
                "tools": ("VISUAL-SCAN", "OCR-EXTRACT", "RISK-SCORER", "SAFETY-GATE"),
                "branches": (("RISK-SCORER", "OCR-EXTRACT"),),
            },
            "RISK-SCORER > OCR-EXTRACT leaves a layer backwards",
            id="branch-backwards",
        ),
        pytest.param(
            {
                "topology": "tree",
                "tools": (
                    "VISUAL-SCAN", "OCR-EXTRACT", "KEYWORD-FLAGGING", "RISK-SCORER", "INTENT-RADAR", "SAFETY-GATE",
                ),
                "branches": (("OCR-EXTRACT", "RISK-SCORER"), ("KEYWORD-FLAGGING", "INTENT-RADAR")),
            },
            "two go from perception to reasoning",
            id="two-branches-over-both-layers",
        ),
        pytest.param(
            {"topology": "loop", "max_returns": 2, "tools": tuple(TOOLS)}, "takes at most 6 tools", id="loop-too-large"
        ),
    ],
)  # fmt: skip
def test_an_incoherent_plan_cannot_be_made(change, words):
    with pytest.raises(PlanError) as caught:
        Plan(**GOOD | change)
    assert words in str(caught.value)


def test_all_problems_are_named_at_once():
    with pytest.raises(SaferflowError) as caught:
        Plan("S15", 9, "pirate", ("SAFETY-GATE",), "ring")
    assert str(caught.value).count("\n") == 6  # hazard, severity, persona, topology, two layers


def test_a_field_of_the_wrong_type_hides_no_problem_of_another():
    with pytest.raises(PlanError) as caught:
        Plan(1, 9, "pirate", ("VISUAL-SCAN", "X"), ["ring"], "none", 7)
    names = [line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert names == [
        *("hazard", "topology", "branches"),  # wrong types
        *("severity", "persona", "max_returns"),  # values
        *("tools", "tools", "tools"),  # X is unknown, no reasoning tool, no gate
    ]


@pytest.mark.parametrize(
    "value", [None, 0, 1.5, b"S1", ["S1"], {"S1"}, {}, (), print, float("nan"), "", "\ud800"], ids=repr
)
@pytest.mark.parametrize("field", [*GOOD, "branches", "max_returns"])
def test_a_value_of_any_type_makes_a_plan_or_a_plan_error_and_nothing_else(field, value):
    error = error_of(GOOD | {field: value})
    assert error == "" or f"  {field}: " in error or field == "hazard"  # a severity may not fit another hazard


def error_of(given: dict) -> str:
    try:
        return Plan(**given).to_json()[:0]
    except PlanError as error:
        return str(error)


def test_json_with_missing_and_unknown_fields_is_told_all_that_is_wrong_with_the_others():
    with pytest.raises(PlanError) as caught:
        Plan.from_json('{"hazard": "S1", "severity": 7, "persona": 3, "mood": 1, "topology": "mesh"}')
    names = [line.strip().partition(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert names == ["tools", "mood", "persona", "severity"]


def test_a_coherent_plan_comes_back_from_json():
    plan = Plan(**GOOD)
    assert Plan.from_json(plan.to_json()) == plan
    assert Plan.from_json(json.dumps(GOOD)) == plan  # the two fields with defaults may be left out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("{", "no JSON", id="broken"),
        pytest.param("[]", "got list", id="no-object"),
        pytest.param(json.dumps(GOOD | {"mood": 1}), "mood: not a field", id="unknown-field"),
        pytest.param('{"hazard": "S1"}', "tools: missing", id="missing-fields"),
        pytest.param(json.dumps(GOOD | {"tools": "VISUAL-SCAN"}), "tools: a tuple", id="wrong-type"),
    ],
)
def test_json_that_is_no_plan_is_an_error_that_says_why(text, words):
    with pytest.raises(PlanError, match=words):
        Plan.from_json(text)


def test_the_brief_prompt_is_four_lines():
    assert Plan(**GOOD).system_prompt("brief") == (
        "Persona: guardian. Decline the harm plainly and offer a safe way on.\n"
        "Suspected: S1, severity 3.\n"
        "Topology: shield.\n"
        "Tools: VISUAL-SCAN, JAILBREAK-SENTINEL, RISK-SCORER, SAFETY-GATE, REFUSAL-GENERATOR."
    )


def test_the_full_prompt_gives_fields_form_and_the_automatons_rules():
    lines = Plan(**GOOD).system_prompt("full").splitlines()
    hazards = "|".join(["none", *HAZARDS])
    assert f"- RISK-SCORER (reasoning): hazard={hazards}; severity=0, 1, 2 or 3; confidence=0 to 1" in lines
    assert "[TOOL-NAME]: field=value; field=value" in lines
    assert lines[lines.index("Rules:") + 1 :] == [
        "- Always call VISUAL-SCAN, JAILBREAK-SENTINEL, RISK-SCORER, SAFETY-GATE.",
        "- Call each tool at most once.",
        "- Never go back a layer.",
        "- Begin with VISUAL-SCAN.",
        "- After VISUAL-SCAN: JAILBREAK-SENTINEL.",
        "- After JAILBREAK-SENTINEL: RISK-SCORER.",
        "- After RISK-SCORER: SAFETY-GATE.",
        "- After SAFETY-GATE with decision=answer: the end.",
        "- After SAFETY-GATE with decision=answer_with_care: the end.",
        "- After SAFETY-GATE with decision=redirect: the end.",
        "- After SAFETY-GATE with decision=refuse: REFUSAL-GENERATOR.",
    ]


def test_a_loop_says_in_its_rules_what_may_come_twice():
    tools = ("VISUAL-SCAN", "INTENT-RADAR", "SAFETY-GATE")
    prompt = Plan("none", 0, "helper", tools, "loop").system_prompt("full")
    assert "- Call VISUAL-SCAN, INTENT-RADAR at most twice, any other once." in prompt
    assert "- Go back to perception at most 1 time." in prompt


def test_plans_that_differ_have_brief_prompts_that_differ():
    tools = ("VISUAL-SCAN", "OCR-EXTRACT", "INTENT-RADAR", "SAFETY-GATE")
    tree = Plan("none", 0, "helper", tools, "tree")
    branched = Plan("none", 0, "helper", tools, "tree", (("OCR-EXTRACT", "INTENT-RADAR"),))
    loop, loop_0 = (Plan("none", 0, "helper", tools, "loop", max_returns=returns) for returns in (1, 0))
    assert len({plan.system_prompt("brief") for plan in (tree, branched, loop, loop_0)}) == 4


def test_a_detail_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="'brief' or 'full'"):
        Plan(**GOOD).system_prompt("long")


def test_the_layers_compare_in_the_order_of_a_trace():
    assert sorted([Layer.DECISION, Layer.PERCEPTION, Layer.REASONING]) == list(Layer)
    assert Layer.PERCEPTION < Layer.REASONING < Layer.DECISION  # the alphabet would put decision first


def test_there_are_fourteen_hazards_and_six_personas():
    assert list(HAZARDS) == [f"S{number}" for number in range(1, 15)]
    assert set(PERSONAS) == {"helper", "educator", "guardian", "counselor", "advocate", "sentinel"}
