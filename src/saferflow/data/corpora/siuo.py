"""SIUO: a picture and a question, each safe alone, whose answer would not be. The right decision is a warning: `redirect`."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, inner, missing, word_of
from saferflow.data.records import json_document, json_objects
from saferflow.data.rows import BadRow


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield the questions under `folder`; a `BadRow` stands for what cannot be read."""
    file = next(iter(sorted(folder.rglob("siuo_gen.json"))), None)
    document = json_document(file) if file else missing(folder, "siuo_gen.json")
    if isinstance(document, BadRow):
        yield document
        return
    pictures = inner(folder, "images", "data/images").relative_to(folder)
    for record in json_objects(file, document if isinstance(document, list) else [document]):
        if isinstance(record, BadRow):
            yield record
        elif not record.values.get("image"):
            yield record.bad(f"entry {record.number} has no image")
        else:
            yield Item(
                str(file), record.number, record.values.get("question"), str(pictures / str(record.values["image"])),
                harmful=True, word=word_of(record.values, "category"), risk_source="combination", decision="redirect",
            )  # fmt: skip


CORPUS = Corpus(
    name="siuo",
    title="SIUO (Safe Inputs but Unsafe Output)",
    paper="2406.15279",
    licence="",
    layout="`siuo_gen.json`, `images/`",
    hazards={
        "self-harm": ("S11", "self-harm"),
        "illegal activities & crime": ("S2", "crime, mostly without violence"),
        "privacy violation": ("S7", "privacy"),
        "morality": ("S10", "offends what people hold dear; the nearest code"),
        "dangerous behavior": ("S1", "people are hurt, mostly by accident; the nearest code"),
        "discrimination & stereotyping": ("S10", "discrimination"),
        "information misinterpretation": ("S6", "advice on what the picture is taken for"),
        "religion beliefs": ("S10", "offends beliefs"),
        "controversial topics, politics": ("S13", "politics; the nearest code"),
    },
    read=read,
)
