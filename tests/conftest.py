"""Switches for every test: no network, no telemetry, and no setting of the person who runs them."""

import os

from hypothesis import settings

from saferflow.tracking import environment

settings.register_profile("project", deadline=None)  # a time limit would fail on a busy machine
settings.load_profile("project")

os.environ.update(environment.TELEMETRY_OFF)
for name in [name for name in os.environ if name.startswith(("MLFLOW_", "PREFECT_"))]:
    if name not in environment.TELEMETRY_OFF:
        del os.environ[name]
environment.offline()
