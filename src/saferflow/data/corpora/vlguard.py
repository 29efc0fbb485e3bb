"""VLGuard: unsafe pictures with one instruction, safe pictures with a safe and an unsafe one."""

from collections.abc import Iterator
from pathlib import Path

from saferflow.data.corpora.corpus import Corpus, Item, missing, word_of
from saferflow.data.records import json_document, json_objects
from saferflow.data.rows import BadRow

INSTRUCTIONS = {
    "instruction": (True, "image"),
    "safe_instruction": (False, "none"),
    "unsafe_instruction": (True, "text"),
}
"""Field of an instruction -> whether it is harmful, and where the risk is."""


def read(folder: Path) -> Iterator[Item | BadRow]:
    """Yield every instruction of both splits under `folder`; a `BadRow` stands for what cannot be read."""
    files = [(folder / f"{split}.json", split) for split in ("train", "test") if (folder / f"{split}.json").exists()]
    if not files:
        yield missing(folder, "train.json or test.json")
    for file, split in files:
        document = json_document(file)
        if isinstance(document, BadRow):
            yield document
            continue
        for record in json_objects(file, document if isinstance(document, list) else [document]):
            if isinstance(record, BadRow):
                yield record
                continue
            values = record.values
            pairs = [pair for pair in values.get("instr-resp") or () if isinstance(pair, dict)]
            instructions = [(name, pair) for pair in pairs for name in INSTRUCTIONS if pair.get(name)]
            if not instructions or not values.get("image"):
                yield record.bad(
                    f"entry {record.number} has no {'image' if instructions else 'instr-resp with an instruction'}"
                )
                continue
            for name, pair in instructions:
                harmful, risk = INSTRUCTIONS[name]
                yield Item(
                    str(file), record.number, pair[name], f"{split}/{values.get('image')}", harmful=harmful,
                    word=word_of(values, "harmful_subcategory", "harmful_category"), risk_source=risk,
                    split="train" if split == "train" else "evaluation",
                    answer="" if harmful else pair.get("response") or "",
                )  # fmt: skip


CORPUS = Corpus(
    name="vlguard",
    title="VLGuard",
    paper="2402.02207",
    licence="",
    layout="`train.json`, `test.json`, pictures under `train/` and `test/`",
    hazards={
        "personal data": ("S7", "privacy"),
        "professional advice": ("S6", "advice that wants a licence"),
        "political": ("S13", "politics; the nearest code"),
        "sexually explicit": ("S12", "sexual content"),
        "violence": ("S1", "violence"),
        "disinformation": ("S5", "false claims; the nearest code"),
        "sex": ("S10", "discrimination by sex"),
        "race": ("S10", "discrimination by race"),
        "other": ("S10", "other discrimination"),
        "privacy": ("S7", "privacy"),
        "deception": ("S5", "false claims; the nearest code"),
        "discrimination": ("S10", "discrimination"),
        "hateful speech": ("S10", "hate"),
    },
    read=read,
)
