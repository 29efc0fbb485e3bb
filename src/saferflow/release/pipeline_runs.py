"""Pipeline runs in MLflow, with their stages; a person's reference (id, version, alias, commit) finds them."""

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
    reference: str
    """The id, version, alias, experiment or commit that `find` got."""
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    stages: Mapping[str, Part]

    @property
    def params(self) -> dict[str, str]:
        """Parameters of all stages; each stage that reads a section has the same values of it."""
        return {name: value for part in self.stages.values() for name, value in part.params.items()}

    @property
    def files(self) -> dict[str, str]:
        """Path of each input and output of the stages -> DVC's hash."""
        digests: dict[str, str] = {}
        for part in self.stages.values():
            for kind in (DEPENDENCY, OUTPUT):
                digests |= {tag.removeprefix(kind): value for tag, value in part.tags.items() if tag.startswith(kind)}
        return digests

    def curve(self, stage: str, figure: str) -> list[tuple[int, float]]:
        """A figure that a stage's trainer logged, as (step, value); for a cached stage, what its producer logged."""
        part = self.stages.get(stage)
        if part is None:
            return []
        history = client().get_metric_history(part.tags.get(lineage.PRODUCED_BY) or part.run, figure)
        return sorted((point.step, point.value) for point in history)


def find(reference: str, model: str) -> PipelineRun:
    """The pipeline run of a reference: an MLflow id (also a stage's), a version (`v3`), an alias, an experiment, or a git commit.

    Raises:
        PipelineError: no run has this reference; the message lists the kinds of reference.
    """
    run = _by_version(reference, model) or _by_id(reference) or _by_commit(reference) or _by_experiment(reference)
    if run is None:
        aliases = ", ".join((registry.CHAMPION, registry.CANDIDATE, registry.PREVIOUS))
        raise PipelineError(
            f"no pipeline run is found by {reference!r}; name an MLflow run id, a version of {model} as v3, an alias "
            f"({aliases}), a DVC experiment of saferflow run --set or --ablate, or a git commit of at least 7 digits that a run "
            "was made from"
        )
    parent = client().get_run(run)
    if name := parent.data.tags.get(EXPERIMENT):
        stages = _of_lock(run, experiments.lock(Path.cwd(), parent.data.tags[COMMIT]))
        return PipelineRun(run, name, dict(parent.data.metrics), dict(parent.data.tags), stages)
    children = client().search_runs(
        [experiment()], f"tags.`{PARENT}` = '{run}'", order_by=["attributes.start_time ASC"]
    )
    stages = {
        child.data.tags.get(lineage.STAGE, child.info.run_name): Part(
            child.info.run_id, dict(child.data.params), dict(child.data.metrics), dict(child.data.tags)
        )
        for child in children
    }
    return PipelineRun(run, reference, dict(parent.data.metrics), dict(parent.data.tags), stages)


def readers(path: str, digest: str) -> dict[str, list[str]]:
    """Stage -> its runs that read a file or folder with this DVC hash and ran their code, the oldest first."""
    reading_runs = client().search_runs(
        [experiment()],
        f"tags.`{DEPENDENCY}{path}` = '{digest}' and tags.`{lineage.CACHED}` = 'false'",
        order_by=["attributes.start_time ASC"],
    )
    stages: dict[str, list[str]] = {}
    for run in reading_runs:
        stages.setdefault(run.data.tags.get(lineage.STAGE, run.info.run_name), []).append(run.info.run_id)
    return stages


def versions_of(paths: Collection[str]) -> dict[tuple[str, str], dict[str, list[str]]]:
    """Each version of these files that a run's code has read: (path, DVC hash) -> stage -> runs, the oldest first."""
    versions: dict[tuple[str, str], dict[str, list[str]]] = {}
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
                versions.setdefault((path, digest), {}).setdefault(stage, []).append(run.info.run_id)
            token = page.token
            if not token:
                break
    return versions


def _of_lock(run: str, entries: Mapping[str, dict]) -> dict[str, Part]:
    """The stages of an experiment from its dvc.lock, since they have no MLflow runs."""
    return {
        stage: Part(
            run,
            {name: str(value) for name, value in flatten(next(iter(entry.get("params", {}).values()), {}))},
            {},
            lineage.stage_tags(entry),
        )
        for stage, entry in entries.items()
    }


def _by_experiment(reference: str) -> str | None:
    newest = client().search_runs(
        [experiment()],
        f"tags.`{EXPERIMENT}` = '{reference}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    ) if re.fullmatch(r"[\w.-]+", reference) else []  # fmt: skip
    return newest[0].info.run_id if newest else None


def _by_version(reference: str, model: str) -> str | None:
    if number := re.fullmatch(r"v(\d+)", reference):
        version = registry.by_number(model, int(number[1]))
    else:
        version = registry.by_alias(model, reference) if reference in (
            registry.CHAMPION, registry.CANDIDATE, registry.PREVIOUS
        ) else None  # fmt: skip
    return version.tags.get(registry.EVALUATION_RUN) if version else None


def _by_id(reference: str) -> str | None:
    if not re.fullmatch(r"[0-9a-f]{32}", reference):
        return None
    try:
        tags = client().get_run(reference).data.tags
    except Exception as error:
        if not is_mlflows(error):
            raise
        return None
    return reference if EXPERIMENT in tags else tags.get(PARENT, reference)


def _by_commit(reference: str) -> str | None:
    """The newest pipeline run that was made from the commit."""
    if not re.fullmatch(r"[0-9a-f]{7,40}", reference):
        return None
    candidates = client().search_runs(
        [experiment()], f"tags.`{COMMIT}` LIKE '{reference}%'", order_by=["attributes.start_time DESC"], max_results=200
    )
    return next((run.info.run_id for run in candidates if PARENT not in run.data.tags), None)
