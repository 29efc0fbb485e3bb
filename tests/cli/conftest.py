"""A policy as a stage makes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def policy(tmp_path_factory):
    """The micro profile's base policy, made by its stage and not trained to speak of."""
    folder = tmp_path_factory.mktemp("weights")
    raw = yaml.safe_load((ROOT / "profiles" / "micro.yaml").read_text(encoding="utf-8"))
    raw["base"] |= {"rows": 64}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-m", "saferflow.stages.base"], cwd=folder, env=environ, check=True, capture_output=True
    )
    return folder / "models" / "base"
