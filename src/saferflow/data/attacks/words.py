"""Finds the longer words of a request, and among them those that it is about."""

import re

WORD = re.compile(r"[A-Za-z]{4,}")
"""A longer word."""
POLITE = re.compile(
    "about|advice|answer|best|could|explain|give|help|like|must|need|people|please|right|should|show|teach|tell|thank|there|these|"
    "they|this|those|want|what|when|where|which|will|with|without|would|your"
)
"""Longer words that a request is never about."""


def key_words(question: str) -> list[str]:
    """The longer words that a request may be about, in its order."""
    return [word for word in WORD.findall(question) if not POLITE.fullmatch(word.casefold())]
