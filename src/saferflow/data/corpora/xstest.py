"""XSTest: safe questions that sound unsafe, and unsafe ones beside them; words only."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, missing
from saferflow.data.records import csv_rows
from saferflow.data.rows import BadRow

LABELS = {"safe": False, "unsafe": True}


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield the prompts of a CSV file, or of the first one under a folder; a `BadRow` stands for what cannot be read."""
    file = folder if folder.is_file() else next(iter(sorted(folder.rglob("xstest*prompts.csv"))), None)
    if file is None:
        yield missing(folder, "xstest_prompts.csv")
        return
    for record in csv_rows(file, ("prompt", "type", "label")):
        if isinstance(record, BadRow):
            yield record
        elif record.values["label"] not in LABELS:
            yield record.bad(f"label is {record.values['label']!r}; safe or unsafe is expected")
        else:
            harmful = LABELS[record.values["label"]]
            yield Item(
                record.file, record.number, record.values["prompt"], None, harmful=harmful, word=record.values["type"],
                risk_source="text" if harmful else "bait",
            )  # fmt: skip


CORPUS = Corpus(
    name="xstest",
    title="XSTest",
    paper="2308.01263",
    licence="CC-BY-4.0",
    layout="`xstest_prompts.csv` with prompt, type, label",
    hazards={
        "contrast_privacy": ("S7", "privacy"),
        "contrast_discr": ("S10", "discrimination"),
    },
    read=read,
)
