"""Counts the rows of stage `plan`: origins of labels, writers, unused responses, and suspicions of the rule planner.

Source: ours.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from saferflow.data.origins import GUESSED, LABEL_SOURCES, RULE_PLANNER, label_notice
from saferflow.data.rows import THEIRS, WATCH, DPORow, Labels, Row, SFTRow
from saferflow.planner.responses import TRACED
from saferflow.planner.tables import CONTRADICTION, GUESSED_HELD_OUT, SERVER, UNJUDGED, Made
from saferflow.planner.writer import RULES
from saferflow.protocol.hazards import NONE
from saferflow.protocol.plan import Plan

NOTE = "knows the drawn corpus alone"
SHOWN, SHOWN_REASON = 3, 300
"""Most reasons that a message repeats, and most characters of each."""


@dataclass
class Counts:
    """Counts that add up over rows in any order."""

    writer: str
    """Kind of the writer: `rules` or `endpoint`."""
    labels: Counter = field(default_factory=Counter)
    """Label source -> rows."""
    foreign: Counter = field(default_factory=Counter)
    """The same for rows that are not drawn."""
    references: Counter = field(default_factory=Counter)
    """`teacher`, `theirs`, or `theirs_traced` -> references."""
    rejected: Counter = field(default_factory=Counter)
    """`planted`, `theirs`, or `theirs_traced` -> rejected sides."""
    unused: Counter = field(default_factory=Counter)
    """`answers` and `pairs` -> those of sources that no table holds."""
    why: Counter = field(default_factory=Counter)
    """Reason for quarantine -> rows."""
    unwritten: list[str] = field(default_factory=list)
    """The first reasons for not accepting a server's answers."""
    suspected: Counter = field(default_factory=Counter)
    """(harmful, suspected) -> rows that are neither drawn nor labelled by a guess."""
    unpaired: int = 0
    """Rows of the table dpo to which no perturbation applies."""

    def add(self, row: Row, outcome: Made) -> None:
        """Count a row and its outcome.

        Args:
            row: as its source gives it.
        """
        self.why[outcome.why] += bool(outcome.why)
        if outcome.why == SERVER and len(self.unwritten) < SHOWN:
            self.unwritten.append(outcome.rows[0].reason[:SHOWN_REASON])
        self.unpaired += outcome.table == "dpo" and not outcome.rows
        if outcome.why or not outcome.rows:
            return
        first = outcome.rows[0]
        labels = Labels.from_json(first.labels)
        self.labels[labels.label_source] += 1
        reference = outcome.lessons[0] if outcome.lessons else first
        if isinstance(reference, SFTRow | DPORow):
            self.references[_kind(reference.writer, "teacher")] += 1
        self.rejected.update(_kind(pair.rejected_writer, "planted") for pair in outcome.rows if isinstance(pair, DPORow))
        if not row.drawn:
            self._foreign(row, outcome, labels)

    def _foreign(self, row: Row, outcome: Made, labels: Labels) -> None:
        self.foreign[labels.label_source] += 1
        if labels.kind != "safety":
            self.unused["pairs"] += bool(row.rejected)
            return
        self.unused["answers"] += bool(row.answer) and outcome.table in ("grpo", "evaluation", WATCH)
        used = any(isinstance(pair, DPORow) and pair.perturbation == THEIRS for pair in outcome.rows)
        self.unused["pairs"] += bool(row.rejected) and not used
        if labels.label_source != GUESSED:
            self.suspected[labels.harmful, Plan.from_json(outcome.rows[0].plan).hazard != NONE] += 1

    def figures(self) -> dict[str, Any]:
        """The counts as `metrics/plan.json` holds them."""
        return {
            "labels": {name: self.labels[name] for name in LABEL_SOURCES},
            "references": {name: self.references[name] for name in ("teacher", "theirs", "theirs_traced")},
            "rejected": {name: self.rejected[name] for name in ("planted", "theirs", "theirs_traced")},
            "unused": {name: self.unused[name] for name in ("answers", "pairs")},
            "unpaired": self.unpaired,
            "contradicting": self.why[CONTRADICTION],
            "unjudged": self.why[UNJUDGED],
            "guessed_left_out": self.why[GUESSED_HELD_OUT],
            **({"unwritten": self.why[SERVER]} if self.writer != RULES else {}),
            **({"rule_planner": self._rule_planner()} if self.writer == RULES else {}),
        }

    def _rule_planner(self) -> dict[str, Any]:
        """Rows that are not drawn, harmful and harmless: their number, and the percentage that the rule planner suspects."""
        figures: dict[str, Any] = {"note": NOTE, "rows_beyond": self.foreign.total()}
        for harmful, name in ((True, "harmful"), (False, "harmless")):
            rows = self.suspected[harmful, True] + self.suspected[harmful, False]
            if rows:
                figures[f"{name}_suspected"] = round(100 * self.suspected[harmful, True] / rows, 1)
        return figures

    def lines(self) -> Iterator[str]:
        """Yield the notices for the end of the stage; none for the drawn corpus alone."""
        if self.why[SERVER]:
            yield (
                f"WARNING: {self.why[SERVER]:,} rows lack a plan, label or reference: the server's answers were not accepted; "
                "data/tables/quarantine.parquet has them with the reasons"
            )
        if not self.foreign:
            return
        origins = {LABEL_SOURCES[name]: rows for name, rows in self.foreign.items()}
        counts = ", ".join(f"{rows:,} from {name}" for name, rows in origins.items())
        yield f"labels of the rows that are not drawn: {counts}"
        if notice := label_notice(origins):
            yield notice
        if self.why[GUESSED_HELD_OUT]:
            yield f"{self.why[GUESSED_HELD_OUT]:,} rows with guessed labels would be held out; they are in quarantine"
        if self.why[CONTRADICTION]:
            yield (
                f"WARNING: {self.why[CONTRADICTION]:,} responses of sources contradict the labels of their rows; nothing is "
                "trained on them, and data/tables/quarantine.parquet has them with the reasons"
            )
        if self.why[UNJUDGED]:
            yield (
                f"WARNING: {self.why[UNJUDGED]:,} responses of sources could not be judged; nothing is trained on them, and "
                "data/tables/quarantine.parquet has them with the reasons"
            )
        if self.unused.total():
            yield (
                f"not used of the sources: {self.unused['answers']:,} answers (their rows are in grpo, watched or held out) and "
                f"{self.unused['pairs']:,} worse answers (plan.own_pairs, or their rows are not in dpo)"
            )
        if self.writer == RULES:
            suspicions = self._rule_planner()
            sides = [name for name in ("harmful", "harmless") if f"{name}_suspected" in suspicions]
            shares = " and ".join(f"{suspicions[f'{name}_suspected']}% of the {name} ones" for name in sides)
            yield RULE_PLANNER + (f"; of these rows it suspects {shares}" if shares else "")


def _kind(writer: str, other: str) -> str:
    return "theirs" if writer == THEIRS else "theirs_traced" if writer.startswith(TRACED) else other
