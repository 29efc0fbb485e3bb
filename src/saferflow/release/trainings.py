"""Other trainings of a version's recipe in MLflow: the same parameters but the seed, the same data, the same code."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from saferflow.release.registry import EVALUATION_RUN, Version
from saferflow.tracking import lineage, runs

RECIPE, SEED = lineage.PREFIX + "recipe", lineage.PREFIX + "seed"
"""Tags of versions and of the runs that hold their answers."""
SEED_PARAM = "run.seed"
AFTER = {"evaluate": ("evaluate.constrained",), "gate": ()}
"""Stage after the training -> its parameters that change answers; for judges there is a check of their own."""


def tags_of(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """The tags of a complete pipeline: a digest of its recipe, and its seed.

    The recipe is each training stage's parameters without the seed and the hashes of what it reads and no stage writes: code, and
    data as it was brought. What stages write depends on the seed.

    Args:
        entries: stage -> its entry in dvc.lock.
    """
    written = [out["path"] for entry in entries.values() for out in entry.get("outs", ())]
    recipe, seeds = {}, set()
    for stage, entry in entries.items():
        values = {name: value for file in entry.get("params", {}).values() for name, value in runs.flatten(file)}
        seeds |= {values.pop(SEED_PARAM)} if SEED_PARAM in values else set()
        if stage in AFTER:
            recipe[stage] = {name: values[name] for name in AFTER[stage] if name in values}
            continue
        brought = {
            dep["path"]: dep.get("md5", "")
            for dep in entry.get("deps", ())
            if not any(f"{dep['path']}/".startswith(f"{path}/") for path in written)
        }
        recipe[stage] = {"params": values, "deps": brought}
    if len(seeds) != 1:  # stages were locked under different seeds, or under none: this is no training of one recipe
        return {}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return {RECIPE: digest, SEED: str(seeds.pop())}


def trainings_of(version: Version) -> dict[int, str]:
    """Seed -> the run that holds the answers of the recipe's training with it, by seed: the version's own, or the newest.

    Pipelines count, and experiments of `saferflow run --set`. Empty for a version from before recipes were recorded.
    """
    if RECIPE not in version.tags:
        return {}
    newest_first = runs.client().search_runs(
        [runs.experiment()],
        f"tags.`{RECIPE}` = '{version.tags[RECIPE]}' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
    )
    own = {int(version.tags[SEED]): version.tags[EVALUATION_RUN]}
    found = {int(run.data.tags[SEED]): run.info.run_id for run in reversed(newest_first)} | own
    return dict(sorted(found.items()))
