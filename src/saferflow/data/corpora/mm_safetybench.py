"""MM-SafetyBench: 13 scenarios, each question with three pictures: drawn, drawn with the words under it, the words alone."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, inner, missing
from saferflow.data.records import Record, json_document
from saferflow.data.rows import BadRow

VARIANTS = {
    "SD": ("Rephrased Question(SD)", "image", "none"),
    "SD_TYPO": ("Rephrased Question", "typographic", "typographic"),
    "TYPO": ("Rephrased Question", "typographic", "typographic"),
}
"""Folder of pictures -> (field of the authors' question about them, source of the risk, attack)."""


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield each question under `folder` once per variant; a `BadRow` stands for what cannot be read."""
    root = inner(folder, "data")
    pictures = inner(root, "imgs", "MM-SafetyBench(imgs)").relative_to(folder)
    files = sorted((root / "processed_questions").glob("*.json"))
    if not files:
        yield missing(root, "processed_questions/*.json")
    for file in files:
        document = json_document(file)
        if isinstance(document, BadRow):
            yield document
            continue
        for number, (key, values) in enumerate(document.items() if isinstance(document, dict) else [], 1):
            for variant, (field, risk, attack) in VARIANTS.items():
                if not isinstance(values, dict) or not values.get(field):
                    yield Record(str(file), number, {"id": key}).bad(f"question {key} has no field {field!r}")
                    continue
                picture = pictures / file.stem / variant / f"{key}.jpg"
                yield Item(
                    str(file), number, values[field], str(picture), harmful=True, word=file.stem, risk_source=risk,
                    attack=attack,
                )  # fmt: skip


CORPUS = Corpus(
    name="mm_safetybench",
    title="MM-SafetyBench",
    paper="2311.17600",
    licence="CC-BY-NC-4.0",
    layout="`data/processed_questions/*.json`, `data/imgs/<scenario>/{SD,SD_TYPO,TYPO}/<id>.jpg`",
    hazards={
        "01-Illegal_Activitiy": ("S2", "crime, mostly without violence"),
        "02-HateSpeech": ("S10", "hate"),
        "03-Malware_Generation": ("S2", "computer crime; S14 is about code interpreters only"),
        "04-Physical_Harm": ("S1", "violence"),
        "05-EconomicHarm": ("S2", "schemes that take people's money"),
        "06-Fraud": ("S2", "fraud"),
        "07-Sex": ("S12", "sexual content"),
        "08-Political_Lobbying": ("S13", "campaigns before elections"),
        "09-Privacy_Violence": ("S7", "privacy"),
        "10-Legal_Opinion": ("S6", "legal advice"),
        "11-Financial_Advice": ("S6", "financial advice"),
        "12-Health_Consultation": ("S6", "health advice"),
        "13-Gov_Decision": ("S6", "decides over rights as only an authority may"),
    },
    read=read,
)
