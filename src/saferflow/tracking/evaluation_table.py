"""Logs the evaluated rows as a table of their MLflow run: every policy's completion of a row, with its grades."""

from dataclasses import fields
from pathlib import Path

from saferflow.data.rows import Answered
from saferflow.data.tables import read_table
from saferflow.tracking.runs import client

FILE = "data/evaluated.parquet"
NAME = "evaluated.json"
MOST = 2000
"""Most held-out rows of the table, each with all policies; beyond that, an even sample. The whole file is an artifact."""


def log_table(run: str, file: Path) -> None:
    """Log the answers that stage `evaluate` wrote."""
    answered = read_table(file, Answered)
    ids = sorted({row.row for row in answered})
    shown = set(ids[:: max(1, -(-len(ids) // MOST))])
    rows = sorted((row for row in answered if row.row in shown), key=lambda row: row.row)
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Answered)}
    client().log_table(run, columns, NAME)
