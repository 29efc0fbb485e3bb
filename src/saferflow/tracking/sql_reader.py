"""Reads MLflow's store from its database, SQLite or PostgreSQL, in the schema of one MLflow version.

Another schema, another form of filter, and any fault of the database raise `Unread`. Source: the schema and the
order of results are MLflow's (`mlflow.store.tracking.sqlalchemy_store`, `mlflow.store.model_registry.sqlalchemy_store`).
"""

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

from saferflow.tracking.records import Data, Experiment, Info, Model, ModelVersion, Point, Run, Unread

REVISION = "dc11669786a5"
"""Alembic's revision of the schema of the MLflow in constraints.txt; the queries below fit no other."""
WAIT_SECONDS = 1
Rows = list[tuple]
Query = Callable[[str, Mapping[str, Any]], Rows]

_TAG = re.compile(r"tags?\.`(?P<key>[^`]+)` (?P<sign>=|LIKE) '(?P<value>[^']*)'")
_STATUS = re.compile(r"attributes\.status = '(?P<value>[A-Z]+)'")
_NAME = re.compile(r"name = '(?P<value>[^']*)'")
_ORDERS = {None: "DESC", "attributes.start_time ASC": "ASC", "attributes.start_time DESC": "DESC"}
_OUTSIDE = "(SELECT count(*) FROM experiments WHERE workspace <> 'default')"
_OUTSIDE += " + (SELECT count(*) FROM registered_models WHERE workspace <> 'default')"


def reader(address: str) -> "SqlReader":
    """The reader of a store's address.

    Raises:
        Unread: this module does not read that kind of database, or the file is missing.
    """
    if address.startswith("sqlite:///"):
        file = Path(address.removeprefix("sqlite:///"))
        if set("?#%") & set(str(file)) or not file.is_file():
            raise Unread(address)
        return SqlReader(_on_sqlite(file))
    if re.match(r"postgresql(\+psycopg)?://", address):
        return SqlReader(_on_postgres(address))
    raise Unread(address)


def _on_sqlite(file: Path) -> Query:
    def query(text: str, values: Mapping[str, Any]) -> Rows:
        try:
            with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", WAIT_SECONDS, uri=True)) as store:
                return store.execute(text, values).fetchall()
        except sqlite3.Error as error:
            raise Unread(str(error)) from error

    return query


def _on_postgres(address: str) -> Query:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    engine = create_engine(address)

    def query(words: str, values: Mapping[str, Any]) -> Rows:
        try:
            with engine.connect() as connection:
                return [tuple(row) for row in connection.execute(text(words), dict(values))]
        except SQLAlchemyError as error:
            raise Unread(str(error)) from error

    return query


class SqlReader:
    """The calls of MLflow's client that the project's commands need, by SQL."""

    def __init__(self, query: Query):
        self._ask = query

    @cached_property
    def _query(self) -> Query:
        """The query function, after a check of the schema.

        Raises:
            Unread: the schema is another one, or the store has workspaces, which MLflow refuses or divides.
        """
        if self._ask("SELECT version_num FROM alembic_version", {}) != [(REVISION,)]:
            raise Unread("another schema")
        if self._ask(f"SELECT {_OUTSIDE}", {}) != [(0,)]:
            raise Unread("workspaces")
        return self._ask

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """The experiment of this name; None where there is none."""
        rows = self._query("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = :name", {"name": name})
        return Experiment(str(rows[0][0]), rows[0][1]) if rows else None

    def get_run(self, run: str) -> Run:
        """A run by its id.

        Raises:
            Unread: there is no such run.
        """
        runs = self._runs("run_uuid = :run", {"run": run})
        if not runs:
            raise Unread(run)
        return runs[0]

    def search_runs(self, experiments: Sequence[str], filter: str, max_results: int, order: str | None) -> list[Run]:  # noqa: A002
        """Runs that are not deleted; `filter` joins tags (`=`, or `LIKE` with a prefix) and a status by `and`."""
        if order not in _ORDERS or len(experiments) != 1 or not experiments[0].isdecimal():
            raise Unread(f"{experiments} {order}")
        values: dict[str, Any] = {"experiment": int(experiments[0]), "most": max_results}
        where = ["experiment_id = :experiment", "lifecycle_stage = 'active'"]
        for number, clause in enumerate(_clauses(filter)):
            if match := _TAG.fullmatch(clause):
                where.append(
                    f"run_uuid IN (SELECT run_uuid FROM tags WHERE key = :key{number} AND {_value(match, number)})"  # noqa: S608
                )
                values |= {f"key{number}": match["key"], f"value{number}": match["value"].removesuffix(_ending(match))}
            elif match := _STATUS.fullmatch(clause):
                where.append(f"status = :value{number}")
                values[f"value{number}"] = match["value"]
            else:
                raise Unread(clause)
        way = _ORDERS[order]
        return self._runs(
            f"{' AND '.join(where)} ORDER BY CASE WHEN start_time IS NULL THEN 1 ELSE 0 END, start_time {way}, run_uuid "
            "LIMIT :most",
            values,
        )

    def get_metric_history(self, run: str, name: str) -> list[Point]:
        """All points of a metric.

        Raises:
            Unread: there is no such metric or run.
        """
        rows = self._query(
            "SELECT step, value, is_nan FROM metrics WHERE run_uuid = :run AND key = :name", {"run": run, "name": name}
        )
        if not rows:  # no such metric, or no such run, which is an error
            raise Unread(run)
        return [Point(step, _number(value, is_nan)) for step, value, is_nan in rows]

    def search_registered_models(self, filter: str) -> list[Model]:  # noqa: A002
        """The model of a filter `name = '…'`, or none."""
        match = _NAME.fullmatch(filter)
        if match is None:
            raise Unread(filter)
        values = {"name": match["value"]}
        if not self._query("SELECT name FROM registered_models WHERE name = :name", values):
            return []
        tags = self._query("SELECT key, value FROM registered_model_tags WHERE name = :name", values)
        aliases = self._query("SELECT alias, version FROM registered_model_aliases WHERE name = :name", values)
        return [Model(match["value"], dict(tags), {alias: str(version) for alias, version in aliases})]

    def search_model_versions(self, filter: str, max_results: int) -> list[ModelVersion]:  # noqa: A002
        """Versions by a filter `name = '…'`, with tags joined by `and`; the most recently changed first."""
        name, *clauses = _clauses(filter)
        if not (match := _NAME.fullmatch(name)):
            raise Unread(filter)
        where, values = ["name = :name"], {"name": match["value"], "most": max_results}
        for number, clause in enumerate(clauses):
            if not (tag := _TAG.fullmatch(clause)) or tag["sign"] != "=":
                raise Unread(filter)
            where.append(
                "version IN (SELECT version FROM model_version_tags WHERE name = :name AND "  # noqa: S608 words of our own
                f"key = :key{number} AND value = :value{number})"
            )
            values |= {f"key{number}": tag["key"], f"value{number}": tag["value"]}
        return self._versions(
            f"{' AND '.join(where)} ORDER BY last_updated_time DESC, version DESC LIMIT :most", values
        )

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """A version of a registered model.

        Raises:
            Unread: there is no such version.
        """
        versions = self._versions("name = :name AND version = :version", {"name": name, "version": int(version)})
        if not versions:
            raise Unread(f"{name} {version}")
        return versions[0]

    def _versions(self, where: str, values: Mapping[str, Any]) -> list[ModelVersion]:
        chosen = (
            "SELECT version, source, run_id, creation_time FROM model_versions "  # noqa: S608 words of our own
            f"WHERE current_stage <> 'Deleted_Internal' AND {where}"
        )
        rows = self._query(chosen, values)
        tags: dict[int, dict[str, str]] = {row[0]: {} for row in rows}
        within = f"WHERE name = :name AND version IN (SELECT version FROM ({chosen}) AS chosen)"  # noqa: S608
        for version, key, value in self._query(f"SELECT version, key, value FROM model_version_tags {within}", values):  # noqa: S608
            tags[version][key] = value
        return [ModelVersion(str(row[0]), row[1], row[2] or "", row[3], tags[row[0]]) for row in rows]

    def _runs(self, where: str, values: Mapping[str, Any]) -> list[Run]:
        chosen = f"SELECT run_uuid, name, status, artifact_uri FROM runs WHERE {where}"  # noqa: S608 words of our own
        rows = self._query(chosen, values)
        data = {row[0]: Data({}, {}, {}) for row in rows}
        within = f"WHERE run_uuid IN (SELECT run_uuid FROM ({chosen}) AS chosen)"  # noqa: S608
        for run, key, value, is_nan in self._query(
            f"SELECT run_uuid, key, value, is_nan FROM latest_metrics {within}",  # noqa: S608
            values,
        ):
            data[run].metrics[key] = _number(value, is_nan)
        for table in ("params", "tags"):
            for run, key, value in self._query(f"SELECT run_uuid, key, value FROM {table} {within}", values):  # noqa: S608
                getattr(data[run], table)[key] = value
        return [Run(Info(*row), data[row[0]]) for row in rows]


def _clauses(filter: str) -> list[str]:  # noqa: A002
    return filter.split(" and ")


def _ending(tag: re.Match) -> str:
    """The wildcard at the end of a prefix; empty for `=`.

    Raises:
        Unread: the value is no prefix, or holds another wildcard.
    """
    if tag["sign"] == "=":
        return ""
    if not re.fullmatch(r"[0-9a-f]*%", tag["value"]):
        raise Unread(tag[0])
    return "%"


def _value(tag: re.Match, number: int) -> str:
    if tag["sign"] == "=":
        return f"value = :value{number}"
    return f"substr(value, 1, {len(tag['value'].removesuffix(_ending(tag)))}) = :value{number}"


def _number(value: float, is_nan: bool) -> float:
    return float("nan") if is_nan else value
