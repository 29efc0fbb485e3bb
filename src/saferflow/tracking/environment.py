"""Prepares the environment of every process of the project: places of the records, and telemetry off."""

import os
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import unquote

from dotenv import dotenv_values

from saferflow.errors import PipelineError
from saferflow.layout import HOME
from saferflow.shell import settle
from saferflow.tracking import relocation, trouble

RESERVED = "?#%"
"""Characters with a meaning in an address."""
TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}
GUARDED = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
"""Forbids files of a registered model from running code."""
QUIET = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # a bar redraws one line; a log wants whole ones
}


PATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "6"}
"""Wait two minutes for a tracker that is away (tries after 0, 4, 8, 16, 32 and 64 s); MLflow's own 7 would take four."""
HURRIED = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""For calls that can be made up later: a stage's points, closing the runs of a failed pipeline."""


def prepare(environ: MutableMapping[str, str] = os.environ, root: Path | None = None) -> None:
    """Correct the environment and fill in what is not set; call before prefect, mlflow, dvc or transformers is imported.

    Raises:
        PipelineError: the folder is not the project's, or MLflow's store cannot hold its name, or git and DVC refuse it.
    """
    settle(environ)
    root = (root or Path.cwd()).resolve()
    refuse_folder(root)
    trouble.check_checkout(root)
    records = mlflow_settings(root)
    home = root / HOME
    (home / "prefect").mkdir(parents=True, exist_ok=True)
    (home / "dvc").mkdir(mode=0o700, exist_ok=True)
    _settle(root, records)
    settings = {
        **TELEMETRY_OFF,
        **QUIET,
        **GUARDED,
        **PATIENT,
        **records,
        "PREFECT_HOME": str(home / "prefect"),
        "DVC_SITE_CACHE_DIR": str(home / "dvc"),  # its default folder is shared by all users, and DVC unpickles from it
    }
    settings.setdefault("MLFLOW_TRACKING_URI", settings["MLFLOW_BACKEND_STORE_URI"])
    for name, value in settings.items():
        environ.setdefault(name, value)


def _settle(root: Path, records: Mapping[str, str]) -> None:
    """Make this checkout's own store refer to this checkout, also after it was moved or copied here."""
    store = Path(records.get("MLFLOW_BACKEND_STORE_URI", "").removeprefix("sqlite:///"))
    artifacts = Path(unquote(records.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "").removeprefix("file://")))
    if store.is_relative_to(root) and artifacts.is_relative_to(root) and artifacts != root:
        relocation.settle(root, store, artifacts.relative_to(root).as_posix())


def refuse_folder(root: Path) -> None:
    """Refuse a folder whose path would change in the addresses of MLflow's store and artifacts.

    Raises:
        PipelineError: names the characters at fault.
    """
    odd = sorted({letter for letter in str(root) if letter in RESERVED or not letter.isprintable()})
    if odd:
        raise PipelineError(
            f"the project's path {str(root)!r:.300} holds {' '.join(map(repr, odd[:5]))}, which MLflow reads as part of an "
            "address; rename the folder, or move the project to another one"
        )


def offline(environ: MutableMapping[str, str] = os.environ) -> None:
    """Keep Hugging Face libraries off the network, for policies that are files on this machine."""
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"):
        environ.setdefault(name, "1")


def mlflow_settings(root: Path) -> dict[str, str]:
    """The variables of `mlflow/server.env`, with absolute paths.

    Raises:
        PipelineError: `root` is not the project's folder.
    """
    file = root / "mlflow" / "server.env"
    if not file.exists():
        raise PipelineError(f"{file}: no such file; run in the project's folder")
    settings = {name: value for name, value in dotenv_values(file, interpolate=False).items() if value is not None}
    store = settings.get("MLFLOW_BACKEND_STORE_URI", "")
    if store.startswith("sqlite:///") and not store.startswith("sqlite:////"):
        settings["MLFLOW_BACKEND_STORE_URI"] = f"sqlite:///{root / store.removeprefix('sqlite:///')}"
    artifacts = settings.get("MLFLOW_DEFAULT_ARTIFACT_ROOT", "")
    if artifacts and "://" not in artifacts:
        settings["MLFLOW_DEFAULT_ARTIFACT_ROOT"] = (root / artifacts).as_uri()
    return settings
