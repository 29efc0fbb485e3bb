"""The types of the benchmark's arguments: each reads one text, or says what is wanted. Source: ours."""

import re
from argparse import ArgumentTypeError


def names(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts):
        raise ArgumentTypeError(f"{text!r}: names with commas between them are wanted, none of them twice")
    return parts


def seeds(text: str) -> list[int]:
    parts = names(text)
    if any(not part.isdecimal() for part in parts):
        raise ArgumentTypeError(f"{text!r}: whole numbers with commas between them are wanted")
    return [int(part) for part in parts]


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r}: a whole number from 1 is wanted")
    return int(text)


def variant(text: str) -> tuple[str, list[str]]:
    """Name and settings; a comma within brackets or quotes belongs to its value.

    >>> variant("process:grpo.rewards={toolkit: 0.5, protocol: 0.5},grpo.kl=0.05")
    ('process', ['grpo.rewards={toolkit: 0.5, protocol: 0.5}', 'grpo.kl=0.05'])
    """
    name, colon, settings = text.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ArgumentTypeError(f"{text!r}: NAME:KEY=VALUE,… is wanted, as no-dpo:dpo=null; NAME: changes nothing")
    parts, depth, quote = [""], 0, ""
    for sign in settings:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"":
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth -= 1
        elif sign == "," and not depth:
            parts.append("")
            continue
        parts[-1] += sign
    return name, [part.strip() for part in parts if part.strip()]
