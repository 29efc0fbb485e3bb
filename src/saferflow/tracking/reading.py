"""A client like MLflow's that serves the reads of commands without importing MLflow, which takes longer than all the rest.

It reads the database of a SQLite or PostgreSQL store, or a server's REST API. Everything else goes to MLflow's own client,
which is created at first use: writes, other stores, other schemas, other filters, and failed reads, so that errors are
MLflow's. Once that client exists, it answers everything. Source: ours.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from saferflow.tracking import rest_reader, sql_reader
from saferflow.tracking.records import Model, ModelVersion, Run, Unread

RUNS, VERSIONS = 1000, 10_000
"""Defaults of `max_results` in MLflow's client."""


def configured() -> sql_reader.SqlReader | rest_reader.RestReader | None:
    """The reader of the configured store; None where only MLflow's client can read it."""
    address = os.environ.get("MLFLOW_TRACKING_URI", "")
    if os.environ.get("MLFLOW_REGISTRY_URI", address) != address or os.environ.get("MLFLOW_ENABLE_WORKSPACES"):
        return None
    try:
        return (rest_reader if address.startswith("http") else sql_reader).reader(address)
    except Unread:
        return None


class Reading:
    """Replaces `mlflow.MlflowClient`: the same calls, with the same results as far as `records` has them."""

    def __init__(self, make: Callable[[], Any]):
        """Take the function that creates MLflow's own client."""
        self._make = make

    @cached_property
    def _mlflow(self) -> Any:
        return self._make()

    @cached_property
    def _reader(self) -> sql_reader.SqlReader | rest_reader.RestReader | None:
        return configured()

    def _read(self, name: str, *arguments: Any) -> Any:
        """A call of the reader.

        Raises:
            Unread: MLflow's client has to answer.
        """
        if "_mlflow" in vars(self) or self._reader is None:
            raise Unread(name)
        try:
            return getattr(self._reader, name)(*arguments)
        except (KeyError, TypeError, ValueError) as error:  # an answer of another form
            raise Unread(name) from error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._mlflow, name)

    def get_experiment_by_name(self, name: str) -> Any:
        """As MLflow's; None where there is none."""
        try:
            return self._read("get_experiment_by_name", name)
        except Unread:
            return self._mlflow.get_experiment_by_name(name)

    def get_run(self, run_id: str) -> Any:
        """As MLflow's."""
        try:
            return self._read("get_run", run_id)
        except Unread:
            return self._mlflow.get_run(run_id)

    def search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str = "",
        *,
        max_results: int = RUNS,
        order_by: Sequence[str] | None = None,
        **more: Any,
    ) -> Sequence[Any]:
        """As MLflow's; the reader answers a query with a filter, at most one order and nothing else."""
        try:
            if more or (order_by and len(order_by) > 1) or not filter_string:
                raise Unread("search_runs")
            order = order_by[0] if order_by else None
            runs: list[Run] = self._read("search_runs", experiment_ids, filter_string, max_results, order)
            return runs
        except Unread:
            return self._mlflow.search_runs(
                experiment_ids, filter_string, max_results=max_results, order_by=order_by, **more
            )

    def get_metric_history(self, run_id: str, key: str) -> Sequence[Any]:
        """As MLflow's: the points of a metric."""
        try:
            return self._read("get_metric_history", run_id, key)
        except Unread:
            return self._mlflow.get_metric_history(run_id, key)

    def search_registered_models(self, filter_string: str, max_results: int = 1) -> Sequence[Any]:
        """As MLflow's."""
        try:
            models: list[Model] = self._read("search_registered_models", filter_string)
            return models[:max_results]
        except Unread:
            return self._mlflow.search_registered_models(filter_string, max_results=max_results)

    def get_registered_model(self, name: str) -> Any:
        """As MLflow's."""
        try:
            if not (models := self._read("search_registered_models", f"name = '{name}'")):
                raise Unread(name)
            return models[0]
        except Unread:
            return self._mlflow.get_registered_model(name)

    def search_model_versions(self, filter_string: str, max_results: int = VERSIONS) -> Sequence[Any]:
        """As MLflow's."""
        try:
            versions: list[ModelVersion] = self._read("search_model_versions", filter_string, max_results)
            return versions
        except Unread:
            return self._mlflow.search_model_versions(filter_string, max_results=max_results)

    def get_model_version(self, name: str, version: str) -> Any:
        """As MLflow's."""
        try:
            return self._read("get_model_version", name, version)
        except Unread:
            return self._mlflow.get_model_version(name, version)

    def download_artifacts(self, run_id: str, path: str, dst_path: str) -> str:
        """Copy a run's artifact into `dst_path` and return the copy's path.

        Raises:
            FileNotFoundError: the run's artifacts are on this machine, and this one is not among them.
        """
        try:
            return self._copy(self._read("get_run", run_id).info.artifact_uri, path, Path(dst_path))
        except Unread:
            return self._mlflow.download_artifacts(run_id, path, dst_path)

    def _copy(self, folder: str, path: str, to: Path) -> str:
        address, target = urlparse(folder), to / path
        if address.scheme == "file" and not address.netloc:
            source = Path(unquote(address.path)) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                return str(shutil.copytree(source, target, dirs_exist_ok=True))
            return str(shutil.copyfile(source, target))
        if address.scheme == "mlflow-artifacts" and not address.netloc:
            text = self._read("artifact", f"{unquote(address.path).strip('/')}/{path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text)
            return str(target)
        raise Unread(folder)
