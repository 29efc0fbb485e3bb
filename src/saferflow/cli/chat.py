"""One question to a policy, on the terminal: plan, trace with the check's verdict, answer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.errors import DataError, PolicyError
from saferflow.params import Params
from saferflow.tracking import registry
from saferflow.tracking.weights import weights_of


def converse(
    root: Path, params: Params, image: str, question: str, policy: str, *, constrained: bool, drawing: Path | None
) -> None:
    """Print what the policy makes of the question.

    Args:
        constrained: decode under the plan's grammar.
        drawing: where the plan's graph with the trace's path on it goes, as SVG.

    Raises:
        DataError: the image cannot be read.
        PolicyError: the policy has not been made yet.
        PipelineError: the champion's files are not there, or are not what was registered.
    """
    picture = None if image == "-" else _read(Path(image), params.data.max_image_bytes)
    with _weights(root, params, policy) as model:
        from saferflow.training.chat import respond

        reply = respond(model, picture, question, params, constrained=constrained)
    console = Console(highlight=False)
    plan = reply.plan
    console.print(Text("plan", "bold"))
    console.print(Text(f"  hazard {plan.hazard}, severity {plan.severity}, persona {plan.persona}, {plan.topology}"))
    console.print(Text(f"  tools {', '.join(plan.tools)}"))
    console.print(Text("completion", "bold"))
    console.print(Text(reply.completion))
    if reply.violations:
        console.print(Text(f"check: {len(reply.violations)} violations", "bold red"))
        for violation in reply.violations:
            console.print(Text(f"  {violation}"))
    else:
        console.print(Text("check: valid", "bold green"))
    console.print(Text("answer", "bold"))
    console.print(Text(reply.response.answer or "(none)"))
    if drawing:
        from saferflow.evaluation.drawing import draw

        drawing.write_text(draw(plan, reply.completion), encoding="utf-8")
        console.print(Text(f"drawn: {drawing}"))


def _read(path: Path, limit: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > limit:
            raise DataError(f"{path}: {size} bytes; data.max_image_bytes allows {limit}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; give an image file, or - for none") from None


@contextmanager
def _weights(root: Path, params: Params, policy: str) -> Iterator[Path]:
    """The folder of a stage's policy or of the champion, for the block."""
    if policy != registry.CHAMPION:
        model = root / "models" / policy
        if not model.is_dir():
            raise PolicyError(f"{model} is not there yet; make it with: saferflow run")
        yield model
        return
    version = registry.by_alias(params.gate.registered_model, registry.CHAMPION)
    if version is None:
        raise PolicyError("there is no champion yet: no version passed the gate; try --policy grpo")
    with weights_of(version) as held:
        yield held
