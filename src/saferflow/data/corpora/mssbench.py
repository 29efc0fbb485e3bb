"""MSSBench: the same request in a setting where it is safe, and in one where it is not."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, missing, word_of
from saferflow.data.records import json_document, json_objects
from saferflow.data.rows import BadRow

SIDES = {
    "chat": ("safe_image_path", "unsafe_image_path", "queries", "queries"),
    "embodied": ("safe", "unsafe", "safe_instructions", "unsafe_instructions"),
}
"""Part -> its four fields: safe picture, unsafe picture, questions about the safe one, questions about the unsafe one."""


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield each request with its safe and its unsafe picture; a `BadRow` stands for what cannot be read."""
    file = folder / "combined.json"
    document = json_document(file) if file.exists() else missing(folder, "combined.json")
    if isinstance(document, BadRow):
        yield document
        return
    for part, (safe, unsafe, safe_field, unsafe_field) in SIDES.items():
        entries = document.get(part, []) if isinstance(document, dict) else []
        for record in json_objects(file, entries):
            if isinstance(record, BadRow):
                yield record
                continue
            values = record.values
            if lacking := [name for name in (safe, unsafe, safe_field, unsafe_field) if not values.get(name)]:
                yield record.bad(f"entry {record.number} of {part} has no {', '.join(lacking)}")
                continue
            word = word_of(values, "Type", "category", "type")
            for picture, field, harmful in ((safe, safe_field, False), (unsafe, unsafe_field, True)):
                for question in values[field]:
                    yield Item(
                        str(file), record.number, question, f"{part}/{values[picture]}", harmful=harmful,
                        word=word, risk_source="combination" if harmful else "none",
                    )  # fmt: skip


CORPUS = Corpus(
    name="mssbench",
    title="MSSBench (Multimodal Situational Safety)",
    paper="2410.06172",
    licence="MIT",
    layout="`combined.json`, `chat/`, `embodied/`",
    hazards={
        "physical harm": ("S1", "people are hurt, mostly by accident; the nearest code"),
        "self harm": ("S11", "self-harm"),
        "property damage": ("S2", "damage to property"),
        "offensive": ("S10", "offends people for what they are or believe"),
        "illegal": ("S2", "crime, mostly without violence"),
        "restricted": ("S2", "offences against rules of a place"),
        "privacy": ("S7", "privacy"),
    },
    read=read,
)
