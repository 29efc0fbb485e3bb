"""A registered version as MLflow loads it: MLflow copies this file into the logged model and runs the copy (models from code).

Nothing else imports it. It fetches the weights by their digest and answers as `saferflow chat` does, token for token.
"""

import json
import re
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PythonModel, PythonModelContext

import mlflow
from saferflow.data.images import take_image
from saferflow.data.values import is_empty
from saferflow.errors import PipelineError
from saferflow.params import DataParams, load_params
from saferflow.release.weights import weights_at

if TYPE_CHECKING:  # torch and transformers take seconds: they come as a version is loaded, and not as one is registered
    from saferflow.training.chat import ChatReply, Speaker, Step


class ServedPolicy(PythonModel):
    """The policy of a version: it maps questions to answers with plan, completion and violations."""

    def load_context(self, context: PythonModelContext) -> None:
        """Fetch the weights of the logged model, check their digest, and load them.

        Raises:
            PipelineError: the weights are not there, or are not those that were registered.
            PolicyError: no policy can be loaded from them.
        """
        from saferflow.training.chat import load

        self._alone = (
            threading.Lock()
        )  # the model holds what it is drawing; MLflow's server and evaluation call from threads
        folder = Path(context.artifacts["version"])
        version = json.loads((folder / "version.json").read_text(encoding="utf-8"))
        self._params = load_params(folder / "params.yaml")
        with weights_at(version["source"], version["md5"], version["model"], project=folder, fetch=_fetch) as weights:
            self._speaker: Speaker = load(weights, self._params)

    def predict(
        self, context: PythonModelContext | None, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Answer each row by itself, greedily.

        Args:
            context: not read; the weights are loaded.
            model_input: a row per question, with `question` and, if an image goes with it, `image`: the file in base64, or as
                a `data:` address.
            params: `constrained`: decode under the plan's grammar; `trace`: write an MLflow trace per row.

        Returns:
            A row per question: `answer`, `completion`, `plan` (JSON), `valid`, and `violations`, a line each.

        Raises:
            DataError: an image is no base64, no picture, or too large.
        """
        options = {"constrained": False, "trace": False} | (params or {})
        rows = model_input.to_dict("records")
        return pd.DataFrame([self._answer(row, **options) for row in rows])

    def _answer(self, row: Mapping[str, Any], *, constrained: bool, trace: bool) -> dict[str, Any]:
        question, image = row["question"], _image(row.get("image"), self._params.data)
        traced = trace or mlflow.get_current_active_span() is not None
        whole = mlflow.start_span("answer", span_type="CHAIN") if traced else nullcontext()
        with whole as span:
            with self._alone:
                reply = self._speaker.reply(
                    image, question, constrained=constrained, step=_span if traced else _no_span
                )
            answer = _columns(reply)
            if span is not None:
                span.set_inputs({"question": question, "image": image is not None})
                span.set_outputs(answer)
        return answer


def _columns(reply: "ChatReply") -> dict[str, Any]:
    return {
        "answer": reply.response.answer or "",
        "completion": reply.completion,
        "plan": reply.plan.to_json(),
        "valid": not reply.violations,
        "violations": "\n".join(map(str, reply.violations)),
    }


def _image(value: Any, params: DataParams) -> bytes | None:
    """The image of a cell: base64 of its file, bare or as a data URI. Never a path: a server would read its own files."""
    if is_empty(value):
        return None
    written = value if re.match(r"(?i)data:", str(value)) else f"data:image;base64,{value}"
    return take_image(
        written, root=Path("/nonexistent"), max_bytes=params.max_image_bytes, max_pixels=params.max_image_pixels
    )


def _fetch(run: str, path: str, to: Path) -> Path:
    """Copy a run's artifact from the store that the process loads models from, and return the copy."""
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run, artifact_path=path, dst_path=str(to)))
    except (MlflowException, OSError) as error:
        raise PipelineError(
            f"the store at {mlflow.get_tracking_uri()} gives no artifact {path} of run {run}, where the weights are "
            f"({str(error)[:200]}); set MLFLOW_TRACKING_URI to the store that the version is registered in"
        ) from None


_span: "Step" = mlflow.start_span


def _no_span(name: str) -> nullcontext:
    return nullcontext()


mlflow.models.set_model(ServedPolicy())
