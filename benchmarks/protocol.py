"""Time of the check: eight-call traces a second on one core, and how the time grows on the worst text that a search finds.

    PYTHONPATH=src python benchmarks/protocol.py            # or: make bench-protocol
    PYTHONPATH=src python benchmarks/protocol.py --search 60

Times are of the processor, not of the clock, and the best of several, so that other work on the machine disturbs little.
The target of growth is for the check alone, with Python's garbage collector paused as timeit does it: half a million
violations that are alive at once make the collector's passes over the whole process longer, which is shown beside it.
Exits with 1 where a target is missed. Source: ours.
"""

import argparse
import random
import time
import timeit
from collections.abc import Callable

from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.sample import BLANK, skeleton
from saferflow.protocol.surface import TAGS
from saferflow.protocol.tools import TOOLS
from saferflow.protocol.topologies import KINDS
from saferflow.protocol.trace import Call, Response, render

TRACES_PER_SECOND = 20_000
GROWTH = 12.0
"""Most that the time at 1 MB may be, in times at 100 kB: ten times the text, and a fifth for what is not the check's."""

CALLS = 8
TRACES = 5_000
SMALL, LARGE = 100_000, 1_000_000
"""Characters."""

WORDS = (
    "lock",
    "bottle",
    "gloves",
    "kitchen",
    "door",
    "knife",
    "sign",
    "table",
    "lamp",
    "street",
    "phone",
    "paper",
    "shelf",
)
ROUTES = ("SAFETY-GATE", "REFUSAL-GENERATOR", "REDIRECT-ENGINE", "ANSWER-COMPOSER")
INNER = ("OCR-EXTRACT", "VISUAL-SCAN", "KEYWORD-FLAGGING", "INTENT-RADAR", "JAILBREAK-SENTINEL", "RISK-SCORER")
PLANS = tuple(Plan("S2", 2, "guardian", INNER + ROUTES, kind) for kind in KINDS)
WIDEST = Plan("S2", 2, "guardian", tuple(TOOLS), "loop")
"""The plan with the largest automaton that a plan can have."""

OPENINGS = ("", "<thinking>", "<thinking>\n[VISUAL-SCAN]: ", "<thinking>\n[SAFETY-GATE]: decision=refuse\n", "<answer>")
PIECES = (
    *TAGS,
    *(f"\n[{name}]: " for name in TOOLS),
    *("\n[X]: ", "\n[X]", "[", "]", ":", ";", "=", "a=1;", "decision=answer;", "severity=9; ", "\n", "\r", " ", "\t"),
    *("x", "I can't help ", "Sure ", ", ", "\x00", "\ud800", "\u202e", "\u2028", "é", "😀"),
)


def traces(count: int, rng: random.Random) -> list[tuple[Plan, str]]:
    """Legal responses of eight calls, no two alike, over all topologies."""
    drawn = []
    while len(drawn) < count:
        plan = PLANS[len(drawn) % len(PLANS)]
        calls = skeleton(plan, rng)
        if len(calls) == CALLS:
            filled = (Call(c.tool, tuple((k, _words(rng, 4) if v == BLANK else v) for k, v in c.fields)) for c in calls)
            drawn.append((plan, render(Response(tuple(filled), _words(rng, 12) + "."))))
    return drawn


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.sample(WORDS, count))


def throughput(drawn: list[tuple[Plan, str]]) -> float:
    """Traces checked in a second of one core."""

    def work() -> None:
        for plan, text in drawn:
            if check(plan, text):
                raise AssertionError(f"a drawn trace is not legal:\n{text}")

    return len(drawn) / _best(work, 7)


def worst(seconds: float, rng: random.Random) -> list[tuple[str, str]]:
    """The texts, as opening and repeated unit, on which the check takes longest a character; first of single
    pieces, then of their variations."""
    end = time.monotonic() + seconds
    simple = [(opening, piece + more) for opening in OPENINGS for piece in PIECES for more in ("", "\n")]
    scored = {text: _time(*text, SMALL // 4, 1) for text in simple}
    while time.monotonic() < end:
        opening, unit = rng.choice(sorted(scored, key=scored.__getitem__)[-12:])
        text = (opening, _varied(unit, rng)) if rng.random() < 0.9 else (rng.choice(OPENINGS), unit)
        if text not in scored:
            scored[text] = _time(*text, SMALL // 4, 1)
    return sorted(scored, key=scored.__getitem__)[-5:][::-1]


def _varied(unit: str, rng: random.Random) -> str:
    at = rng.randrange(len(unit) + 1)
    return unit[:at] + rng.choice(PIECES) * rng.choice((1, 1, 1, 5, 50)) + unit[at + rng.choice((0, 0, 0, 3)) :]


def growth(opening: str, unit: str, *, collector: bool) -> tuple[float, float]:
    """Seconds for the text at 100 kB and at 1 MB."""
    return tuple(_time(opening, unit, size, 5, collector=collector) for size in (SMALL, LARGE))


def _time(opening: str, unit: str, length: int, repeats: int, *, collector: bool = True) -> float:
    text = (opening + unit * (length // len(unit) + 1))[:length]
    return _best(lambda: check(WIDEST, text), repeats, collector=collector)


def _best(work: Callable[[], object], repeats: int, *, collector: bool = True) -> float:
    """Seconds of one core, the fewest of several runs, with Python's garbage collector running or paused."""
    setup = "import gc; gc.enable()" if collector else "pass"  # timeit pauses it unless told otherwise
    return min(timeit.repeat(work, setup, timer=time.process_time, number=1, repeat=repeats))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search", type=float, default=20.0, metavar="SECONDS", help="how long to look for slow texts")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    speed = throughput(traces(TRACES, rng))
    print(f"check, {CALLS} calls: {speed:,.0f} traces a second on one core (target {TRACES_PER_SECOND:,})")
    growths = []
    for opening, unit in worst(options.search, rng):
        print(ascii(opening + unit)[:100])
        for collector in (False, True):
            small, large = growth(opening, unit, collector=collector)
            state = "running" if collector else "paused"
            print(
                f"  collector {state:<8}{small * 1e3:8.1f} ms at 100 kB{large * 1e3:9.1f} ms at 1 MB{large / small:7.2f} times"
            )
            if not collector:
                growths.append(large / small)
    print(f"worst growth, collector paused: {max(growths):.2f} (target {GROWTH:g})")
    return int(speed < TRACES_PER_SECOND or max(growths) > GROWTH)


if __name__ == "__main__":
    raise SystemExit(main())
