"""The results of readers of MLflow's store: the fields of MLflow's entities that the project reads, under MLflow's names."""

from collections.abc import Mapping
from dataclasses import dataclass


class Unread(Exception):
    """A reader cannot answer exactly as MLflow would; MLflow's own client has to."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment."""

    experiment_id: str
    lifecycle_stage: str
    """`active` or `deleted`."""


@dataclass(frozen=True, slots=True)
class Info:
    """A run without its logged values."""

    run_id: str
    run_name: str
    status: str
    artifact_uri: str


@dataclass(frozen=True, slots=True)
class Data:
    """The values that a run logged; the last one of each metric."""

    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Run:
    """A run."""

    info: Info
    data: Data


@dataclass(frozen=True, slots=True)
class Point:
    """A value of a metric."""

    step: int
    value: float


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model."""

    name: str
    tags: Mapping[str, str]
    aliases: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version of a registered model."""

    version: str
    source: str
    run_id: str
    creation_timestamp: int
    """Milliseconds since 1970."""
    tags: Mapping[str, str]
