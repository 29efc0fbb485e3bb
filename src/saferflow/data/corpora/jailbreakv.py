"""JailBreakV-28K: jailbreaks of language models carried over to pictures, and attacks by pictures."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, inner, missing
from saferflow.data.records import csv_rows
from saferflow.data.rows import BadRow

COLUMNS = ("jailbreak_query", "format", "policy", "image_path")
ATTACKS = {
    "template": ("role_play", "text"),
    "persuade": ("role_play", "text"),
    "logic": ("obfuscation", "text"),
    "figstep": ("typographic", "typographic"),
    "typo": ("typographic", "typographic"),
    "sd": ("none", "combination"),
}
"""Word in field `format` -> (attack, as tool JAILBREAK-SENTINEL names it; source of the risk). Ours."""


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield the jailbreak queries under `folder`; a `BadRow` stands for what cannot be read."""
    root = inner(folder, "JailBreakV_28K")
    file = next(
        (root / name for name in ("JailBreakV_28K.csv", "mini_JailBreakV_28K.csv") if (root / name).exists()), None
    )
    if file is None:
        yield missing(root, "JailBreakV_28K.csv")
        return
    for record in csv_rows(file, COLUMNS):
        if isinstance(record, BadRow):
            yield record
            continue
        values = record.values
        form = values["format"].casefold()
        attack, risk = next((kind for word, kind in ATTACKS.items() if word in form), ("none", "text"))
        picture = str(root.relative_to(folder) / values["image_path"]) if values["image_path"] else None
        yield Item(
            record.file, record.number, values["jailbreak_query"], picture, harmful=True, word=values["policy"],
            risk_source=risk, attack=attack, severity=3,
        )  # fmt: skip


CORPUS = Corpus(
    name="jailbreakv",
    title="JailBreakV-28K",
    paper="2404.03027",
    licence="MIT",
    layout="`JailBreakV_28K/JailBreakV_28K.csv`, pictures at its image_path",
    hazards={
        "Illegal Activity": ("S2", "crime, mostly without violence"),
        "Violence": ("S1", "violence"),
        "Hate Speech": ("S10", "hate"),
        "Malware": ("S2", "computer crime; S14 is about code interpreters only"),
        "Physical Harm": ("S1", "violence"),
        "Economic Harm": ("S2", "schemes that take people's money"),
        "Fraud": ("S2", "fraud"),
        "Political Sensitivity": ("S13", "politics; the nearest code"),
        "Government Decision": ("S6", "decides over rights as only an authority may"),
        "Bias": ("S10", "bias against groups"),
        "Privacy Violation": ("S7", "privacy"),
        "Tailored Unlicensed Advice": ("S6", "advice that wants a licence"),
        "Health Consultation": ("S6", "health advice"),
        "Child Abuse Content": ("S4", "harm to children"),
        "Animal Abuse": ("S1", "violence; the code counts animals among its victims"),
        "Unethical Behavior": ("S2", "the nearest code"),
    },
    read=read,
)
