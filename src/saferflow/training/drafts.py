"""Drafts of a policy's next tokens from its earlier completions: counts of the token that followed each context.

A wrong draft costs little and a right one saves a forward pass (`branching.sample` verifies several tokens in one). Completions
of a policy repeat one another: the layout, the tools' names, what its siblings say at the same place. Source: n-gram
speculation, as vLLM and prompt lookup decoding have it; what is counted and where a draft ends is ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

ORDERS = (8, 5, 3, 2)
"""Lengths of contexts in tokens; the longest known context decides."""
LONGEST = ORDERS[0]
START = -1
"""Stands for the tokens before the first one."""
MOST_CONTEXTS = 500_000
"""The fewest contexts that are kept, and half the most; a context takes about 280 bytes."""
MOST_TOKENS = 16
"""The most tokens of a draft."""
LEAST_CHANCE = 0.2
"""A draft ends before a token whose probability to hold is below this."""
OVERHEAD = {"cpu": 64, "cuda": 1024}
"""Time of a forward pass before its first token, in tokens: 80 measured on two cores (2.7 M parameters); GPU not measured."""
ROW_OVERHEAD = 2
"""Time of a row's own past in a forward pass, in tokens, measured there."""


@dataclass(slots=True)
class Draft:
    """Tokens that may follow a text."""

    tokens: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    """For each token, the probability that it and all before it hold."""
    given: list[bool] = field(default_factory=list)
    """For each token, whether the plan's grammar gives it after the one before it."""
    closed: bool = False
    """Whether the grammar gives the token behind the draft, so that none is drawn there."""

    def add(self, token: int, chance: float, *, given: bool = False) -> None:
        """Append a token, with the probability that it and all before it hold; `given` if the grammar gives it."""
        self.tokens.append(token)
        self.chances.append(chance)
        self.given.append(given)

    def cut(self, width: int) -> Self:
        """The draft's first tokens."""
        if width >= len(self.tokens):
            return self
        return type(self)(self.tokens[:width], self.chances[:width], self.given[:width], self.given[width])

    def choices(self) -> list[int]:
        """The places at which a token is drawn: those of its tokens that are not given, and the one behind it."""
        return [n for n, given in enumerate([*self.given, self.closed]) if not given]

    def given_behind(self, place: int, token: int) -> list[int]:
        """The tokens that follow without a choice, if the token drawn at a place is the draft's."""
        if place >= len(self.tokens) or self.tokens[place] != token:
            return []
        end = next((n for n in range(place + 1, len(self.tokens)) if not self.given[n]), len(self.tokens))
        return self.tokens[place + 1 : end]

    def holds(self, new: Sequence[int]) -> bool:
        """Whether all new tokens equal the draft's, and the next one is drawn."""
        whole = len(new) == len(self.tokens)
        return new == self.tokens[: len(new)] and not (whole and self.closed)


class Drafter:
    """Counts which token follows each context."""

    def __init__(self) -> None:
        self._recent: dict[tuple[int, ...], list[int]] = {}
        self._older: dict[tuple[int, ...], list[int]] = {}

    def learn(self, text: Sequence[int], new: int) -> None:
        """Count the last `new` tokens of a text."""
        known = text[max(0, len(text) - new - LONGEST) :]
        padded = [START] * (LONGEST + new - len(known)) + list(known)
        for place in range(LONGEST, len(padded)):
            for order in ORDERS:
                self._count(tuple(padded[place - order : place]), padded[place])

    def next(self, context: Sequence[int]) -> tuple[int, float] | None:
        """The token that mostly follows, and its share; None for an unknown context.

        Args:
            context: the last `LONGEST` tokens at least, or those there are behind `START`s.
        """
        for order in ORDERS:
            key = tuple(context[-order:])
            entry = self._recent.get(key) or self._older.get(key)
            if entry is not None:
                token, right, wrong = entry
                return token, (right + 0.5) / (right + wrong + 1)
        return None

    def propose(self, text: Sequence[int], most: int) -> Draft:
        """A draft of the tokens after a text, at most so many."""
        draft, context, chance = Draft(), beginning(text), 1.0
        while len(draft.tokens) < most and (following := self.next(context)) is not None:
            token, share = following
            chance *= share
            if chance < LEAST_CHANCE:
                break
            draft.add(token, chance)
            context.append(token)
        return draft

    def _count(self, context: tuple[int, ...], token: int) -> None:
        entry = self._recent.get(context)
        if entry is None:
            if len(self._recent) >= MOST_CONTEXTS:
                self._older, self._recent = self._recent, {}
            entry = self._recent[context] = self._older.get(context) or [token, 0, 0]
        if entry[0] == token:
            entry[1] += 1
        elif entry[2] < entry[1]:
            entry[2] += 1
        else:
            entry[:] = [token, 1, entry[1]]


def beginning(text: Sequence[int]) -> list[int]:
    """The end of a text as a context, padded with `START`."""
    return [START] * (LONGEST - len(text)) + list(text[-LONGEST:])


def best_width(drafts: Sequence[Draft], device: str) -> int:
    """The common length of the rows' drafts with the most expected tokens per second.

    A forward pass over rows times tokens takes as long as so many tokens and its overhead; it brings a row one token and as
    many of its draft as hold. Source: ours.
    """
    rows = len(drafts)
    overhead = OVERHEAD.get(device, OVERHEAD["cuda"]) + ROW_OVERHEAD * rows
    gain, width, best = float(rows), 0, rows / (overhead + rows)
    for place in range(max((len(draft.tokens) for draft in drafts), default=0)):
        gain += sum(draft.chances[place] for draft in drafts if len(draft.chances) > place)
        rate = gain / (overhead + rows * (place + 2))
        if rate > best:
            width, best = place + 1, rate
    return width
