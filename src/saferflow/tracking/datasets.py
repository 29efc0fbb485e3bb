"""Logs the data that a stage read as datasets of its MLflow run, with DVC's digest and address."""

import json
from collections.abc import Mapping
from typing import Any

from saferflow.tracking.dvc_remote import dvc_address
from saferflow.tracking.runs import client

FOLDER = "data/"
CONTEXT = {"sft": "training", "dpo": "training", "grpo": "training", "evaluate": "evaluation", "gate": "evaluation"}
"""Stage -> purpose of its data, in MLflow's words; other stages prepare data."""


def log_inputs(run: str, stage: str, entry: Mapping[str, Any], commit: str) -> None:
    """Log the files and folders of data that a stage depends on.

    Args:
        entry: the stage's entry in `dvc.lock`.
        commit: the checkout's commit, whose `dvc.lock` names the same digests.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    data = [dep for dep in entry.get("deps", ()) if dep["path"].startswith(FOLDER) and dep.get("md5")]
    inputs = [
        DatasetInput(
            Dataset(
                name=dep["path"],
                digest=dep["md5"],
                source_type="dvc",
                source=json.dumps({"uri": dvc_address(dep["md5"], dep["path"]), "commit": commit}),
                profile=json.dumps({name: dep[name] for name in ("size", "nfiles") if name in dep}),
            ),
            [InputTag("mlflow.data.context", CONTEXT.get(stage, "preparation"))],
        )
        for dep in data
    ]
    if inputs:
        client().log_inputs(run, datasets=inputs)
