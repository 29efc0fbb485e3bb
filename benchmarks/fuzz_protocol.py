"""Coverage-guided fuzzing of the checker, the reader and the step credits with atheris: nothing may raise.

    python3.11 -m venv /tmp/fuzz && /tmp/fuzz/bin/pip install atheris
    PYTHONPATH=src nice -n 19 /tmp/fuzz/bin/python benchmarks/fuzz_protocol.py -max_total_time=600 -max_len=4096

Needs no other package: the protocol is the standard library's. A crash ends the run and leaves its input in a file
`crash-*`; give that file to the script as its argument to see it again. Source: ours.
"""

import random
import sys

import atheris

with atheris.instrument_imports(include=["saferflow"]):
    from saferflow.protocol.check import CODES, check
    from saferflow.protocol.credit import step_credits
    from saferflow.protocol.plan import Plan
    from saferflow.protocol.sample import skeleton
    from saferflow.protocol.surface import TAGS
    from saferflow.protocol.tools import DECISIONS, TOOLS
    from saferflow.protocol.topologies import KINDS
    from saferflow.protocol.trace import Response, parse, render

ROUTES = ("SAFETY-GATE", "REFUSAL-GENERATOR", "REDIRECT-ENGINE", "ANSWER-COMPOSER")
INNER = ("OCR-EXTRACT", "VISUAL-SCAN", "INTENT-RADAR", "JAILBREAK-SENTINEL", "RISK-SCORER")
PLANS = (None, *(Plan("S2", 2, "guardian", INNER + ROUTES, kind) for kind in KINDS))
PIECES = (
    *TAGS,
    *(f"\n[{name}]: " for name in TOOLS),
    *(f"{field.name}=" for tool in TOOLS.values() for field in tool.fields),
    *DECISIONS,
    *("\n", "; ", ";", "=", "[", "]", ":", "[X]: ", ", ", " ", "\r", "\x00", "\ud800", "\u202e", "\u2028"),
    *("I can't help", "Sure", "S2", "0.5", "1"),
)
LEGAL = tuple(
    render(Response(skeleton(plan, random.Random(seed)), "A plain answer."))
    for plan in PLANS
    if plan
    for seed in range(4)
)
ENOUGH = 4096
"""Characters of a text: longer ones add time, no paths."""


def one_input(data: bytes) -> None:
    """Check one text that the bytes describe: a legal one with edits, or pieces of the form and characters of any kind."""
    source = atheris.FuzzedDataProvider(data)
    plan = PLANS[source.ConsumeIntInRange(0, len(PLANS) - 1)]
    text = LEGAL[source.ConsumeIntInRange(0, len(LEGAL) - 1)] if source.ConsumeBool() else ""
    while source.remaining_bytes() and len(text) < ENOUGH:
        at = source.ConsumeIntInRange(0, len(text)) if source.ConsumeBool() else len(text)
        text = text[:at] + _piece(source) + text[at + source.ConsumeIntInRange(0, 8) :]
    laws(plan, text)


def _piece(source: atheris.FuzzedDataProvider) -> str:
    choice = source.ConsumeIntInRange(0, len(PIECES))
    return PIECES[choice] if choice < len(PIECES) else source.ConsumeUnicode(8)


def laws(plan: Plan | None, text: str) -> None:
    """What holds of every text.

    Raises:
        AssertionError: it does not of this one.
    """
    violations = check(plan, text)
    response = parse(text)
    for violation in violations:
        _hold(violation.code in CODES, violation)
        _hold(1 <= violation.line <= text.count("\n") + 1, violation)
        _hold(0 <= violation.step <= len(response.trace), violation)
        str(violation).encode("utf-8")  # can be printed, whatever the text holds
    steps = step_credits(text, violations)
    _hold(sum(credit.step > 0 for credit in steps) == len(response.trace), steps)
    if plan and not violations:
        _hold(all(credit.earned for credit in steps), steps)
        _hold(parse(render(response)) == response, response)
        _hold(check(plan, render(response)) == (), response)
    _hold(isinstance(render(Response(response.trace, "a")), str), response)


def _hold(law: bool, found: object) -> None:
    if not law:
        raise AssertionError(found)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
