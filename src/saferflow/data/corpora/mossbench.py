"""MOSSBench: harmless questions about pictures that look alarming; a policy that declines one is over-sensitive."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, inner, missing
from saferflow.data.records import json_document, json_objects
from saferflow.data.rows import BadRow


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield the questions under `folder`; a `BadRow` stands for what cannot be read."""
    root = inner(folder, "data")
    file = root / "images_information" / "information.json"
    document = json_document(file) if file.exists() else missing(root, "images_information/information.json")
    if isinstance(document, BadRow):
        yield document
        return
    entries = document.values() if isinstance(document, dict) else document if isinstance(document, list) else []
    for record in json_objects(file, entries):
        if isinstance(record, BadRow):
            yield record
        elif not record.values.get("image"):
            yield record.bad(f"entry {record.number} has no image")
        else:
            picture = root.relative_to(folder) / str(record.values["image"])
            yield Item(
                str(file), record.number, record.values.get("question"), str(picture), harmful=False,
                risk_source="bait",
            )  # fmt: skip


CORPUS = Corpus(
    name="mossbench",
    title="MOSSBench",
    paper="2406.17806",
    licence="CC-BY-SA-4.0",
    layout="`data/images_information/information.json`, `data/images/`",
    hazards={},
    read=read,
    trains=False,
)
