"""Versions of the data, as runs of stage `validate` hold them: their profiles, and the drift between two of them."""

import json
import tempfile
from contextlib import suppress
from pathlib import Path

from saferflow.data.profile import Profile, Shift, drift
from saferflow.errors import PipelineError
from saferflow.layout import PROFILE
from saferflow.release.pipeline_runs import OUTPUT
from saferflow.release.registry import Version
from saferflow.tracking import lineage
from saferflow.tracking.runs import client, experiment, fetch_artifact

NEWEST = 200
"""The most runs that are searched for a former version."""


def profile_in(root: Path) -> dict[str, Profile]:
    """The profile of the tables in this checkout.

    Raises:
        PipelineError: stage `validate` has not run here.
    """
    try:
        return json.loads((root / PROFILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise PipelineError(f"{root / PROFILE} is not there; saferflow run makes it in stage validate") from None


def profile_of(run: str) -> dict[str, Profile]:
    """The profile that a run of stage `validate` holds.

    Raises:
        PipelineError: the run holds none.
    """
    with tempfile.TemporaryDirectory() as folder:
        return json.loads(fetch_artifact(run, PROFILE.name, Path(folder)).read_text(encoding="utf-8"))


def profile_behind(version: Version) -> dict[str, Profile] | None:
    """The profile of a version's training tables; None if no run holds it any more."""
    run = version.tags.get(f"{lineage.PREFIX}validate.run")
    if run is None:
        return None
    with suppress(PipelineError):
        tags = client().get_run(run).data.tags
        return profile_of(tags.get(lineage.PRODUCED_BY) or run)
    return None


def former(profile: dict[str, Profile]) -> str | None:
    """The newest run of stage `validate` whose profile differs from this one; None if there is none."""
    validate_runs = client().search_runs(
        [experiment()],
        f"tags.`{lineage.STAGE}` = 'validate' and tags.`{lineage.CACHED}` = 'false' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=NEWEST,
    )
    seen = set()
    for run in validate_runs:
        digest = run.data.tags.get(OUTPUT + str(PROFILE), "")
        if not digest or digest in seen:
            continue
        seen.add(digest)
        with suppress(PipelineError):  # its artifact is gone: an older one will do
            if profile_of(run.info.run_id) != profile:
                return run.info.run_id
    return None


def shifts(profile: dict[str, Profile], run: str) -> list[Shift]:
    """The shifts from a run's profile to this one, the largest first."""
    return drift(profile_of(run), profile)
