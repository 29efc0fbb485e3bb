"""Explains failures of databases, servers and tools in one line with the remedy. Source: ours."""

import json
import os
import re
import subprocess
from functools import wraps
from pathlib import Path
from typing import Any

from saferflow.errors import PipelineError

STORES = ("mlflow", "sqlalchemy", "sqlite3", "alembic")
"""Packages whose exceptions come from a store."""
CHARS = 300
RESTORE = "restore a backup, or move it away and begin a new one"
DATABASE: dict[str, str] = {
    r"out-of-date database schema \(found version (?P<found>\w+)": "was written by another MLflow (schema {found}): if by an "
    "older one, back it up and run mlflow db upgrade {uri}; if by a newer one, install that version",
    r"Can't locate revision identified by '(?P<found>\w+)'": "was written by another version (schema {found}); install the "
    "version that wrote it, or move the database away and begin a new one",
    r"database (?:table )?is locked|lock timeout|could not obtain lock": "is locked by another process; wait for it or end it "
    "(fuser names it), then run again",
    r"disk image is malformed|file is not a database|file is encrypted": f"is damaged; {RESTORE}",
    r"no such (?:table|column):? ?(?P<found>[\w.]*)": f"is not whole, {{found}} is missing; {RESTORE}",
    r"(?:relation|column) \"?(?P<found>[\w.]+)\"? does not exist": f"is not whole, {{found}} is missing; {RESTORE}",
    r"in a read-only transaction": "takes no writes; connect to the primary server, or ask who made it read-only",
    r"password authentication failed|no pg_hba.conf entry|role .* does not exist": "does not let us in; look at the user and "
    "password in the address",
    r"readonly database|read-only": "cannot be written; look who owns it and its folder",
    r"unable to open database file": "cannot be opened; look whether its folder is there and whose it is",
    r"disk is full|No space left|could not extend file": "has no room left on its disk; make some, then run again",
}
"""Pattern of a database's error -> the problem and the remedy."""
SERVER: dict[str, str] = {
    r"Max retries exceeded|Connection (?:refused|aborted|reset)|NewConnectionError|timed out|Name or service": "does not answer "
    "(MLFLOW_TRACKING_URI); what is finished is kept: run again when it does, or unset the variable to use this checkout's own",
    r"\b40[13]\b|Unauthorized|UNAUTHENTICATED|PERMISSION_DENIED|not authenticated": "does not let us in; set "
    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
}


def explained(error: BaseException) -> str | None:
    """Explain an error of MLflow or its database in one line of bounded length; None for any other error."""
    chain = [error]
    while chain[-1].__cause__ is not None and len(chain) < 10:
        chain.append(chain[-1].__cause__)
    if not any(type(link).__module__.partition(".")[0] in STORES for link in chain):
        return None
    text = " ".join(str(link) for link in chain)
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return _matched(text, {**DATABASE, **SERVER}) or f"MLflow at {address()}: {first[:CHARS]}"


def in_log(text: str, database: str) -> str | None:
    """Explain a database's error in a server's log in one line; None where the log has no known one."""
    return _matched(text, DATABASE, database)


class Explaining:
    """A client whose calls raise `PipelineError` where the database behind them cannot be used."""

    def __init__(self, client: Any):
        self._client = client

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        @wraps(attribute)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return attribute(*args, **options)
            except Exception as error:
                line = _matched(str(error), DATABASE) if explained(error) else None
                if line is None:
                    raise
                raise PipelineError(line) from None

        return call


def check_checkout(root: Path) -> None:
    """Refuse a checkout in which git or DVC would fail at every step.

    Raises:
        PipelineError: the checkout belongs to another user, or DVC's list of files in use is truncated.
    """
    command = ["git", "rev-parse", "--git-dir"]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError:  # no git here: lineage says so where it needs it
        done = None
    if done is not None and done.returncode and "dubious ownership" in done.stderr:
        raise PipelineError(
            f"{root} belongs to another user, so git and DVC do not use it; if you trust its files: "
            f"git config --global --add safe.directory '{root}'"
        )
    held = root / ".dvc" / "tmp" / "rwlock"
    try:
        whole = not held.is_file() or isinstance(json.loads(held.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError):
        whole = False
    if not whole:
        raise PipelineError(
            f"{held} was cut off, and DVC does nothing while it cannot read it; it only says which process uses which file: "
            f"end other dvc processes of this checkout, then: rm '{held}'"
        )


def _matched(text: str, signs: dict[str, str], database: str = "") -> str | None:
    for sign, remedy in signs.items():
        if match := re.search(sign, text):
            where = database or address()
            what = "MLflow's server" if where.startswith("http") else "the database"
            known = {"uri": where, "found": "", **{name: value or "" for name, value in match.groupdict().items()}}
            return f"{what} {where} {remedy.format(**known)}"
    return None


def address() -> str:
    """The address of the tracking store, without credentials."""
    return re.sub(r"//[^/@]*@", "//", os.environ.get("MLFLOW_TRACKING_URI", "(MLFLOW_TRACKING_URI is not set)"))[:CHARS]
