"""The store of a checkout that was moved or copied: its artifacts lie in the checkout, wherever that lies now.

MLflow writes absolute addresses into its database, and offers no other. Before the database is used, addresses in the folder
of another checkout are rewritten to this one: a moved checkout finds its artifacts again, and a copy writes into its own
folder and never into the original. Artifacts outside of the checkout (another folder, a bucket) stay where they are.
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
"""Table -> its columns that hold addresses; one that a schema does not have is passed over."""
WAIT_SECONDS = 5
FILE = "file://"


def settle(root: Path, database: Path, artifacts: str) -> list[str]:
    """Make the store's addresses those of the checkout that it lies in.

    Args:
        root: the checkout, absolute.
        database: its SQLite file; nothing is done where there is none, or where it is no store that can be read.
        artifacts: the artifacts' folder, relative to the checkout.

    Returns:
        The folders in which the checkout lay before.
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
    """The other checkouts in whose artifacts' folder an experiment or a run lies, as the addresses write them."""
    own = {root.as_uri(), str(root)}
    found = set()
    for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
        for (address,) in store.execute(f"SELECT DISTINCT {column} FROM {table}"):  # noqa: S608 names of our own
            before, separator, _ = f"{address}/".rpartition(f"/{artifacts}/")
            local = before.startswith(("/", f"{FILE}/")) and separator
            if local and before not in own:
                found.add(before)
    return sorted(found, key=len, reverse=True)


def _rewrite(store: sqlite3.Connection, present: list[tuple[str, str]], old: str, root: Path) -> None:
    new = root.as_uri() if old.startswith(FILE) else str(root)
    for table, column in present:
        store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608
            (new, len(old) + 1, len(old) + 1, f"{old}/"),
        )


def _rename(ledgers: Path, former: list[str], root: Path) -> None:
    """What this checkout has seen of its own registry's ledgers goes on under the registry's new address."""
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
