"""Stage `validate`: nothing trains on, or is measured by, a table that breaks an expectation.

Reads data/tables. Writes reports/data_docs, reports/validation.json, reports/data_profile.json.

The tables are read a group of rows at a time, in several processes; what is kept of a row are the results of our own
checks, which Great Expectations then judges.
"""

import sys
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saferflow.data.images import check_image
from saferflow.data.leakage import Entry, HeldOut, Twin, nearest
from saferflow.data.origins import GUESSED
from saferflow.data.profile import profile_of, whole
from saferflow.data.rows import TABLES as TYPES
from saferflow.data.rows import WATCH, Conversation, DPORow, Labels, PromptRow, SFTRow
from saferflow.data.tables import groups, read_group
from saferflow.errors import DataError, ValidationFailed
from saferflow.layout import EVALUATION, PROFILE, TABLES, TRAINED
from saferflow.parallel import mapped
from saferflow.params import Params, load_params
from saferflow.planner.perturb import PERTURBATIONS
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_json, write_metrics

if TYPE_CHECKING:
    import pandas as pd

DOCS = Path("reports/data_docs")
RESULTS = Path("reports/validation.json")
SHOWN_TWINS = 20
REFERENCE = {"sft": "completion", "dpo": "chosen"}
SPOKEN = {"sft": ("completion",), "dpo": ("chosen", "rejected")}


@dataclass
class Group:
    """What is kept of some rows of a table, and in the end of all of them."""

    table: str
    columns: dict[str, list] = field(default_factory=partial(defaultdict, list))
    """As the suites read them."""
    hazards: Counter = field(default_factory=Counter)
    """Of the safety rows."""
    twins: list[Twin] = field(default_factory=list)
    shown: dict[str, set[str]] = field(default_factory=partial(defaultdict, set))
    """`question`, `picture` -> the held-out rows of which a training row shows this half."""
    profile: Counter = field(default_factory=Counter)

    def add(self, other: "Group") -> None:
        """Add what is kept of other rows of the table."""
        for name, values in other.columns.items():
            self.columns[name] += values
        self.hazards += other.hazards
        self.twins += other.twins
        for half, rows in other.shown.items():
            self.shown[half] |= rows
        self.profile += other.profile


def main() -> None:
    """Run the stage."""
    params = load_params()
    index.cache_clear()
    kinds = TYPES | {WATCH: PromptRow}
    jobs = [(name, n) for name, kind in kinds.items() for n in range(groups(TABLES / f"{name}.parquet", kind))]
    tables = {name: Group(name) for name in kinds}
    for part in mapped(partial(examined, params=params), jobs, params.run.workers):
        tables[part.table].add(part)
    leaks = nearest(twin for table in tables.values() for twin in table.twins)
    del tables[WATCH]  # a checkpoint may be chosen by its rows, so that it has no twins; it may be empty
    halves = {half: set().union(*(table.shown[half] for table in tables.values())) for half in ("question", "picture")}

    import pandas as pd

    from saferflow.data.suites import validate

    complete(tables, leaks)
    frames = {}
    for name, table in tables.items():
        frames[name] = pd.DataFrame({column: packed(column, values) for column, values in table.columns.items()})
        table.columns.clear()
    write_json(PROFILE, {name: whole(table.profile) for name, table in tables.items()})
    results, unmet = validate(frames, params, DOCS)
    write_json(RESULTS, results)
    if unmet:
        lines = "\n".join(f"  {item}" for item in [*unmet, *list(leaks.values())[:SHOWN_TWINS]])
        raise ValidationFailed(
            f"{len(unmet)} expectations are not met:\n{lines}\n"
            f"look at {DOCS}/index.html; mend the source rows, or the bounds in section validate of the params"
        )
    counted = {f"rows_{name}": len(frame) for name, frame in frames.items()}
    shared = {f"held_out_{half}s_in_training": len(rows - leaks.keys()) for half, rows in halves.items()}
    write_metrics("validate", {"expectations": sum(map(len, results.values())), "unmet": 0, **counted, **shared})


def examined(job: tuple[str, int], params: Params) -> Group:
    """Check a group of a table's rows; runs in any process."""
    name, number = job
    rows = read_group(TABLES / f"{name}.parquet", TYPES.get(name, PromptRow), number)
    made = Group(name, profile=profile_of(rows))
    held_out = None if name == "evaluation" else index(params.validation.twin_text, params.validation.twin_image_bits)
    for row in rows:
        labels = Labels.from_json(row.labels)
        found = columns_of(name, row, labels, params)
        for column, value in found.items():
            made.columns[column].append(value)
        made.hazards[labels.hazard] += labels.kind == "safety"
        if held_out is not None and not found["image_error"]:
            made.twins += held_out.twins_of(Entry(name, row.id, row.question, row.image))
    if held_out is not None:
        made.shown |= {"question": set(held_out.shown_questions), "picture": set(held_out.shown_pictures)}
    return made


@cache
def index(text: float, bits: int) -> HeldOut:
    """The held-out rows whose images decode; made once in a process."""
    path = EVALUATION
    rows = (row for number in range(groups(path, PromptRow)) for row in read_group(path, PromptRow, number))
    whole = (row for row in rows if not image_error(row.image, sys.maxsize))
    return HeldOut((Entry("evaluation", row.id, row.question, row.image) for row in whole), text, bits)


def columns_of(name: str, row: SFTRow | DPORow | PromptRow, labels: Labels, params: Params) -> dict[str, Any]:
    """What the suites read of a row: its id and words of fixed sets, and what our own checks say, empty where nothing."""
    found = {
        "id": row.id,
        "question": "" if row.question.strip() else "without words",
        "conversation": conversation_error(row),
        "image_error": image_error(row.image, params.data.max_image_pixels),
        "hazard": labels.hazard if labels.kind == "safety" else "none",
    }
    found |= {f"{column}_characters": len(getattr(row, column)) for column in SPOKEN.get(name, ())}
    if name == "evaluation":
        found["guessed_label"] = labels.label_source if labels.label_source == GUESSED else ""
    if name == "dpo":
        found |= {
            "perturbation": row.perturbation,
            "fault_missing": missing_fault(row),
            "equal_pair": "equal" if row.chosen == row.rejected else "",
        }
    else:
        found["kind"] = row.kind
    if name in REFERENCE:
        found["trace_violations"] = violations(row, REFERENCE[name])
    return found


def complete(tables: dict[str, Group], leaks: dict[str, Twin]) -> None:
    """Fill in what only the whole tables tell: each row's hazard's share, and what leaks into the held-out table."""
    for table in tables.values():
        shares = hazard_shares(table.hazards)
        table.columns["hazard_share"] = [shares.get(hazard, 0.0) for hazard in table.columns.pop("hazard")]
    trained = {row: name for name in TRAINED for row in tables[name].columns["id"]}
    held_out = tables["evaluation"].columns
    held_out["leaks_into"] = [trained.get(row) or str(leaks.get(row, "")) for row in held_out["id"]]


def packed(column: str, values: list) -> "pd.Series":
    """A column in little memory: words that recur once, numbers without their objects."""
    import pandas as pd

    if column == "id":
        return pd.Series(values, dtype=object)
    if values and isinstance(values[0], str):
        return pd.Series(pd.Categorical(values))
    return pd.Series(values)


def conversation_error(row: Conversation) -> str:
    """What is wrong with a row's earlier turns, or nothing."""
    try:
        return "" if row.last_question.strip() else "the last turn is without words"
    except DataError as error:
        return str(error)


@lru_cache(maxsize=4)
def image_error(image: bytes | None, max_pixels: int) -> str:
    """What is wrong with a row's image, or nothing; the pairs of a prompt follow each other and share theirs."""
    if image is None:
        return ""
    try:
        check_image(image, "of the row", max_pixels)
    except DataError as error:
        return str(error)
    return ""


def violations(row: SFTRow | DPORow, reference: str) -> str:
    """Codes of the rules that a row's reference breaks under its plan, or nothing."""
    if not row.plan:
        return ""
    return " ".join(violation.code for violation in check(Plan.from_json(row.plan), getattr(row, reference)))


def missing_fault(row: DPORow) -> str:
    """How the rejected completion's violations differ from those that its perturbation plants, or nothing."""
    if row.perturbation not in PERTURBATIONS or not row.plan:
        return ""
    planted = PERTURBATIONS[row.perturbation].plants
    found = {violation.code for violation in check(Plan.from_json(row.plan), row.rejected)}
    return (
        ""
        if found == planted
        else f"plants {' '.join(sorted(planted)) or 'none'}, has {' '.join(sorted(found)) or 'none'}"
    )


def hazard_shares(counts: Counter[str]) -> dict[str, float]:
    """Hazard -> its share of the safety rows; `none` is not a hazard."""
    return {hazard: count / max(counts.total(), 1) for hazard, count in counts.items() if hazard != "none"}


if __name__ == "__main__":
    run_stage(main)
