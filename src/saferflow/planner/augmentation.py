"""Turns a share of the training requests into attacks and distorts a share of the pictures.

The address (seed, "augment", id) decides what happens to a row, so that no other row matters. The row's decision does not
matter either: harmless and harmful requests get the same forms, so that a wrapper says nothing about harm. Rows that are held
out, general, unlabelled, of several turns, or attacks already, stay as they are. Source: ours.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from random import Random

from saferflow.data.attacks.family import labelled
from saferflow.data.attacks.training import FORMS
from saferflow.data.distortions import distorted
from saferflow.data.rows import Labels, Row, Turn, whole_question
from saferflow.params import AugmentationParams
from saferflow.planner.teacher import answer_for
from saferflow.protocol.surface import TAGS
from saferflow.protocol.tools import TOOLS
from saferflow.protocol.trace import parse
from saferflow.rng import rng

WRITING = ("typographic", "split")
"""Families that write into the picture; a picture that holds words already goes to the other families."""
LONGEST = 200
"""Longest request, in characters, that is written into a picture."""
SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
(TEXT,) = TOOLS["OCR-EXTRACT"].fields
"""The field in which a trace repeats the words in a picture."""


def augmented(row: Row, params: AugmentationParams | None, seed: int) -> Row:
    """The row as training sees it, with the same id and decision; unchanged if it is held out or `params` is null."""
    if params is None or row.split != "train":
        return row
    random = rng(seed, "augment", row.id)
    wraps, changes = random.random() < params.attacks, random.random() < params.images
    if changes:
        row = with_distorted_image(row, rng(seed, "augment", row.id, "image"))
    return attacked(row, random) if wraps else row


def with_distorted_image(row: Row, random: Random) -> Row:
    """The row with a distorted picture, where it has one."""
    if row.image is None:
        return row
    return replace(row, image=distorted(row.image, random, mirrored=_mirrors(row)))


def _mirrors(row: Row) -> bool:
    """Whether a flip is harmless: labels describe the picture, it shows no words, and no text names left or right."""
    if row.labels is None or row.labels.sign or not row.labels.objects:
        return False
    return not SIDES.search(row.question) and not SIDES.search(row.answer)


def attacked(row: Row, random: Random) -> Row:
    """Wrap the row's request in a drawn training form; unchanged where none fits."""
    if row.labels is None or row.labels.kind != "safety" or row.labels.attack != "none" or row.earlier:
        return row
    names = [name for name in FORMS if name not in WRITING or _writable(row.question, row.labels)]
    random.shuffle(names)
    for name in names:
        attack = FORMS[name](row.question, row.image, random)
        if attack is not None:
            earlier = with_answers(attack.turns[:-1], row)
            return replace(
                row,
                question=whole_question(earlier, attack.turns[-1]),
                image=attack.image,
                labels=labelled(row.labels, name, attack),
                earlier=earlier,
                answer=untraced(row.answer),
                rejected=untraced(row.rejected),
            )
    return row


def with_answers(questions: Sequence[str], row: Row) -> tuple[Turn, ...]:
    """Answer the turns before the last one as the row's source does, else as the rule teacher does; a refusal repeats each time.

    The rule teacher writes these also where a model behind a server writes the row's reference.
    """
    own = "" if row.drawn else untraced(row.answer)
    answer = own or answer_for(row.labels, row.answer)
    return tuple((question, answer) for question in questions)


def untraced(text: str) -> str:
    """A response's answer without its trace: a trace of the plain request does not fit an attack."""
    return parse(text).answer if any(tag in text for tag in TAGS) else text


def _writable(question: str, labels: Labels) -> bool:
    """Whether the picture holds no words yet and a trace can repeat these."""
    return not labels.sign and len(question) <= LONGEST and TEXT.accepts(question)
