"""SPA-VL: preference pairs about images in six domains of harm, as Parquet files with the images inside.

Its questions run from plain to hostile, and no field says which is which. A planner behind a server labels them, except in
the test set of harm, where every question is to be declined.
"""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, missing, word_of
from saferflow.data.records import parquet_rows
from saferflow.data.rows import BadRow


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield the questions of every Parquet file under `folder`; a `BadRow` stands for what cannot be read."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        yield missing(folder, "*.parquet file")
    for file in files:
        for record in parquet_rows(file, ("image", "question")):
            if isinstance(record, BadRow):
                yield record
                continue
            yield Item(
                record.file,
                record.number,
                record.values["question"],
                record.values["image"],
                harmful=True if file.name.startswith("harm") else None,
                word=word_of(record.values, "class2", "class1"),
                risk_source="combination",
                split="train" if file.name.startswith("train") else "evaluation",
                answer=word_of(record.values, "chosen"),
                rejected=word_of(record.values, "rejected"),
            )


CORPUS = Corpus(
    name="spa_vl",
    title="SPA-VL",
    paper="2406.12030",
    licence="CC-BY-4.0",
    layout="`data/train-*.parquet`, `validation/validation-*.parquet`, `test/harm-*.parquet`, `test/help-*.parquet` with "
    "image, question, class1..3 but in training, and there the pair chosen and rejected",
    hazards={
        "Toxic Content": ("S10", "hate and harassment"),
        "Unfair Representation": ("S10", "bias against groups"),
        "Adult Content": ("S12", "sexual content"),
        "Erosion of Trust in Public Information": ("S13", "false claims on public matters"),
        "Propagating Misconceptions": ("S5", "false claims; the nearest code"),
        "Risky Financial Practices": ("S6", "financial advice"),
        "Trade and Compliance": ("S6", "legal and financial advice"),
        "Dissemination of Dangerous Information": ("S9", "means of mass harm; the nearest code"),
        "Privacy Infringement": ("S7", "privacy"),
        "Security Threats": ("S2", "computer crime"),
        "Defamation": ("S5", "defamation"),
        "Fraud or Deceptive Action": ("S2", "fraud"),
        "Influence Operations": ("S13", "manipulates public opinion"),
        "Illegal Activities": ("S2", "crime, mostly without violence"),
        "Persuasion and Manipulation": ("S11", "harms a person's mind; the nearest code"),
        "Violation of Personal Property": ("S8", "takes what is another's"),
        "Representation & Toxicity Harms": ("S10", "the domain's larger part"),
        "Misinformation Harms": ("S5", "the domain's larger part"),
        "Information & Safety Harms": ("S7", "the domain's larger part"),
        "Malicious Use": ("S2", "the domain's larger part"),
        "Human Autonomy & Integrity Harms": ("S7", "the domain's larger part"),
        "Socioeconomic Harms": ("S6", "the domain's larger part"),
    },
    read=read,
)
