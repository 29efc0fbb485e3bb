"""Versions of the aligned policy in MLflow's registry: found by the digest of their bytes, served by alias."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from saferflow.errors import PipelineError
from saferflow.tracking import lineage
from saferflow.tracking.ledger import FILE, Move, append, move, read
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


def by_number(model: str, number: int) -> Version:
    """A version by its number.

    Raises:
        PipelineError: there is no such version.
    """
    found = client().search_model_versions(f"name = '{model}'")
    numbers = sorted(int(one.version) for one in found)
    if number not in numbers:
        there = ", ".join(map(str, numbers)) or "none"
        raise PipelineError(f"registered model {model} has no version {number}; there are: {there}")
    return _read(model, number)


def made_from(model: str, runs: Collection[str]) -> list[int]:
    """Versions whose weights or evaluation come from one of these stage runs."""
    names = [f"{lineage.PREFIX}{stage}.run" for stage in ("sft", "dpo", "curate", "grpo", "evaluate")]
    found = client().search_model_versions(f"name = '{model}'")
    return sorted(int(one.version) for one in found if any(one.tags.get(name) in runs for name in names))


def promote(version: Version, reason: str, expected: int | None, ledger: Path = FILE) -> Version | None:
    """Make `version` the champion and the former champion `previous`; gives the former one, if it was another.

    Args:
        expected: the champion that the decision was made against; None where there was none.

    Raises:
        PipelineError: another version has become champion since.
    """
    with _moving(ledger):
        former = by_alias(version.model, CHAMPION)
        if (former.number if former else None) != expected:
            now = f"version {former.number}" if former else "nobody"
            raise PipelineError(
                f"the champion of {version.model} is {now} and not {f'version {expected}' if expected else 'nobody'} any more: "
                "another promotion came first; compare with the new champion and try again"
            )
        if former and former.number == version.number:
            return None
        if former:
            _move(PREVIOUS, former, reason, ledger)
        _move(CHAMPION, version, reason, ledger)
        return former


def rollback(model: str, reason: str, ledger: Path = FILE) -> tuple[Version, Version]:
    """Make `previous` the champion again, and the champion `previous`.

    Returns:
        The new champion and the one that it replaces.

    Raises:
        PipelineError: there is no version to go back to.
    """
    with _moving(ledger):
        champion, former = by_alias(model, CHAMPION), by_alias(model, PREVIOUS)
        if champion is None or former is None:
            raise PipelineError(
                f"{model} has no {PREVIOUS if champion else CHAMPION} version, so there is nothing to go back to"
            )
        _move(CHAMPION, former, reason, ledger)
        _move(PREVIOUS, champion, reason, ledger)
        return former, champion


def settle(ledger: Path = FILE) -> list[Move]:
    """Finish moves that were cut short after they were written down; gives them."""
    with _moving(ledger) as unfinished:
        return unfinished


@contextmanager
def _moving(ledger: Path) -> Iterator[list[Move]]:
    """One process at a time moves aliases here; what an earlier one left unfinished is finished first."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{ledger}.lock"):
        last = {(one.model, one.alias): one for one in read(ledger)}
        unfinished = []
        for one in last.values():
            holder = by_alias(one.model, one.alias)
            if one.after is not None and (holder.number if holder else None) == one.before != one.after:
                point(one.alias, by_number(one.model, one.after))
                unfinished.append(one)
        yield unfinished


def _move(alias: str, version: Version, reason: str, ledger: Path) -> None:
    holder = by_alias(version.model, alias)
    append(move(version.model, alias, holder.number if holder else None, version.number, reason), ledger)
    point(alias, version)


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
