"""Pipeline runs as MLflow holds them: found by what people call them, with their stages beside them."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from saferflow.errors import PipelineError
from saferflow.release import registry
from saferflow.tracking import experiments, lineage
from saferflow.tracking.runs import PARENT, client, experiment, flatten, is_mlflows

COMMIT = lineage.PREFIX + "git.commit"
EXPERIMENT = lineage.PREFIX + "experiment"
"""Tag with the name of the DVC experiment that a run is of."""
DEPENDENCY, OUTPUT = lineage.PREFIX + "dep.", lineage.PREFIX + "out."


@dataclass(frozen=True, slots=True)
class Part:
    """One stage's run."""

    run: str
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    tags: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PipelineRun:
    """A run of the whole pipeline."""

    run: str
    asked: str
    """What it was found by."""
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    stages: Mapping[str, Part]

    @property
    def params(self) -> dict[str, str]:
        """Of all stages; a stage's section is in every stage that reads it, with the same values."""
        return {name: value for part in self.stages.values() for name, value in part.params.items()}

    @property
    def files(self) -> dict[str, str]:
        """DVC hash of everything that the stages read and wrote, by path."""
        found: dict[str, str] = {}
        for part in self.stages.values():
            for kind in (DEPENDENCY, OUTPUT):
                found |= {tag.removeprefix(kind): value for tag, value in part.tags.items() if tag.startswith(kind)}
        return found

    def curve(self, stage: str, figure: str) -> list[tuple[int, float]]:
        """What a stage's trainer logged, as (step, value); of a stage from the cache what its producer logged."""
        part = self.stages.get(stage)
        if part is None:
            return []
        told = client().get_metric_history(part.tags.get(lineage.PRODUCED_BY) or part.run, figure)
        return sorted((point.step, point.value) for point in told)


def find(asked: str, model: str) -> PipelineRun:
    """A run by its MLflow id (or a stage's), a version of the registered model (`v3`), an alias, or a git revision.

    Raises:
        PipelineError: nothing is found by that name; the message says what names there are.
    """
    run = _by_version(asked, model) or _by_id(asked) or _by_commit(asked) or _by_experiment(asked)
    if run is None:
        aliases = ", ".join((registry.CHAMPION, registry.CANDIDATE, registry.PREVIOUS))
        raise PipelineError(
            f"no pipeline run is found by {asked!r}; name an MLflow run id, a version of {model} as v3, an alias "
            f"({aliases}), a DVC experiment of saferflow run --set or --ablate, or a git commit of at least 7 digits that a run "
            "was made from"
        )
    found = client().get_run(run)
    if name := found.data.tags.get(EXPERIMENT):
        stages = _of_lock(run, experiments.lock(Path.cwd(), found.data.tags[COMMIT]))
        return PipelineRun(run, name, dict(found.data.metrics), dict(found.data.tags), stages)
    children = client().search_runs(
        [experiment()], f"tags.`{PARENT}` = '{run}'", order_by=["attributes.start_time ASC"]
    )
    stages = {
        child.data.tags.get(lineage.STAGE, child.info.run_name): Part(
            child.info.run_id, dict(child.data.params), dict(child.data.metrics), dict(child.data.tags)
        )
        for child in children
    }
    return PipelineRun(run, asked, dict(found.data.metrics), dict(found.data.tags), stages)


def readers(path: str, digest: str) -> dict[str, list[str]]:
    """Stage -> its runs, the oldest first, that read a file or folder with this DVC hash and ran their code."""
    found = client().search_runs(
        [experiment()],
        f"tags.`{DEPENDENCY}{path}` = '{digest}' and tags.`{lineage.CACHED}` = 'false'",
        order_by=["attributes.start_time ASC"],
    )
    stages: dict[str, list[str]] = {}
    for run in found:
        stages.setdefault(run.data.tags.get(lineage.STAGE, run.info.run_name), []).append(run.info.run_id)
    return stages


def versions_of(paths: Collection[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Every version of these files that a run's own code has read: (path, DVC hash) -> stage -> runs, the oldest first."""
    found: dict[tuple[str, str], dict[str, list[str]]] = {}
    for path in paths:
        token = None
        while True:
            page = client().search_runs(
                [experiment()],
                f"tags.`{DEPENDENCY}{path}` LIKE '%' and tags.`{lineage.CACHED}` = 'false'",
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                stage = run.data.tags.get(lineage.STAGE, run.info.run_name)
                digest = run.data.tags[DEPENDENCY + path]
                found.setdefault((path, digest), {}).setdefault(stage, []).append(run.info.run_id)
            token = page.token
            if not token:
                break
    return found


def _of_lock(run: str, entries: Mapping[str, dict]) -> dict[str, Part]:
    """The stages of an experiment, which have no runs of their own: what dvc.lock says of them."""
    return {
        stage: Part(
            run,
            {name: str(value) for name, value in flatten(next(iter(entry.get("params", {}).values()), {}))},
            {},
            lineage.stage_tags(entry),
        )
        for stage, entry in entries.items()
    }


def _by_experiment(asked: str) -> str | None:
    found = client().search_runs(
        [experiment()],
        f"tags.`{EXPERIMENT}` = '{asked}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    ) if re.fullmatch(r"[\w.-]+", asked) else []  # fmt: skip
    return found[0].info.run_id if found else None


def _by_version(asked: str, model: str) -> str | None:
    if number := re.fullmatch(r"v(\d+)", asked):
        version = registry.by_number(model, int(number[1]))
    else:
        version = registry.by_alias(model, asked) if asked in (
            registry.CHAMPION, registry.CANDIDATE, registry.PREVIOUS
        ) else None  # fmt: skip
    return version.tags.get(registry.EVALUATION_RUN) if version else None


def _by_id(asked: str) -> str | None:
    if not re.fullmatch(r"[0-9a-f]{32}", asked):
        return None
    try:
        tags = client().get_run(asked).data.tags
    except Exception as error:
        if not is_mlflows(error):
            raise
        return None
    return asked if EXPERIMENT in tags else tags.get(PARENT, asked)


def _by_commit(asked: str) -> str | None:
    """The newest pipeline run that was made from the commit."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", asked):
        return None
    found = client().search_runs(
        [experiment()], f"tags.`{COMMIT}` LIKE '{asked}%'", order_by=["attributes.start_time DESC"], max_results=200
    )
    return next((run.info.run_id for run in found if PARENT not in run.data.tags), None)
