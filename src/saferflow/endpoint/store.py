"""Answers by the content of their request, in SQLite: written before they are used, so that a kill loses none. Source: ours."""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from saferflow.errors import EndpointError

FILE = Path(".saferflow/answers.sqlite")


class Answer(NamedTuple):
    """A server's answer and its cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int


class Store:
    """A store in one file; several processes may use it at once.

    Raises:
        EndpointError: the file is no database of answers, or may not be written.
    """

    def __init__(self, file: Path = FILE):
        try:
            self._open(file)
        except (sqlite3.Error, OSError) as error:
            raise EndpointError(
                f"{file}, where answers of servers are kept, cannot be used: {error!s:.200}. Mend its rights, or put it aside: "
                "what it holds is then asked for anew"
            ) from None

    def _open(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(file, timeout=60, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")  # a power cut may lose the last ones, a kill none
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS answers "
            "(key TEXT PRIMARY KEY, text TEXT NOT NULL, prompt_tokens INTEGER, completion_tokens INTEGER)"
        )
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS spent (prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL)"
        )

    def get(self, key: str) -> Answer | None:
        """The answer under a key; None where there is none."""
        query = "SELECT text, prompt_tokens, completion_tokens FROM answers WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return Answer(*row) if row else None

    def put(self, key: str, answer: Answer) -> None:
        """Store an answer; the operating system has it when this returns. The first answer under a key stays."""
        self._database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (key, *answer))

    def forget(self, key: str, answer: Answer) -> None:
        """Delete an unusable answer, unless another process has replaced it; its tokens still count."""
        done = self._database.execute("DELETE FROM answers WHERE key = ? AND text = ?", (key, answer.text))
        if done.rowcount:
            self.pay(answer.prompt_tokens, answer.completion_tokens)

    def pay(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Count tokens of an answer that is not stored."""
        if prompt_tokens or completion_tokens:
            self._database.execute("INSERT INTO spent VALUES (?, ?)", (prompt_tokens, completion_tokens))

    def tokens(self) -> int:
        """Tokens of prompts and completions, of all answers that were paid for."""
        sums = [
            f"SELECT coalesce(sum(prompt_tokens + completion_tokens), 0) FROM {table}"  # noqa: S608 names of ours
            for table in ("answers", "spent")
        ]
        return sum(self._database.execute(query).fetchone()[0] for query in sums)
