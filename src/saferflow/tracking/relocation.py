"""Repairs the store of a checkout that was moved or copied, so that its artifacts are found in the checkout.

MLflow writes absolute addresses into its database, and offers no other. Before the database is used, we rewrite addresses in
the folder of another checkout to this one: a moved checkout finds its artifacts again, and a copy writes into its own folder
and never into the original. Artifacts outside the checkout (another folder, a bucket) stay where they are.
Source: ours.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from urllib.parse import unquote

ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Table -> its columns with addresses; a column that the schema lacks is skipped."""
WAIT_SECONDS = 5
FILE = "file://"


def settle(root: Path, database: Path, artifacts: str) -> list[str]:
    """Rewrite the store's addresses to the checkout that contains it.

    Args:
        root: the checkout, absolute.
        database: its SQLite file; nothing happens where it is missing or no readable store.
        artifacts: the artifacts' folder, relative to the checkout.

    Returns:
        The former folders of the checkout.
    """
    if not database.is_file():
        return []
    with suppress(sqlite3.Error), closing(sqlite3.connect(database, timeout=WAIT_SECONDS)) as store:
        present = [
            (table, column)
            for table, columns in ADDRESSES.items()
            for column in columns
            if any(row[1] == column for row in store.execute(f"PRAGMA table_info({table})"))
        ]
        former = _former(store, root, artifacts.strip("/"))
        if former:
            with store:
                for old in former:
                    _rewrite(store, present, old, root)
            _rename(database.parent / "ledgers.json", former, root)
        return [_path(old) for old in former]
    return []


def _former(store: sqlite3.Connection, root: Path, artifacts: str) -> list[str]:
    """The other checkouts whose artifacts' folder holds an experiment or a run, as written in the addresses."""
    own = {root.as_uri(), str(root)}
    checkouts = set()
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        for (address,) in store.execute(f"SELECT DISTINCT {column} FROM {table}"):  # noqa: S608 names of our own
            before, separator, _ = f"{address}/".rpartition(f"/{artifacts}/")
            local = before.startswith(("/", f"{FILE}/")) and separator
            if local and before not in own:
                checkouts.add(before)
    return sorted(checkouts, key=len, reverse=True)


def _rewrite(store: sqlite3.Connection, present: list[tuple[str, str]], old: str, root: Path) -> None:
    new = root.as_uri() if old.startswith(FILE) else str(root)
    for table, column in present:
        store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )


def _rename(ledgers: Path, former: list[str], root: Path) -> None:
    """Rename this checkout's records of its registry's ledgers to the registry's new address."""
    if not ledgers.is_file():
        return
    text = ledgers.read_text(encoding="utf-8")
    renamed = text
    for old in former:
        renamed = renamed.replace(f'"sqlite:///{_path(old)}/', f'"sqlite:///{root}/')
    if renamed != text:
        partial = ledgers.with_suffix(".partial")
        partial.write_text(renamed, encoding="utf-8")
        partial.replace(ledgers)


def _path(address: str) -> str:
    return unquote(address.removeprefix(FILE)) if address.startswith(FILE) else address
