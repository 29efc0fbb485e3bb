"""Odd spellings of words for training, so that no list of words knows them.

The evaluation uses other spellings: digits for vowels, dots between letters, a hyphen after two letters.
"""

from collections.abc import Callable
from random import Random

Spelling = Callable[[str, Random], str]
"""A longer word in another spelling."""
SIGNS = str.maketrans("aiscl", "@!$(|")
DIGITS = str.maketrans("bgzq", "8926")
SOUNDS = {"f": "ph", "k": "q", "w": "vv", "u": "oo", "x": "ks", "n": "nn", "c": "k", "m": "rn"}
BETWEEN = " _*/~"
"""What may stand between the letters of a word."""


def _signs(word: str, random: Random) -> str:
    return word.translate(SIGNS)


def _digits_and_capitals(word: str, random: Random) -> str:
    return word.translate(DIGITS)[::-1].capitalize()[::-1]


def _sounds(word: str, random: Random) -> str:
    return "".join(SOUNDS.get(letter, letter) for letter in word)


def _doubled(word: str, random: Random) -> str:
    place = random.randrange(len(word))
    if random.random() < 0.5:
        return "".join(letter * 2 for letter in word)
    return word[:place] + word[place] * 3 + word[place + 1 :]


def _parted(word: str, random: Random) -> str:
    return random.choice(BETWEEN).join(word)


def _alternating(word: str, random: Random) -> str:
    first = random.randrange(2)
    turns = [
        "".join(letter.upper() if (place + start) % 2 else letter.lower() for place, letter in enumerate(word))
        for start in (first, 1 - first)
    ]
    return turns[0] if turns[0] != word else turns[1]


def _without_vowels(word: str, random: Random) -> str:
    short = word[0] + "".join(letter for letter in word[1:] if letter.lower() not in "aeiou")
    return short if len(short) > 2 else _alternating(word, random)


SPELLINGS: tuple[Spelling, ...] = (
    _signs, _digits_and_capitals, _sounds, _doubled, _parted, _alternating, _without_vowels,
)  # fmt: skip


def spelled(words: list[str], random: Random) -> dict[str, str]:
    """Map words to their new spelling: one spelling, applied to some or all of the words.

    Returns:
        At least one word, unless there is none.
    """
    spelling = random.choice(SPELLINGS)
    chosen = [word for word in words if random.random() < 0.75] or random.sample(words, min(1, len(words)))
    return {word: _changed(word, spelling, random) for word in chosen}


def _changed(word: str, spelling: Spelling, random: Random) -> str:
    """The respelled word, never the same: a word without the letters that a spelling changes gets alternating capitals."""
    other = spelling(word, random)
    return other if other != word else _alternating(word, random)
