"""The form of an answer, and how to read it: the one JSON object in a model's text, with any fence, prose or thinking around it.

Source: ours.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from saferflow.errors import problems

SHOWN = 2000
"""Most characters of an answer's problem."""
OPENINGS = 256
"""Most braces at which an object is looked for, so that no text takes long."""
THOUGHT = re.compile(
    r"<(think|reasoning|reflection)>.*?(?:</\1>|\Z)|\[THINK\].*?(?:\[/THINK\]|\Z)"
    r"|\A\s*<(thinking|thought|analysis|scratchpad)>.*?(?:</\2>|\Z)",
    re.DOTALL | re.IGNORECASE,
)
"""Thinking before the answer; if it does not end, it hides the rest. A response's own `<thinking>` is inside JSON."""
TRAILING_COMMA = re.compile(r'("(?:\\.|[^"\\])*")|,(?=\s*[}\]])', re.DOTALL)

Form = TypeVar("Form", bound=BaseModel)


class ChoiceForm(BaseModel):
    """A form some of whose fields hold one of a few values, or a list of them.

    The server is sent the values, so that one that decodes by the schema can write no others, nor a list without end. Here any
    are read: what is wrong with others is said by `broken`.
    """

    model_config = ConfigDict(extra="forbid")

    choices: ClassVar[dict[str, Sequence[str | int]]]


class SpokenForm(BaseModel):
    """A form that a model answers in by its training: it is sent no schema, and nothing is sent back to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def spoken(cls, text: str, *, cut: bool) -> Self:
        """The form in a text, which was cut off where `cut` says so.

        Raises:
            ValueError: it is not there; the message says what is wrong.
        """
        raise NotImplementedError


@cache
def form_schema(form: type[BaseModel]) -> dict[str, Any]:
    """The form as JSON schema, without its choices; part of the key of an answer.

    The schema holds the form's docstring: a change of the docstring changes the keys, and stored answers are requested again.
    """
    return form.model_json_schema()


@cache
def sent_schema(form: type[BaseModel]) -> dict[str, Any]:
    """The form as JSON schema, with its choices."""
    schema = form.model_json_schema()
    for name, values in getattr(form, "choices", {}).items():
        field = schema["properties"][name]
        if field["type"] == "array":
            field["items"]["enum"], field["maxItems"] = list(values), len(values)
        else:
            field["enum"] = list(values)
    return schema


class Unanswered(BaseModel):
    """Stands for an answer that did not come."""

    reason: str


class Unreadable(Unanswered):
    """The model answered, and not in the form, however often it was sent back."""


class Refused(Unanswered):
    """The server refuses this row."""


def read_form(
    text: str, form: type[Form], broken: Callable[[Any], str] = lambda candidate: "", quoted: Sequence[str] = ()
) -> Form | Unreadable:
    """Read the one object of the form in a text.

    Args:
        broken: gives the problem of an object that has the form; empty where there is none.
        quoted: texts that the model was shown; an object that occurs there word for word is a quotation and no answer.
    """
    wrong, forms = "", []
    for objects in _readings(text, quoted):
        for candidate in objects:
            try:
                read = form.model_validate(candidate)
            except ValidationError as error:
                wrong = wrong or problems(error.errors(), "the whole")[0]
                continue
            if read not in forms:
                forms.append(read)
        if forms:
            break
    if not forms:
        return Unreadable(reason=(wrong or f"no JSON object in it: {text.strip()[:200]!r}")[:SHOWN])
    if len(forms) > 1:
        return Unreadable(reason=f"it holds {len(forms)} different objects of the form; send one and nothing else")
    fault = broken(forms[0])
    return Unreadable(reason=fault[:SHOWN]) if fault else forms[0]


def _readings(text: str, quoted: Sequence[str]) -> Iterator[Sequence[dict]]:
    """Yield the JSON objects of a text: the whole text; else those inside it; else those with trailing commas."""
    value = _loaded(text)
    if isinstance(value, str):  # JSON within JSON
        text, value = value, _loaded(value)
    if isinstance(value, dict):
        yield [value]
        return
    answer = THOUGHT.sub(" ", text).rpartition("</think>")[2]  # some models' prompts open the tag
    yield list(_within(answer, quoted))
    yield list(_within(TRAILING_COMMA.sub(lambda match: match[1] or "", answer), quoted))


def _within(text: str, quoted: Sequence[str]) -> Iterator[dict]:
    """Yield the outermost objects in a text, without quotations."""
    start = -1
    for _ in range(OPENINGS):
        start = text.find("{", start + 1)
        if start < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if not any(text[start:end] in quotation for quotation in quoted):
            yield value
        start = end - 1


def _loaded(text: str) -> Any:
    try:
        return _DECODER.decode(text.strip().lstrip("\ufeff"))
    except (ValueError, RecursionError):
        return None


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


_DECODER = json.JSONDecoder(strict=False, parse_constant=_no_number)
