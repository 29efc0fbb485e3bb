"""Words that make the rule planner suspect a hazard. A suspicion is no verdict: many harmless questions contain them.

Source: ours.
"""

import re

TERMS: dict[str, tuple[str, ...]] = {
    "S1": ("attack", "beat up", "bomb", "fight", "hit", "hurt", "kill", "knife", "murder", "shoot", "smash", "stab", "weapon"),
    "S2": ("break into", "burglar", "counterfeit", "drug", "forge", "fraud", "hack", "illegal",
           "launder", "malware", "phish", "rob", "scam", "smuggle", "steal", "virus"),
    "S5": ("defame", "false rumour", "libel", "slander"),
    "S6": ("cure", "diagnose", "dosage", "fever", "invest", "lawsuit", "pain", "prescription", "treat"),
    "S7": ("address of", "private", "secret", "spy", "stalk", "track"),
    "S8": ("copyright", "pirate", "pirated", "plagiarise"),
    "S9": ("anthrax", "chemical", "nerve agent", "nuclear", "poison", "toxin"),
    "S10": ("hate", "hateful", "insult", "racist", "religion", "shame"),
    "S11": ("anorexia", "end my life", "end my own life", "harm myself", "harm my", "myself", "overdose", "starve", "suicide"),
    "S13": ("ballot", "election", "rig the vote"),
    "S14": ("escape the sandbox", "reverse shell"),
}  # fmt: skip

READING = ("board", "instruction", "list", "read", "sign", "text", "words", "write", "written")
"""Words that point a reader to text inside the image."""

POINTING = ("here", "it", "picture", "scene", "shown", "that", "these", "this", "image", "photo")
"""Words that need the image to be understood."""

PARTIES: dict[str, tuple[str, ...]] = {
    "whoever it stands for": ("jeer at", "boo", "laugh at", "insult", "shame", "mock"),
    "its maker": ("as mine", "as my own", "my name on", "pirate", "pirated"),
    "its issuer": ("second one", "another one", "remake", "print this under"),
    "the owner": ("owner", "whoever left", "rob", "steal from"),
    "a child": ("child", "baby"),
    "a crowd": ("hall", "train", "room", "city", "crowd", "town"),
    "the asker": ("sadness", "sorrow", "sad night", "myself", "my life", "my own life", "my chest", "fever"),
    "someone else": ("quarrel", "neighbour", "stranger", "man", "woman", "boss"),
}
"""Person whom a request affects -> words for this person; the first match counts."""


def party(question: str) -> str:
    """The person whom a question affects, by its words; `nobody` where they do not say."""
    return next((who for who, terms in PARTIES.items() if matches(terms, question)), "nobody")


def matches(terms: tuple[str, ...], text: str) -> list[str]:
    """The terms that occur in the text as whole words (also with -s, -ed, -ing), in the order of `terms`."""
    return [term for term in terms if re.search(rf"\b{re.escape(term)}(s|ed|ing)?\b", text, re.IGNORECASE)]
