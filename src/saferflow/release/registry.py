"""Versions of the aligned policy in MLflow's registry: found by the digest of their bytes, served by alias."""

import os
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock

from saferflow.errors import PipelineError
from saferflow.layout import HOME
from saferflow.release import ledger
from saferflow.release.ledger import Line, Moves, Witness
from saferflow.tracking import lineage
from saferflow.tracking.runs import client

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous"
SHAPING = ("sft", "dpo", "curate", "grpo", "evaluate")
"""Stages whose runs a version names: they read rows for it."""
MODEL_DIGEST = lineage.PREFIX + "model.md5"
EVALUATION_RUN = lineage.PREFIX + "evaluation_run"
"""The run whose artifacts hold the version's evaluated rows."""
COMPARISON = "champion_comparison.json"
"""The artifact of that run that compares the version with the champion."""
WEIGHTS = lineage.PREFIX + "model.source"
"""Tag with the weights' address, for a version whose own address is its logged model."""
DESCRIPTION_CHARS = 5000
"""The longest description of a version that MLflow's databases hold; PostgreSQL refuses more, SQLite takes it."""


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version."""

    model: str
    number: int
    source: str
    """Address of the weights."""
    run: str
    aliases: tuple[str, ...]
    tags: Mapping[str, str]


def ensure_model(model: str) -> None:
    """Create the registered model if it does not exist."""
    if not client().search_registered_models(f"name = '{model}'", max_results=1):
        client().create_registered_model(model, description="Policies aligned by saferflow")


def by_digest(model: str, digest: str) -> Version | None:
    """The version with this digest of its bytes; None if there is none."""
    versions = client().search_model_versions(f"name = '{model}' and tag.`{MODEL_DIGEST}` = '{digest}'", max_results=1)
    return _read(model, versions[0].version) if versions else None


def by_alias(model: str, alias: str) -> Version | None:
    """The version that an alias points to; None if the model or the alias does not exist."""
    models = client().search_registered_models(f"name = '{model}'", max_results=1)
    number = models[0].aliases.get(alias) if models else None
    return _read(model, number) if number else None


def register(model: str, source: str, run: str, tags: Mapping[str, str], logged: str | None = None) -> Version:
    """Add a version; `source` is an address, so this call copies no weights.

    Args:
        run: the run that the version's page links to, unless the weights are a run's artifact; then it links to that run.
        logged: the id of the version's logged model, which `models:/NAME/VERSION` then loads; it fetches the weights itself.
    """
    run = source.removeprefix("runs:/").partition("/")[0] if source.startswith("runs:/") else run
    address = f"models:/{logged}" if logged else source
    tags = {**tags, WEIGHTS: source} if logged else dict(tags)
    added = client().create_model_version(model, address, run_id=run, tags=tags, await_creation_for=0, model_id=logged)
    return _read(model, added.version)


def retag(version: Version, tags: Mapping[str, str]) -> None:
    """Set tags of a version; others stay."""
    for name, value in tags.items():
        client().set_model_version_tag(version.model, str(version.number), name, value)


def describe(version: Version, text: str, whole: str) -> None:
    """Set the text at the top of the version's page.

    Args:
        whole: where the full text is; a shortened text ends with it.
    """
    if len(text) > DESCRIPTION_CHARS:
        more = f"\n\n*The rest: {whole}.*\n"
        text = text[: DESCRIPTION_CHARS - len(more)].rpartition("\n")[0] + more
    client().update_model_version(version.model, str(version.number), text)


def by_number(model: str, number: int) -> Version:
    """A version by its number.

    Raises:
        PipelineError: there is no such version.
    """
    versions = client().search_model_versions(f"name = '{model}'")
    numbers = sorted(int(version.version) for version in versions)
    if number not in numbers:
        there = ", ".join(map(str, numbers)) or "none"
        raise PipelineError(f"registered model {model} has no version {number}; there are: {there}")
    return _read(model, number)


def named(model: str, reference: str) -> Version:
    """A version by its number, as `3` or `v3`, or by an alias.

    Raises:
        PipelineError: there is no such version.
    """
    if number := number_in(reference):
        return by_number(model, number)
    version = by_alias(model, reference)
    if version is None:
        aliases = ", ".join((CHAMPION, CANDIDATE, PREVIOUS))
        raise PipelineError(
            f"{model} has no version {reference!r}; name one as v3, or an alias that is set ({aliases})"
        )
    return version


def number_in(reference: str) -> int | None:
    """The number that `3` or `v3` names; None for an alias."""
    number = re.fullmatch(r"v?(\d+)", reference)
    return int(number[1]) if number else None


def registered_at(version: Version) -> float:
    """The time at which a version was registered, in seconds since 1970."""
    return client().get_model_version(version.model, str(version.number)).creation_timestamp / 1000


def versions_from_runs(model: str, runs: Collection[str]) -> list[int]:
    """Numbers of the versions whose weights or evaluation come from one of these stage runs, sorted."""
    names = [f"{lineage.PREFIX}{stage}.run" for stage in SHAPING]
    versions = client().search_model_versions(f"name = '{model}'")
    return sorted(int(version.version) for version in versions if any(version.tags.get(name) in runs for name in names))


def nominate(version: Version) -> None:
    """Make `version` the candidate."""
    with _moving(version.model) as lines:
        held = _aliases(version.model).get(CANDIDATE)
        if held != version.number:
            _move(version.model, lines, {CANDIDATE: (held, version.number)}, "the pipeline's newest")


def promote(version: Version, reason: str, expected: int | None) -> Version | None:
    """Make `version` the champion and the former champion `previous`; return the former champion, None if it is the same.

    Args:
        expected: the champion that the decision was made against; None where there was none.

    Raises:
        PipelineError: another version has become champion since.
    """
    model = version.model
    with _moving(model) as lines:
        held = _aliases(model)
        champion = held.get(CHAMPION)
        if champion != expected:
            now = f"version {champion}" if champion else "nobody"
            raise PipelineError(
                f"the champion of {model} is {now} and not {f'version {expected}' if expected else 'nobody'} any more: "
                "another promotion came first; compare with the new champion and try again"
            )
        if champion == version.number:
            return None
        moves: Moves = {CHAMPION: (champion, version.number)}
        if champion:
            moves[PREVIOUS] = (held.get(PREVIOUS), champion)
        _move(model, lines, moves, reason)
        return by_number(model, champion) if champion else None


def rollback(model: str, reason: str) -> tuple[Version, Version]:
    """Make `previous` the champion again, and the champion `previous`.

    Returns:
        The new champion and the one that it replaces.

    Raises:
        PipelineError: there is no version to go back to.
    """
    with _moving(model) as lines:
        held = _aliases(model)
        champion, former = held.get(CHAMPION), held.get(PREVIOUS)
        if champion is None or former is None:
            raise PipelineError(
                f"{model} has no {PREVIOUS if champion else CHAMPION} version, so there is nothing to go back to"
            )
        _move(model, lines, {CHAMPION: (champion, former), PREVIOUS: (former, champion)}, reason)
        return by_number(model, former), by_number(model, champion)


def history(model: str) -> tuple[list[Line], Moves]:
    """Every change of the model's aliases, the oldest first; a move that was cut short is finished first.

    Returns:
        The lines, and the aliases that somebody moved by hand: alias -> (the version in the ledger, the version in MLflow).
        These aliases stay where they are.

    Raises:
        PipelineError: a line was changed, or lines are lost.
    """
    with _moving(model) as lines:
        held = _aliases(model)
        recorded = {alias: after for line in lines for alias, (_, after) in line.moves.items()}
        return lines, {alias: (after, held.get(alias)) for alias, after in recorded.items() if held.get(alias) != after}


@contextmanager
def _moving(model: str) -> Iterator[list[Line]]:
    """Hold the checkout's lock on aliases, finish a move that an earlier process wrote down, and yield the ledger's lines."""
    HOME.mkdir(parents=True, exist_ok=True)
    with FileLock(HOME / "registry.lock"):
        tags = _tags(model)
        lines = ledger.read(tags)
        _witness(model).check(lines)
        if lines and tags.get(ledger.DONE) != lines[-1].hash:
            held = _aliases(model)
            left = {alias: move for alias, move in lines[-1].moves.items() if held.get(alias) == move[0]}
            _do(model, lines[-1], left)
        yield lines


def _move(model: str, lines: list[Line], moves: Moves, reason: str) -> None:
    """Write the moves to the ledger as one line, then carry them out.

    Raises:
        PipelineError: another checkout wrote a line at the same moment.
    """
    line, name = ledger.line_after(lines, moves, reason), ledger.key(len(lines) + 1)
    if name in _tags(model):
        raise PipelineError(f"another promotion of {model} came first, from another checkout; try again")
    client().set_registered_model_tag(model, name, line.to_json())
    if _tags(model)[name] != line.to_json():
        raise PipelineError(
            f"another promotion of {model} came at the same moment, from another checkout; nothing was moved"
        )
    lines.append(line)
    _witness(model).check(lines)
    _do(model, line, moves)


def _do(model: str, line: Line, moves: Moves) -> None:
    for alias, (_, after) in moves.items():
        client().set_registered_model_alias(model, alias, str(after))
    client().set_registered_model_tag(model, ledger.DONE, line.hash)


def _witness(model: str) -> Witness:
    return Witness(HOME / "ledgers.json", f"{os.environ.get('MLFLOW_TRACKING_URI', 'the registry')} {model}")


def _tags(model: str) -> dict[str, str]:
    models = client().search_registered_models(f"name = '{model}'", max_results=1)
    return dict(client().get_registered_model(model).tags) if models else {}


def _aliases(model: str) -> dict[str, int]:
    models = client().search_registered_models(f"name = '{model}'", max_results=1)
    return {alias: int(number) for alias, number in models[0].aliases.items()} if models else {}


def _read(model: str, number: str | int) -> Version:
    raw = client().get_model_version(model, str(number))
    aliases = tuple(
        sorted(
            alias
            for alias, holder in client().get_registered_model(model).aliases.items()
            if int(holder) == int(raw.version)
        )
    )
    source = raw.tags.get(WEIGHTS, raw.source)
    return Version(model, int(raw.version), source, raw.run_id or "", aliases, dict(raw.tags))
