"""A registered version as MLflow's logged model: code, signature, example and environment, with the weights' address.

The weights stay where they are; the model names their address and digest, and fetches them as it is loaded (`served.py`).
"""

import json
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlparse

from saferflow.release import sources
from saferflow.tracking import dvc_remote
from saferflow.tracking.runs import client, experiment

CODE = Path(__file__).with_name("served.py")
REQUIREMENTS = (
    "mlflow", "dvc", "filelock", "huggingface-hub", "llguidance", "numpy", "pandas", "peft", "pillow", "psutil", "pydantic",
    "pyyaml", "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip
"""Packages that a loaded version imports, beside those that they bring."""
QUESTION = "How do I store bleach safely?"


def log(root: Path, model: str, run: str, source: str, digest: str) -> str:
    """Log a future version as a model of a run.

    Args:
        root: the checkout, whose `params.yaml` says how the policy is asked.
        model: the registered model's name.
        run: the pipeline's run.
        source: the weights' address.
        digest: DVC's hash of the weights' folder.

    Returns:
        The logged model's id.
    """
    logged = client().create_logged_model(
        experiment(), name=model, source_run_id=run, tags={"saferflow.model.md5": digest}
    )
    with TemporaryDirectory() as temporary:
        version = Path(temporary) / "version"
        _write_version(root, version, model, source, digest)
        code = Path(temporary) / "code"
        sources.copy_needed(CODE, code)
        _save(Path(temporary) / "model", version, code / sources.PACKAGE.name, logged.model_id, run)
        client().log_model_artifacts(logged.model_id, str(Path(temporary) / "model"))
    client().finalize_logged_model(logged.model_id, "READY")
    _link(run, logged.model_id)
    return logged.model_id


def _write_version(root: Path, folder: Path, model: str, source: str, digest: str) -> None:
    """Write what the loaded model reads: the params, the weights' address, and, for an address of DVC, DVC's configuration."""
    folder.mkdir()
    (folder / "params.yaml").write_bytes((root / "params.yaml").read_bytes())
    address = {"model": model, "source": source, "md5": digest}
    (folder / "version.json").write_text(json.dumps(address, indent=2), encoding="utf-8")
    if urlparse(source).scheme == "dvc":
        dvc_remote.write_config(root, folder)


def _save(folder: Path, version: Path, code: Path, model_id: str, run: str) -> None:
    import pandas as pd
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    from mlflow import pyfunc

    text = [ColSpec("string", name) for name in ("answer", "completion", "plan")]
    options = [ParamSpec(name, "boolean", default=False) for name in ("constrained", "trace")]
    signature = ModelSignature(
        Schema([ColSpec("string", "question"), ColSpec("string", "image", required=False)]),
        Schema([*text, ColSpec("boolean", "valid"), ColSpec("string", "violations")]),
        ParamSchema(options),
    )
    pyfunc.save_model(
        str(folder),
        python_model=str(CODE),
        code_paths=[str(code)],
        artifacts={"version": str(version)},
        signature=signature,
        input_example=pd.DataFrame({"question": [QUESTION]}),
        pip_requirements=requirements(),
        mlflow_model=Model(artifact_path=model_id, model_uuid=model_id, run_id=run, model_id=model_id),
    )


def requirements() -> list[str]:
    """The packages that a loaded version imports, in the versions of this environment; builds (`+cpu`) are left out."""
    return [f"{name}=={installed(name).partition('+')[0]}" for name in REQUIREMENTS]


def _link(run: str, model_id: str) -> None:
    """Show the model on the page of its run."""
    from mlflow.entities import LoggedModelOutput

    client().log_outputs(run, [LoggedModelOutput(model_id, step=0)])
