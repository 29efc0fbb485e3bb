"""A stage's figures on disk."""

import json
from pathlib import Path

from saferflow.data.tables import atomic

FOLDER = Path("metrics")


def write_metrics(stage: str, values: dict) -> Path:
    """Write `metrics/<stage>.json`: sorted keys, two blanks, by an atomic rename.

    Raises:
        ValueError: a value is NaN or infinite, which is not JSON.
    """
    path = FOLDER / f"{stage}.json"
    write_json(path, values)
    return path


def write_json(path: Path, values: dict) -> None:
    """Write a JSON file that appears whole or not at all."""
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
