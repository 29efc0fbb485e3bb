"""Stage `validate`: nothing trains on, or is measured by, a table that breaks an expectation.

Reads data/tables. Writes reports/data_docs, reports/validation.json.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from saferflow.data.images import check_image
from saferflow.data.leakage import Entry, Twin, twins
from saferflow.data.rows import DPORow, Labels, PromptRow, SFTRow
from saferflow.data.tables import read_table
from saferflow.errors import DataError, ValidationFailed
from saferflow.params import Params, load_params
from saferflow.planner.perturb import PERTURBATIONS
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.stages.entry import run_stage
from saferflow.stages.metrics import write_json, write_metrics

TABLES = Path("data/tables")
DOCS = Path("reports/data_docs")
RESULTS = Path("reports/validation.json")
TYPES = {"sft": SFTRow, "dpo": DPORow, "grpo": PromptRow, "evaluation": PromptRow}
SHOWN_TWINS = 20
REFERENCE = {"sft": "completion", "dpo": "chosen"}


def main() -> None:
    params = load_params()
    tables = {name: read_table(TABLES / f"{name}.parquet", row_type) for name, row_type in TYPES.items()}

    import pandas as pd

    from saferflow.data.suites import validate

    leaks = {twin.held_out: twin for twin in leaking(tables, params)}
    frames = {name: pd.DataFrame(columns_of(name, tables, params, leaks)) for name in tables}
    results, unmet = validate(frames, params, DOCS)
    write_json(RESULTS, results)
    if unmet:
        lines = "\n".join(f"  {item}" for item in [*unmet, *list(leaks.values())[:SHOWN_TWINS]])
        raise ValidationFailed(
            f"{len(unmet)} expectations are not met:\n{lines}\n"
            f"look at {DOCS}/index.html; mend the source rows, or the bounds in section validate of the params"
        )
    counted = {f"rows_{name}": len(rows) for name, rows in tables.items()}
    write_metrics("validate", {"expectations": sum(map(len, results.values())), "unmet": 0, **counted})


def leaking(tables: dict[str, list], params: Params) -> list[Twin]:
    """The held-out rows that training shows."""
    entries = {name: [Entry(name, row.id, row.question, row.image) for row in rows] for name, rows in tables.items()}
    held_out = entries.pop("evaluation")
    trained = [entry for rows in entries.values() for entry in rows]
    return twins(trained, held_out, params.validation.twin_text, params.validation.twin_image_bits)


def columns_of(name: str, tables: dict[str, list], params: Params, leaks: Mapping[str, Twin]) -> list[dict[str, Any]]:
    """A table's rows as the suites read them: without image bytes, with what our own checks say of each."""
    shares = hazard_shares(tables[name])
    trained = training_ids(tables) if name == "evaluation" else {}
    made = []
    for row in tables[name]:
        values = {field.name: getattr(row, field.name) for field in fields(row) if field.name != "image"}
        labels = Labels.from_json(row.labels)
        made.append(
            {
                **values,
                "image_error": image_error(row.image, params.data.max_image_pixels),
                "trace_violations": violations(row, REFERENCE.get(name)),
                "hazard_share": shares.get(labels.hazard, 0.0),
                "fault_missing": missing_fault(row) if name == "dpo" else "",
                "equal_pair": "equal" if name == "dpo" and row.chosen == row.rejected else "",
                "leaks_into": trained.get(row.id, "")
                or (str(leaks[row.id]) if name == "evaluation" and row.id in leaks else ""),
            }
        )
    return made


def image_error(image: bytes | None, max_pixels: int) -> str:
    """What is wrong with a row's image, or nothing."""
    if image is None:
        return ""
    try:
        check_image(image, "of the row", max_pixels)
    except DataError as error:
        return str(error)
    return ""


def violations(row: SFTRow | DPORow | PromptRow, reference: str | None) -> str:
    """Codes of the rules that a row's reference breaks under its plan, or nothing."""
    if reference is None or not row.plan:
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


def hazard_shares(rows: list) -> dict[str, float]:
    """Hazard -> its share of the safety rows; `none` is not a hazard."""
    labels = [Labels.from_json(row.labels) for row in rows]
    counts = Counter(label.hazard for label in labels if label.kind == "safety")
    total = sum(counts.values())
    return {hazard: count / total for hazard, count in counts.items() if hazard != "none"}


def training_ids(tables: dict[str, list]) -> dict[str, str]:
    """Id of every training row -> the table it stands in."""
    return {row.id: name for name in ("sft", "dpo", "grpo") for row in tables[name]}


if __name__ == "__main__":
    run_stage(main)
