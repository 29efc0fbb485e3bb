"""One question to a policy, on the terminal: plan, trace with the check's verdict, answer."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from rich.console import Console
from rich.text import Text

from saferflow.errors import DataError, PolicyError
from saferflow.params import Params
from saferflow.release import registry
from saferflow.release.weights import weights_of


def converse(
    root: Path, params: Params, image: str, question: str, policy: str, *, constrained: bool, drawing: Path | None
) -> None:
    """Print the policy's plan, completion, violations and answer for a question.

    Args:
        constrained: decode under the plan's grammar.
        drawing: SVG file for the plan's graph with the trace's path; None writes none.

    Raises:
        DataError: the image cannot be read.
        PolicyError: the policy does not exist yet.
        PipelineError: the champion's files are missing, or are not what was registered.
    """
    picture = None if image == "-" else _read(Path(image), params.data.max_image_bytes)
    console = Console(highlight=False)
    with ExitStack() as held:
        with console.status("loading the policy"):
            folder = held.enter_context(_weights(root, params, policy))
            from saferflow.protocol.check import check
            from saferflow.protocol.trace import parse
            from saferflow.training.chat import load

            speaker = load(folder, params)
        plan = speaker.plan(picture, question)
        about = f"hazard {plan.hazard}, severity {plan.severity}, persona {plan.persona}, {plan.topology}"
        console.print(Text("plan", "bold"), Text(f"  {about}"), Text(f"  tools {', '.join(plan.tools)}"), sep="\n")
        console.print(Text("completion", "bold"))
        hear = _Typed(console).show if console.is_terminal else None
        completion = speaker.complete(plan, picture, question, constrained=constrained, hear=hear)
    console.print(Text("" if hear else completion))  # what was typed lacks the end of its last line
    if violations := check(plan, completion):
        console.print(Text(f"check: {len(violations)} violations", "bold red"))
        for violation in violations:
            console.print(Text(f"  {violation}"))
    else:
        console.print(Text("check: valid", "bold green"))
    console.print(Text("answer", "bold"))
    console.print(Text(parse(completion).answer or "(none)"))
    if drawing:
        from saferflow.evaluation.drawing import draw

        drawing.write_text(draw(plan, completion), encoding="utf-8")
        console.print(Text(f"drawn: {drawing}"))


class _Typed:
    """Prints a completion on a terminal while the policy draws it."""

    def __init__(self, console: Console):
        self._console, self._shown = console, 0

    def show(self, text: str) -> None:
        """Print the new end of the text; an incomplete last character waits for its remaining bytes."""
        whole = text.rstrip("\N{REPLACEMENT CHARACTER}")
        self._console.print(Text(whole[self._shown :]), end="")
        self._shown = max(self._shown, len(whole))


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
    """Yield the folder of a stage's policy or of the champion."""
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
