"""Versions of the aligned policy in MLflow's registry: found by the digest of their bytes, served by alias."""

from collections.abc import Mapping
from dataclasses import dataclass

from saferflow.tracking import lineage
from saferflow.tracking.runs import client

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
MODEL_DIGEST = lineage.PREFIX + "model.md5"
EVALUATION_RUN = lineage.PREFIX + "evaluation_run"
"""The run whose artifacts hold the version's evaluated rows."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version."""

    model: str
    number: int
    source: str
    run: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


def ensure_model(model: str) -> None:
    """Make the registered model if it is not there yet."""
    if not client().search_registered_models(f"name = '{model}'", max_results=1):
        client().create_registered_model(model, description="Policies aligned by saferflow")


def by_digest(model: str, digest: str) -> Version | None:
    """The version that has exactly these bytes."""
    found = client().search_model_versions(f"name = '{model}' and tag.`{MODEL_DIGEST}` = '{digest}'", max_results=1)
    return _read(model, found[0].version) if found else None


def by_alias(model: str, alias: str) -> Version | None:
    """The version an alias points to; None where the model or the alias is not there."""
    found = client().search_registered_models(f"name = '{model}'", max_results=1)
    number = found[0].aliases.get(alias) if found else None
    return _read(model, number) if number else None


def register(model: str, source: str, run: str, tags: Mapping[str, str]) -> Version:
    """Add a version; `source` is an address, no weights go through this call."""
    made = client().create_model_version(model, source, run_id=run, tags=dict(tags), await_creation_for=0)
    return _read(model, made.version)


def retag(version: Version, tags: Mapping[str, str]) -> None:
    for name, value in tags.items():
        client().set_model_version_tag(version.model, str(version.number), name, value)


def describe(version: Version, text: str) -> None:
    """What the version's page says at its top."""
    client().update_model_version(version.model, str(version.number), text)


def point(alias: str, version: Version) -> None:
    client().set_registered_model_alias(version.model, alias, str(version.number))


def promote(version: Version) -> Version | None:
    """Make `version` the champion and the former champion `previous`; gives the former one, if it was another."""
    former = by_alias(version.model, CHAMPION)
    if former and former.number == version.number:
        return None
    if former:
        point(PREVIOUS, former)
    point(CHAMPION, version)
    return former


def _read(model: str, number: str | int) -> Version:
    raw = client().get_model_version(model, str(number))
    aliases = tuple(
        sorted(
            alias
            for alias, holder in client().get_registered_model(model).aliases.items()
            if int(holder) == int(raw.version)
        )
    )
    return Version(model, int(raw.version), raw.source, raw.run_id or "", aliases, dict(raw.tags))
