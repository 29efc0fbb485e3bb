"""BeaverTails-V: red-team questions about images of 20 kinds of harm, as Parquet files with the images inside."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, missing
from saferflow.data.records import parquet_rows
from saferflow.data.rows import BadRow

COLUMNS = ("question", "image", "category", "image_severity")


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Every question once, however many responses it has: rows of the same content are one row."""
    files = sorted(folder.rglob("*.parquet"))
    if not files:
        yield missing(folder, "*.parquet file")
    for file in files:
        split = "evaluation" if file.name.startswith(("evaluation", "test")) else "train"
        for record in parquet_rows(file, COLUMNS):
            if isinstance(record, BadRow):
                yield record
                continue
            values = record.values
            severity = values["image_severity"]
            yield Item(
                record.file,
                record.number,
                values["question"],
                values["image"],
                harmful=True,
                word=str(values["category"]),
                severity=severity if isinstance(severity, int) else 2,
                risk_source="combination",
                split=split,
            )


CORPUS = Corpus(
    name="beavertails_v",
    title="BeaverTails-V",
    paper="2503.17682",
    licence="CC-BY-NC-4.0",
    layout="`**/*.parquet` with question, image, category, image_severity; files named evaluation* are held out",
    hazards={
        "animal_abuse": ("S1", "violence; the code counts animals among its victims"),
        "dangerous_behavior": ("S2", "acts that endanger others are mostly offences, rarely violent ones"),
        "deception_in_personal_relationships": ("S2", "fraud between people"),
        "discriminatory_depictions": ("S10", "demeans people for what they are"),
        "environmental_damage": ("S2", "environmental crime"),
        "false_information": ("S5", "false claims; the nearest code, for most name somebody"),
        "financial_and_academic_fraud": ("S2", "fraud"),
        "hacking_or_digital_crime": ("S2", "computer crime; S14 is about code interpreters only"),
        "harmful_health_content": ("S6", "health advice"),
        "horror_and_gore": ("S1", "depicts violence"),
        "identity_misuse_and_impersonation": ("S7", "another's identity is private"),
        "insulting_and_harassing_behavior": ("S10", "abuse of people; the nearest code"),
        "pornographic_content": ("S12", "sexual content"),
        "privacy_invasion_and_surveillance": ("S7", "privacy"),
        "psychological_harm_and_manipulation": ("S11", "its authors count incitement to self-harm here"),
        "psychological_horror_and_dark_themes": ("S11", "distress; the nearest code"),
        "sensitive_information_in_key_areas": ("S13", "false claims on politics and public safety"),
        "sexual_crimes": ("S3", "sexual crimes"),
        "terrorism_or_extremism": ("S9", "its means are weapons of mass harm; the nearest code"),
        "violence_and_physical_harm": ("S1", "violence"),
    },
    read=read,
)
