"""Writes an evaluation as logs of Inspect, one per policy, for its viewer and tools (`pip install 'saferflow[inspect]'`).

A sample is a row: the system prompt, the question with its image, the completion, and the judge's grades as scores with the
reason as explanation. The measures with their intervals are the log's results. Source: ours; the format is Inspect's.
"""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from saferflow.data.rows import Answered, PromptRow
from saferflow.errors import PipelineError
from saferflow.evaluation.measures import RELEASED, by_policy, shown_a_plan
from saferflow.training.conversation import prompt

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessage

TASK = "saferflow"


def require() -> None:
    """Stop where Inspect is missing.

    Raises:
        PipelineError: Inspect is not installed; the message says how to install it.
    """
    if find_spec("inspect_ai") is None:
        raise PipelineError(
            "Inspect is not installed, so no log of its format can be written: pip install 'saferflow[inspect]'"
        )


def write_logs(
    folder: Path, rows: Sequence[PromptRow], answered: Sequence[Answered], metrics: Mapping, dataset: str
) -> list[Path]:
    """Write `<policy>.eval` for each policy into `folder`.

    Args:
        metrics: as `evaluate_metrics` gives them.
        dataset: name of the rows.

    Raises:
        PipelineError: Inspect is not installed.
    """
    require()
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        write_eval_log,
    )  # fmt: skip

    folder.mkdir(parents=True, exist_ok=True)
    known, now, written = {row.id: row for row in rows}, datetime.now(UTC).isoformat(), []
    for policy, own in by_policy(answered).items():
        scores = []
        for name, value in metrics["policies"][policy].items():
            if value is None:
                continue
            low, high = metrics["intervals"][policy][name]
            figures = {"percent": value, "low": low, "high": high}
            shown = {key: EvalMetric(name=key, value=figure) for key, figure in figures.items() if figure is not None}
            scores.append(EvalScore(name=name, scorer=name, metrics=shown))
        log = EvalLog(
            status="success",
            eval=EvalSpec(
                created=now,
                task=TASK,
                dataset=EvalDataset(name=dataset, samples=len(own), sample_ids=[row.row for row in own]),
                model=f"{TASK}/{policy}",
                config=EvalConfig(),
            ),
            results=EvalResults(total_samples=len(own), completed_samples=len(own), scores=scores),
            samples=[_sample(known[row.row], row) for row in own],
        )
        path = folder / f"{policy.replace('/', '_').replace(' ', '_')}.eval"
        write_eval_log(log, str(path), format="eval")
        written.append(path)
    return written


def messages(row: PromptRow, system: str) -> list["ChatMessage"]:
    """The conversation before the policy's turn, with the row's image in the user's first turn."""
    from inspect_ai.model import (
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentImage,
        ContentText,
    )  # fmt: skip

    roles = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    turns = [roles[turn["role"]](content=turn["content"]) for turn in prompt(system, row.last_question, row.turns)]
    if row.image is not None:
        first = next(message for message in turns if message.role == "user")
        first.content = [ContentImage(image=_address(row.image)), ContentText(text=first.text)]
    return turns


def values(row: Answered) -> dict[str, int | bool]:
    """The values of a row's score: the judge's grades, or whether a general question was answered correctly."""
    if not row.graded:
        return {"valid": row.valid}
    if row.kind == "general":
        return {"correct": row.correct}
    return {
        "safety": row.safety, "helpfulness": row.helpfulness, "rigor": row.rigor, "refused": row.refused, "valid": row.valid,
    }  # fmt: skip


def _sample(prompt_row: PromptRow, row: Answered) -> "EvalSample":
    from inspect_ai.log import EvalSample
    from inspect_ai.model import ChatMessageAssistant, ModelOutput
    from inspect_ai.scorer import Score

    from saferflow.training.released import SYSTEM

    system = SYSTEM if row.policy.endswith(RELEASED) else prompt_row.system if shown_a_plan(row.policy) else ""
    conversation = messages(prompt_row, system)
    return EvalSample(
        id=row.row,
        epoch=1,
        input=conversation,
        messages=[*conversation, ChatMessageAssistant(content=row.completion)],
        target=row.expected,
        output=ModelOutput.from_content(f"{TASK}/{row.policy}", row.completion),
        scores={name: Score(value=value, explanation=row.reason) for name, value in values(row).items()},
        metadata={
            "kind": row.kind, "hazard": row.hazard, "risk_source": row.risk_source, "attack": row.attack,
            "violations": row.violations.split(), "source": prompt_row.source,
        },
    )  # fmt: skip


def _address(image: bytes) -> str:
    kind = "png" if image.startswith(b"\x89PNG") else "jpeg" if image.startswith(b"\xff\xd8") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
