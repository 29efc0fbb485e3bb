"""Encodes text as token ids, the only place that does; no text of a message becomes a control token.

A chat template joins its own control tokens (`<|im_start|>`, `<|image_pad|>`, ...) and the texts of the messages into one
string. `quoted` puts an invisible mark behind each character of a message that could begin a control token, before the
template is rendered; `token_ids` finds the control tokens of the template, which have no mark, takes the marks away, and
encodes all that stands between by the tokenizer's vocabulary without its added tokens. A message cannot bring a control
token, neither whole nor in parts that the template joins, and a text without one has the ids that it had before.

Source: ours. transformers' `sanitize_control_tokens` marks whole tokens alone, leaves those that the template does not write
(`<tool_call>`), and works only where rendering and tokenizing are one call, which they are not in TRL's collators.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from saferflow.errors import PolicyError

MARK = "\ufdd0"
"""A noncharacter, which Unicode reserves for use inside programs; a mark in a text is doubled."""


class Reader(NamedTuple):
    """The parts of a tokenizer."""

    control: dict[str, int]
    """Added token, special or not -> id."""
    pattern: re.Pattern[str]
    """Matches an added token, the longest first."""
    begins: re.Pattern[str]
    """Matches the first character of an added token, or a mark."""
    plain: Tokenizer
    """The tokenizer without its added tokens."""
    special: frozenset[int]
    """The ids in `control` that a text must never become."""


@lru_cache(maxsize=4)
def reader(tokenizer: PreTrainedTokenizerBase) -> Reader:
    """The parts of a tokenizer; building them for 150,000 words takes about a second."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    control = {token["content"]: token["id"] for token in described["added_tokens"]}
    special = frozenset(token["id"] for token in described["added_tokens"] if token["special"])
    longest_first = sorted(control, key=len, reverse=True)
    pattern = re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
    begins = re.compile(f"[{''.join(map(re.escape, sorted({MARK, *(token[0] for token in control)})))}]")
    unpadded = {**described, "added_tokens": [], "padding": None, "truncation": None, "post_processor": None}
    return Reader(control, pattern, begins, Tokenizer.from_str(json.dumps(unpadded)), special)


def quoted(tokenizer: PreTrainedTokenizerBase, messages: Any) -> Any:
    """The messages with a mark in each text, so that no control token is read in it; other values stay.

    Args:
        messages: a text, or lists and dictionaries that hold texts: conversations, tools, documents.
    """
    if isinstance(messages, str):
        return reader(tokenizer).begins.sub(lambda match: match[0] + MARK, messages)
    if isinstance(messages, dict):
        return {quoted(tokenizer, name): quoted(tokenizer, value) for name, value in messages.items()}
    if isinstance(messages, list | tuple):
        return [quoted(tokenizer, value) for value in messages]
    return messages


def unquoted(text: str) -> str:
    """The text before `quoted`, also if a template joined several."""
    return re.sub(f"{MARK}({MARK}?)", r"\1", text)


def token_ids(tokenizer: PreTrainedTokenizerBase, rendered: Iterable[str]) -> list[list[int]]:
    """The token ids of conversations that a chat template rendered from quoted messages, one list per conversation.

    Raises:
        PolicyError: the tokenizer's vocabulary holds a control token, so that a text could become one.
    """
    read = reader(tokenizer)
    pieces = [read.pattern.split(text) for text in rendered]  # text, token, text, token, ..., text
    encoded = iter(text_ids(tokenizer, [unquoted(piece) for parts in pieces for piece in parts[::2]]))
    id_lists = []
    for parts in pieces:
        ids: list[int] = []
        for number, piece in enumerate(parts):
            ids += [read.control[piece]] if number % 2 else next(encoded)
        id_lists.append(ids)
    return id_lists


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """The token ids of each text of a user, a corpus or a model, encoded as plain text; one list per text.

    Raises:
        PolicyError: as `token_ids`.
    """
    read = reader(tokenizer)
    id_lists = [encoded.ids for encoded in read.plain.encode_batch_fast(list(texts), add_special_tokens=False)]
    for ids in id_lists:
        if not read.special.isdisjoint(ids):
            token = tokenizer.convert_ids_to_tokens(next(iter(read.special.intersection(ids))))
            raise PolicyError(
                f"the tokenizer reads {token!r} out of plain text, which could then end a turn; take the tokenizer of a "
                "Qwen2.5-VL checkpoint, whose vocabulary holds no control token"
            )
    return id_lists
