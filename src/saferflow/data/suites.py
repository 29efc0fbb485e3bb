"""Great Expectations: one suite per table; each expectation states its reason.

A suite reads a frame of ids, of words from fixed sets, and of columns that our own code fills. `question`, `image_error`,
`trace_violations`, `fault_missing`, `leaks_into` hold text that must be empty, so that a broken row names its fault.
Frames hold no text of rows, so that frames of many rows stay small.
Source: ours.
"""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["GX_ANALYTICS_ENABLED"] = "false"  # read at import
import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd

from saferflow.data.docs import publish
from saferflow.data.rows import THEIRS, WRONG_ANSWER
from saferflow.params import Params


@dataclass(frozen=True, slots=True)
class Unmet:
    """An expectation that a table breaks."""

    table: str
    expectation: str
    reason: str
    rows: tuple[str, ...]
    """Ids of the offending rows; empty where the expectation is about the whole table."""

    def __str__(self) -> str:
        shown = ", ".join(self.rows[:20]) + (f" and {len(self.rows) - 20} more" if len(self.rows) > 20 else "")
        return f"{self.table}: {self.reason} ({self.expectation})" + (f"; rows {shown}" if shown else "")


def expectations(table: str, params: Params) -> list[gxe.Expectation]:
    """The expectations of a table; `notes` holds the reason, which the data docs show."""
    bounds = params.validation
    expected = [
        gxe.ExpectColumnValuesToNotBeNull(column="id", notes="an id addresses a row"),
        gxe.ExpectColumnValuesToBeUnique(column="id", notes="two rows of one id cannot be told apart"),
        gxe.ExpectTableRowCountToBeBetween(
            min_value=bounds.min_rows, notes=f"a table of fewer than {bounds.min_rows} rows teaches or proves nothing"
        ),
        _clean("question", "a question without words asks nothing"),
        _clean("conversation", "the turns before the last one can be read, and their questions are in the question"),
        _clean("image_error", "every image decodes"),
        gxe.ExpectColumnMaxToBeBetween(
            column="hazard_share",
            max_value=bounds.max_hazard_share,
            notes=f"no hazard makes up more than {bounds.max_hazard_share:.0%} of the safety rows",
        ),
    ]
    if table == "sft":
        kinds = ["safety", "general", "reflection"]
        expected.append(_in_set("kind", kinds, "a row is a protocol question, a general one, or a reflection on a draft"))
    elif table != "dpo":
        expected.append(_in_set("kind", ["safety", "general"], "a row is a protocol question or a general one"))
    for column in {"sft": ("completion",), "dpo": ("chosen", "rejected")}.get(table, ()):
        expected.append(
            gxe.ExpectColumnValuesToBeBetween(
                column=f"{column}_characters",
                min_value=1,
                max_value=bounds.max_completion_chars,
                notes=f"{column} is neither empty nor longer than {bounds.max_completion_chars:,} characters",
            )
        )
    if table in ("sft", "dpo"):
        expected.append(_clean("trace_violations", "every reference trace obeys its plan"))
    if table == "dpo":
        names = [*sorted(params.plan.perturbations), *([THEIRS] if params.plan.own_pairs != "none" else [])]
        names += [WRONG_ANSWER] if params.plan.general_pairs else []
        expected.append(
            _in_set("perturbation", names, "the fault is one that the params know, or a worse answer of a source")
        )
        expected.append(_clean("fault_missing", "every rejected completion breaks just the rules that its fault plants"))
        expected.append(_clean("equal_pair", "chosen and rejected differ"))
    if table == "evaluation":
        expected.append(_clean("guessed_label", "no held-out row is measured by a label that the rule planner guessed"))
        expected.append(
            _clean(
                "leaks_into",
                "no held-out row, and no near duplicate of one, stands in a training table",
            )
        )
    return expected


def validate(frames: dict[str, pd.DataFrame], params: Params, docs: Path) -> tuple[dict[str, Any], list[Unmet]]:
    """Run every table's suite and write the data docs to the folder `docs`.

    Returns:
        Table -> results by expectation; and the unmet expectations.
    """
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_pandas("tables")
    outcomes = {}
    for table, frame in frames.items():
        suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations(table, params)))
        batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
        outcomes[table] = definition.run(
            batch_parameters={"dataframe": frame},
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": ["id"]},
        )
        print(f"validate  {table}  {len(frame):,} rows, {len(outcomes[table].results)} expectations", flush=True)
    results = {table: [_result(result) for result in outcome.results] for table, outcome in outcomes.items()}
    unmet = [
        _unmet(table, result) for table, outcome in outcomes.items() for result in outcome.results if not result.success
    ]
    publish(outcomes, results, {table: len(frame) for table, frame in frames.items()}, docs)
    return results, unmet


def _clean(column: str, reason: str) -> gxe.Expectation:
    return gxe.ExpectColumnValueLengthsToEqual(column=column, value=0, notes=reason)


def _in_set(column: str, values: list[str], reason: str) -> gxe.Expectation:
    return gxe.ExpectColumnValuesToBeInSet(column=column, value_set=values, notes=reason)


def _result(result: Any) -> dict[str, Any]:
    return {
        "expectation": result.expectation_config.type,
        "column": result.expectation_config.kwargs.get("column", ""),
        "reason": result.expectation_config.notes,
        "met": bool(result.success),
        "rows": list(_rows(result)),
    }


def _unmet(table: str, result: Any) -> Unmet:
    fields = _result(result)
    return Unmet(table, f"{fields['expectation']} {fields['column']}".strip(), fields["reason"], tuple(fields["rows"]))


def _rows(result: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(row["id"]) for row in result.result.get("unexpected_index_list") or ()))
