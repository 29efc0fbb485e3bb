"""A record's one picture, the marks for it in the text, and media that a row cannot hold: several pictures, video, audio.

Source: the marks are LLaVA's and LLaMA-Factory's; the code is ours.
"""

import re
from collections.abc import Mapping
from typing import Any

from saferflow.data.dialogues import Dialogue
from saferflow.data.rows import Turn
from saferflow.data.values import is_empty
from saferflow.errors import DataError

MARK = "<image>"
"""Where LLaVA and LLaMA-Factory put the picture into the text."""
NAMED = re.compile(r"<img>[^<>\n]{1,1000}</img>")
"""How Qwen-VL names the file of a picture in the text."""
MEDIA = {
    "video": ("video", "videos", "video_path", "video_url", "mp4", "avi", "mov", "webm", "mkv"),
    "audio": ("audio", "audios", "audio_path", "wav", "mp3", "flac"),
}
"""Medium that a row cannot hold -> the fields that hold it."""


def refuse_media(held: Mapping[str, Any], mapping: Mapping[str, str]) -> None:
    """Refuse a record with a video or a sound.

    Raises:
        DataError: names the field.
    """
    for name, value in held.items():
        media = next((media for media, names in MEDIA.items() if str(name).casefold() in names), "")
        if media and name not in mapping.values() and not is_empty(value):
            raise DataError(
                f"field {name!r} holds {media}; a row takes text and one picture: cut a frame out as the image and drop the "
                "field, or take the row out"
            )


def one_picture(column: Any, talk: Dialogue, field: str) -> Any:
    """The picture of a record as its file has it, or None.

    Args:
        column: what the record's field for pictures holds.
        field: the name of that field.

    Raises:
        DataError: there are several pictures, the picture belongs to a later turn, or the text refers to a missing one.
    """
    entries = column if isinstance(column, list) and not is_encoded(column) else [column]
    pictures = [entry for entry in (*entries, *talk.pictures) if not is_empty(entry)]
    if len(pictures) > 1:
        where = f"field {field!r}" if field else "the conversation"
        raise DataError(
            f"{where} holds {len(pictures)} pictures; a row takes one: keep the one that it is about, or join them in one file"
        )
    if pictures and talk.later:
        raise DataError(LATER)
    if talk.pictures and not pictures:
        raise DataError(
            "the conversation speaks of a picture, and the row holds none; say which field does: --field image="
        )
    return pictures[0] if pictures else None


LATER = "the picture stands in a later turn than the first; a row has it in the first: take the row out"


def is_encoded(values: list) -> bool:
    """Whether a list is an encoded file as a list of numbers."""
    return len(values) > 1 and all(type(value) is int for value in values)


def without_marks(talk: Dialogue, *, pictured: bool, anywhere: bool) -> tuple[tuple[Turn, ...], Any]:
    """Remove the picture's mark; returns the turns before the last question, and that question.

    Args:
        pictured: the row has a picture.
        anywhere: a mark in the middle of a text also stands for the picture; otherwise the text is about the mark.

    Raises:
        DataError: the marks and the picture do not fit.
    """
    texts = [*(user for user, _ in talk.earlier), talk.question]
    if not all(isinstance(text, str) for text in texts):
        return talk.earlier, talk.question
    for media in MEDIA:
        if any(_edged(text, f"<{media}>") for text in texts):
            raise DataError(
                f"the text speaks of {media} (<{media}>); a row takes text and one picture: take the row out"
            )
    marks = [text.count(MARK) if anywhere or _edged(text, MARK) else 0 for text in texts]
    if not pictured:
        if any(_edged(text, MARK) for text in texts):
            raise DataError(f"the text has {MARK}, and the row holds no picture; say which field does: --field image=")
        if any(NAMED.search(text) for text in texts):
            raise DataError(
                "the text names a picture, <img>...</img>; put its path into a field image and take it out here"
            )
        return talk.earlier, talk.question
    if sum(marks) > 1:
        raise DataError(f"the text has {MARK} {sum(marks)} times; a row takes one picture")
    if any(marks[1:]):
        raise DataError(LATER)
    texts[0] = _cut(texts[0]) if marks[0] else texts[0]
    return tuple(zip(texts[:-1], (answer for _, answer in talk.earlier), strict=True)), texts[-1]


def _edged(text: str, mark: str) -> bool:
    """Whether a text begins or ends with a mark; a text may be about a mark in its middle."""
    return text.strip().startswith(mark) or text.strip().endswith(mark)


def _cut(text: str) -> str:
    before, _, behind = text.partition(MARK)
    left = " ".join(part for part in (before.strip(), behind.strip()) if part)
    if not left:
        raise DataError(f"the first turn of the user is {MARK} and no word; a question is expected")
    return left
