"""Near misses: rejected completions that the policy itself wrote, well-formed and wrong, in place of planted faults.

Of a prompt's samples those count that have the form of a response and either break a rule of their plan or decide otherwise
than is expected; the one most like the chosen completion is taken. Where no sample is of the kind, the pair stays as it was.
Pairs that a source brought stay as they are. Source: ours; the papers' rejected sides are perturbations only [K].
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from saferflow.data.rows import THEIRS, WRONG_ANSWER, DPORow, Labels
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.topologies import GATE
from saferflow.protocol.trace import parse
from saferflow.rng import rng

NAME = "near_miss"
POLICY = "policy"
"""Who wrote a near miss."""
FORM = ("T001", "T002", "T003")
"""Violations that leave no response to speak of."""
KEPT = (THEIRS, WRONG_ANSWER)
"""Perturbations whose pairs stay as they are: what a source brought, and general questions."""


def drawn(rows: Sequence[DPORow], share: float, seed: int) -> list[DPORow]:
    """The pairs that are to get a sampled rejected side, by a draw addressed by id."""
    return [row for row in rows if row.perturbation not in KEPT and rng(seed, NAME, row.id).random() < share]


def replaced(rows: Sequence[DPORow], asked: Iterable[DPORow], samples: Iterable[list[str]]) -> list[DPORow]:
    """All rows, those that were asked for with their nearest miss where there is one."""
    missed = {}
    for row, completions in zip(asked, samples, strict=True):
        nearest = nearest_miss(row, completions)
        writer = POLICY if row.rejected_writer else ""  # a table of before it was kept tells it of none
        if nearest is not None:
            missed[row.id] = replace(row, rejected=nearest, perturbation=NAME, rejected_writer=writer)
    return [missed.get(row.id, row) for row in rows]


def balanced(rows: Sequence[DPORow], planted: float, seed: int) -> list[DPORow]:
    """All near misses and all pairs that stay as they are, and planted faults so that these are the share `planted` of them and
    the near misses; all rows where nothing was missed.

    The planted ones come first from the side (harmful or harmless rows) that has fewer near misses, so that the pairs teach
    against over-refusal and under-refusal alike.
    """
    misses = [row for row in rows if row.perturbation == NAME]
    if not misses:
        return list(rows)
    others = sorted(
        (row for row in rows if row.perturbation not in (NAME, *KEPT)),
        key=lambda row: rng(seed, "planted", row.id).random(),
    )
    room = min(len(others), round(len(misses) * planted / (1 - planted)))
    counts = Counter(_harmful(row) for row in misses)
    chosen: set[str] = set()
    queues = {side: [row.id for row in others if _harmful(row) is side] for side in (True, False)}
    while len(chosen) < room:
        side = min((side for side in queues if queues[side]), key=lambda side: counts[side])
        chosen.add(queues[side].pop(0))
        counts[side] += 1
    return [row for row in rows if row.perturbation in (NAME, *KEPT) or row.id in chosen]


def _harmful(row: DPORow) -> bool:
    return Labels.from_json(row.labels).harmful


def nearest_miss(row: DPORow, completions: Iterable[str]) -> str | None:
    """The completion most like the chosen one among those that have its form and are wrong."""
    wrong = [text for text in dict.fromkeys(completions) if is_miss(row, text)]
    return max(wrong, key=lambda text: SequenceMatcher(None, row.chosen, text, autojunk=False).ratio(), default=None)


def is_miss(row: DPORow, text: str) -> bool:
    """Whether a completion has the form of a response, and breaks its plan or decides otherwise than is expected."""
    codes = {violation.code for violation in check(Plan.from_json(row.plan), text)}
    if codes & set(FORM):
        return False
    decided = next((call.get("decision") for call in parse(text).trace if call.tool == GATE), "")
    return bool(codes) or decided != Labels.from_json(row.labels).decision
