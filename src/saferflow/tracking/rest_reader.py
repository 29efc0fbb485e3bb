"""Reads MLflow's store from a tracking server, by its REST API 2.0.

Any unexpected answer raises `Unread`: MLflow's client then asks again, with its retries, its certificates and its messages.
 Source: MLflow's REST documentation.
"""

import base64
import json
import os
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlencode

from saferflow.tracking.records import Data, Experiment, Info, Model, ModelVersion, Point, Run, Unread

SECONDS = 10
LEFT_TO_MLFLOW = (
    "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_WORKSPACE",
)  # fmt: skip
"""Variables for access to a server that only MLflow's client supports."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, because it would carry the password to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def reader(address: str) -> "RestReader":
    """The reader of a server.

    Raises:
        Unread: the address holds a password, or the environment sets up access that only MLflow's client supports.
    """
    if not address.startswith(("http://", "https://")) or "@" in address or any(map(os.environ.get, LEFT_TO_MLFLOW)):
        raise Unread("a server that is left to MLflow's client")
    return RestReader(address.rstrip("/"))


class RestReader:
    """The calls of MLflow's client that the project's commands need, over the REST API."""

    def __init__(self, address: str):
        self._address = address
        self._opener = urllib.request.build_opener(_Stay)

    def get_experiment_by_name(self, name: str) -> Experiment | None:
        """The experiment of this name."""
        answer = self._ask("experiments/get-by-name", {"experiment_name": name})["experiment"]
        return Experiment(answer["experiment_id"], answer["lifecycle_stage"])

    def get_run(self, run: str) -> Run:
        """A run by its id."""
        return _run(self._ask("runs/get", {"run_id": run})["run"])

    def search_runs(self, experiments: Sequence[str], filter: str, max_results: int, order: str | None) -> list[Run]:  # noqa: A002
        """Runs that are not deleted."""
        query = {
            "experiment_ids": list(experiments),
            "filter": filter,
            "max_results": max_results,
            "order_by": [order] if order else [],
        }
        return [_run(run) for run in self._ask("runs/search", query, post=True).get("runs", ())]

    def get_metric_history(self, run: str, name: str) -> list[Point]:
        """All points of a metric, over all pages."""
        points: list[Point] = []
        page: dict[str, str] = {}
        while True:
            answer = self._ask("metrics/get-history", {"run_id": run, "metric_key": name, **page})
            points += [Point(int(point.get("step", 0)), float(point["value"])) for point in answer.get("metrics", ())]
            if not (token := answer.get("next_page_token")):
                return points
            page = {"page_token": token}

    def search_registered_models(self, filter: str) -> list[Model]:  # noqa: A002
        """The first registered model that fits the filter; a list of one or none."""
        answer = self._ask("registered-models/search", {"filter": filter, "max_results": "1"})
        return [
            Model(
                model["name"],
                _pairs(model.get("tags")),
                {alias["alias"]: alias["version"] for alias in model.get("aliases", ())},
            )
            for model in answer.get("registered_models", ())
        ]

    def search_model_versions(self, filter: str, max_results: int) -> list[ModelVersion]:  # noqa: A002
        """Versions, the most recently changed first."""
        answer = self._ask("model-versions/search", {"filter": filter, "max_results": str(max_results)})
        return [_version(version) for version in answer.get("model_versions", ())]

    def get_model_version(self, name: str, version: str) -> ModelVersion:
        """A version of a registered model."""
        return _version(self._ask("model-versions/get", {"name": name, "version": version})["model_version"])

    def artifact(self, path: str) -> bytes:
        """The bytes of an artifact that the server itself serves."""
        return self._send(f"mlflow-artifacts/artifacts/{quote(path)}")

    def _ask(self, path: str, query: Mapping[str, Any], *, post: bool = False) -> dict[str, Any]:
        text = self._send(f"mlflow/{path}", json.dumps(query).encode()) if post else self._send(
            f"mlflow/{path}?{urlencode(query)}"
        )  # fmt: skip
        try:
            return json.loads(text)
        except ValueError as error:
            raise Unread(str(error)) from error

    def _send(self, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": "application/json"} | _authorization()
        request = urllib.request.Request(f"{self._address}/api/2.0/{path}", body, headers)  # noqa: S310 http or https
        try:
            with self._opener.open(request, timeout=SECONDS) as answer:
                return answer.read()
        except (OSError, HTTPException, ValueError) as error:  # a status of 300 or more is an OSError
            raise Unread(str(error)) from error


def _authorization() -> dict[str, str]:
    user, password = os.environ.get("MLFLOW_TRACKING_USERNAME"), os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _pairs(entries: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    return {entry["key"]: entry.get("value", "") for entry in entries or ()}


def _run(answer: Mapping[str, Any]) -> Run:
    info, data = answer["info"], answer.get("data", {})
    metrics = {metric["key"]: float(metric["value"]) for metric in data.get("metrics", ())}
    return Run(
        Info(info["run_id"], info.get("run_name", ""), info["status"], info["artifact_uri"]),
        Data(metrics, _pairs(data.get("params")), _pairs(data.get("tags"))),
    )


def _version(answer: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion(
        answer["version"],
        answer.get("source", ""),
        answer.get("run_id", ""),
        int(answer["creation_timestamp"]),
        _pairs(answer.get("tags")),
    )
