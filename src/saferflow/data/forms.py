"""Reads a record's fields in any known form: ours, TRL's, LLaVA's, ShareGPT's, Alpaca's, and mixtures of them.

A field that the source maps is read under that name alone. Our other fields are looked up under the names in `USUAL`.
Unused fields are listed, so that nothing is dropped silently. Source: the formats as their authors publish them
(TRL's dataset formats, LLaVA-Instruct, FastChat's ShareGPT, LLaMA-Factory's data README); the code is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from saferflow.data.dialogues import ASSISTANT, USER, Dialogue, Message, decoded, is_dialogue, messages_of, transcript
from saferflow.data.media import one_picture, refuse_media, without_marks
from saferflow.data.rows import Turn
from saferflow.data.values import brief, is_empty
from saferflow.errors import DataError

USUAL = {
    "id": ("id",),
    "image": (
        "image", "images", "image_path", "image_paths", "image_file", "image_url", "img", "img_path", "picture", "file_name",
        "jpg", "jpeg", "png", "webp",
    ),
    "question": ("question", "prompt", "instruction", "query", "txt"),
    "answer": ("answer", "chosen", "completion", "response", "output"),
    "rejected": ("rejected", "rejected_response"),
    "conversation": ("messages", "conversations", "conversation"),
    "history": ("history",),
    "kind": ("kind",),
    "expected": ("expected",),
    "decision": ("decision",),
    "hazard": ("hazard",),
    "severity": ("severity",),
    "held_out": ("held_out",),
}  # fmt: skip
"""Our field -> the names to look it up under; the first one that holds something is used."""
NAMES = tuple(USUAL)
INPUT = "input"
"""Alpaca's field for text after the instruction."""
APPROVAL = ("label", "kto_tag", "is_safe", "is_response_safe")
"""Fields that say whether a response is good: TRL's and LLaMA-Factory's unpaired preference, BeaverTails'."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A record as it was understood."""

    form: str
    """The form's name, for people."""
    question: Any
    """The user's last message."""
    earlier: tuple[Turn, ...]
    answer: Any
    rejected: Any
    picture: Any
    """As `take_image` takes it; None where there is none."""
    values: Mapping[str, Any]
    """Other fields under our names, with the file's values; None where empty."""
    fields: Mapping[str, str]
    """Our field -> the file's name for it, for each used field."""
    unused: tuple[str, ...]
    """Fields that hold something and were not used, each with the reason where we know it."""


@dataclass(slots=True)
class _Fields:
    """The fields of one record, and the record of which were used."""

    held: Mapping[str, Any]
    mapping: Mapping[str, str]
    used: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    plain: dict[str, str] = field(init=False)
    """Stripped lower-case name -> the file's spelling."""

    def __post_init__(self) -> None:
        self.plain = {name.strip().casefold(): name for name in self.held if isinstance(name, str)}

    def take(self, name: str) -> Any:
        """Return a field's value by our name, and mark the field as used."""
        names = (self.mapping[name],) if name in self.mapping else map(self._written, USUAL[name])
        for theirs in names:
            taken = theirs not in self.mapping.values() or self.mapping.get(name) == theirs
            if taken and not is_empty(self.held.get(theirs)):
                self.used[name] = theirs
                return self.held[theirs]
        return None

    def _written(self, name: str) -> str:
        """The file's spelling of a name: a spreadsheet may capitalise it."""
        return name if name in self.held else self.plain.get(name, name)

    def drop(self, name: str, why: str = "") -> None:
        """Mark a field as unused."""
        theirs = self.used.pop(name)
        if why:
            self.notes.append(f"{theirs} ({why})")

    def unused(self) -> tuple[str, ...]:
        used = {*self.used.values(), *(note.split(" (")[0] for note in self.notes)}
        left = [
            str(name) or "(no name)" for name, value in self.held.items() if name not in used and not is_empty(value)
        ]
        return (*self.notes, *left)


def reading(held: Mapping[str, Any], mapping: Mapping[str, str]) -> Reading:
    """Read a record in whatever form it has.

    Args:
        held: field -> value, as the file has them.
        mapping: our name -> the file's, where the user gave one; an empty one leaves the field out.

    Raises:
        DataError: the record fits no form, or holds what a row cannot: several pictures, a video, turns out of order.
    """
    fields = _Fields(held, mapping)
    refuse_media(held, mapping)
    values = {name: fields.take(name) for name in ("id", "kind", "expected", "decision", "hazard", "severity", "held_out")}
    talk, rejected, form = _talk(fields)
    if talk is None:
        raise DataError(no_question(held, mapping))
    if "answer" in fields.used and not rejected and (bad := _disapproved(fields)):
        talk = replace(talk, answer="")
        fields.drop("answer", f"{bad} says that it is a bad one")
    if talk.system:
        fields.notes.append("system prompt (the plan writes its own)")
    picture = one_picture(decoded(fields.take("image")), talk, fields.used.get("image", ""))
    ours = fields.used.get("question") == "question"
    earlier, question = without_marks(talk, pictured=picture is not None, anywhere=not ours)
    if rejected is not None and rejected == talk.answer:
        rejected = None
        fields.drop("rejected", "it is the better answer again")
    return Reading(
        form, question, earlier, talk.answer, rejected, picture, values, dict(fields.used), fields.unused()
    )  # fmt: skip


def no_question(held: Mapping[str, Any], mapping: Mapping[str, str]) -> str:
    """The error message for a record without a question."""
    if "question" in mapping:
        return f"field {mapping['question'][:80]!r} is missing or empty{_columns(held)}"
    if not held or any(name in held for name in USUAL["question"]):
        name = next((name for name in USUAL["question"] if name in held), "question")
        return f"field {name!r} is missing or empty{_columns(held)}"
    known = {name for names in USUAL.values() for name in names}
    texts = [name for name, value in held.items() if isinstance(value, str) and value.strip() and name not in known]
    if not texts and not is_empty(held.get("chosen")):
        return (
            f"'question' is missing: chosen and rejected hold no prompt of their own{_columns(held)}. Write it into a field "
            "prompt; trl.extract_prompt does"
        )
    example = max(texts, key=lambda name: len(held[name]), default="NAME")
    return (
        f"'question' is missing{_columns(held)}. Say which field holds it: --field question={str(example)[:80]} "
        f"(and image=, answer=, rejected=, conversation= where their names are others), or so in fields of the source"
    )


def _columns(held: Mapping[str, Any]) -> str:
    names = [str(name)[:40] for name in held]
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return f"; the row's fields are {', '.join(names[:20])}{more}" if names else "; the row has no field"


def _disapproved(fields: _Fields) -> str:
    """The field that marks the response as bad; empty where none does."""
    verdicts = {"true": True, "yes": True, "false": False, "no": False}
    for name in APPROVAL:
        verdict = verdicts.get(str(fields.held.get(name)).casefold())
        if verdict is not None and name not in fields.mapping.values():
            fields.used["approval"] = name
            return "" if verdict else name
    return ""


def _talk(fields: _Fields) -> tuple[Dialogue | None, Any, str]:
    """The conversation of a record with its answer, the rejected answer, and the form."""
    question, conversation = _question(fields)
    answer, rejected = fields.take("answer"), fields.take("rejected")
    if rejected is not None and "answer" not in fields.mapping and not is_empty(fields.held.get("chosen")):
        fields.used["answer"], answer = "chosen", fields.held["chosen"]
    before, answer = _side(fields, "answer", answer)
    other, rejected = _side(fields, "rejected", rejected)
    if other and before and _spoken(other) != _spoken(before):
        raise DataError(
            f"{fields.used['answer']!r} and {fields.used['rejected']!r} answer different conversations; a pair answers one"
        )
    implicit, messages = not conversation and bool(before), before or conversation
    if not messages:
        return None, None, ""
    talk = _plain(question, messages) or Dialogue.of(messages)
    if isinstance(question, str) and not before:
        talk = replace(talk, earlier=(*_history(fields), *talk.earlier))
    if talk.answer and answer and not before:
        if rejected:
            talked = fields.used.get("conversation") or fields.used["question"]
            raise DataError(
                f"field {talked!r} ends with an answer, and {fields.used['answer']!r} is another; end it with what the user says"
            )
        fields.drop("answer")
        answer = None
    talk = replace(talk, answer=talk.answer if is_empty(answer) else answer)
    return talk, rejected, _form(fields, implicit=implicit)


def _plain(question: Any, messages: Sequence[Message]) -> Dialogue | None:
    """A question that is no conversation, unchanged, so that its reader can report what is wrong with it."""
    if messages and messages[0].text is question:
        return Dialogue("", (), question, "", ())
    return None


def _question(fields: _Fields) -> tuple[Any, list[Message]]:
    """The question if it has a field of its own (else None), and the conversation."""
    talked = (
        None if "question" in fields.mapping and "conversation" not in fields.mapping else fields.take("conversation")
    )
    if talked is not None and is_dialogue(talked):
        return None, messages_of(talked, fields.used["conversation"])
    question = fields.take("question")
    if question is None and talked is not None:
        raise DataError(
            f"field {fields.used['conversation']!r} is {brief(talked)}; a list of messages is expected, each with role and "
            "content, or from and value"
        )
    if talked is not None:
        fields.drop("conversation")
    if question is None:
        return None, []
    if is_dialogue(question):
        return None, messages_of(question, fields.used["question"])
    if isinstance(question, str) and (messages := transcript(question)):
        return None, [message for message in messages if message.text or message.role != ASSISTANT]
    behind = fields.held.get(INPUT)
    if fields.used["question"] == "instruction" and isinstance(behind, str) and behind.strip():
        fields.used["question behind"] = INPUT
        question = f"{question}\n{behind}"
    return question, [Message(USER, question)]


def _side(fields: _Fields, name: str, value: Any) -> tuple[list[Message], Any]:
    """Split a response's field into the conversation before it (empty if absent) and the response."""
    text = isinstance(value, str) and not is_dialogue(value)
    messages = transcript(value) if text else messages_of(value, fields.used[name]) if is_dialogue(value) else []
    if not messages:
        return [], value
    *before, last = messages
    if last.role != ASSISTANT:
        raise DataError(f"field {fields.used[name]!r} does not end with the assistant's answer")
    if before and before[0].role == ASSISTANT:
        raise DataError(f"field {fields.used[name]!r} holds {len(messages)} answers; one is expected")
    return before, last.text


def _spoken(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(message.role, message.text) for message in messages]


def _history(fields: _Fields) -> tuple[Turn, ...]:
    """Earlier turns as LLaMA-Factory's Alpaca form has them: a list of [user, assistant]."""
    pairs = fields.take("history")
    if pairs is None:
        return ()
    whole = isinstance(pairs, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs
    )
    if not whole:
        raise DataError(f"field {fields.used['history']!r} is {brief(pairs)}; a list of [user, assistant] is expected")
    return tuple((user, assistant) for user, assistant in pairs)


def _form(fields: _Fields, *, implicit: bool) -> str:
    """The name of a form, by the fields that were used."""
    used = fields.used
    if "conversation" in used:
        name = used["conversation"]
        if name != "conversations":
            form = f"TRL {name}" if name == "messages" else name
        else:
            pictured = any(not is_empty(fields.held.get(image)) for image in USUAL["image"])
            form = "LLaVA conversations" if pictured else "ShareGPT conversations"
        return f"{form} with a pair of answers" if "rejected" in used else form
    if implicit:
        return "TRL preference, the prompt inside both sides" if "rejected" in used else "conversation in the answer"
    plain = "plain" if isinstance(fields.held.get(used["question"]), str) else "conversational"
    names = (used["question"], used.get("answer"), used.get("rejected"))
    if names[0] == "prompt":
        kind = "preference" if names[2] else "prompt and completion" if names[1] else "prompt"
        return f"TRL {kind}, {plain}"
    if names[0] == "instruction":
        return "Alpaca instructions"
    return "question" + (" with a pair of answers" if names[2] else " and answer" if names[1] else "")
