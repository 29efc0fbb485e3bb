"""Registers the prompts of models behind servers (planner, teacher, judge) in MLflow's prompt registry, by digest.

A prompt's alias is its digest: `prompts:/saferflow-planner@sha256-1a2b3c4d`. Rules have no prompts.
"""

from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from saferflow.judge.members import members
from saferflow.params import JudgeParams, Params
from saferflow.tracking.lineage import PREFIX
from saferflow.tracking.runs import client

TAG = PREFIX + "prompt."
"""Prefix of a prompt's name in the tags of a version; the tag's value is the prompt's address."""
DIGITS = 8
MARKS, GRADES = ("marks", "structured"), ("grades",)
"""Texts of a rubric for training's judge, and for the evaluation's."""


def register(params: Params) -> dict[str, str]:
    """Register the prompts that are not registered yet.

    Returns:
        Tags for a version that used these prompts: `saferflow.prompt.NAME` -> the prompt's address.
    """
    model, tags = params.gate.registered_model, {}
    for role, text in texts(params).items():
        name, alias = f"{model}-{role}", f"sha256-{sha256(text.encode()).hexdigest()[:DIGITS]}"
        address = f"prompts:/{name}@{alias}"
        if client().load_prompt(address, allow_missing=True) is None:
            prompt = client().register_prompt(name, text)
            client().set_prompt_alias(name, alias, prompt.version)
        tags[TAG + role] = address
    return tags


def texts(params: Params) -> dict[str, str]:
    """Role -> instructions of the params' models, without the data of a row (plan, question, answer)."""
    return dict([*_writer(params), *_judge(params.judge, "judge", MARKS), *_evaluation_judges(params)])


def _writer(params: Params) -> Iterator[tuple[str, str]]:
    if params.plan.writer.kind == "rules":
        return
    from saferflow.planner import endpoint

    yield "planner", endpoint.PLANNING
    yield "labeller", endpoint.LABELLING
    yield "teacher", endpoint.TEACHING
    yield "teacher-of-given-answers", f"{endpoint.TEACHING}\n{endpoint.KEEPING}"


def _evaluation_judges(params: Params) -> Iterator[tuple[str, str]]:
    for judge in members(params.evaluate.judge).values():
        yield from _judge(judge, "evaluation-judge", GRADES)


def _judge(params: JudgeParams, role: str, forms: Iterable[str]) -> Iterator[tuple[str, str]]:
    if params.kind == "guard":
        params = params.rest
    if params.kind == "rules":
        return
    from saferflow.judge.endpoint import FENCE
    from saferflow.judge.rubric_text import RubricText

    rubric = RubricText.named(params.rubric)
    for form in forms:
        yield f"{role}-{Path(params.rubric).stem}-{form}", f"{FENCE}\n\n{getattr(rubric, form)}"
