"""The hazard taxonomy: MLCommons AILuminate codes, as Llama Guard numbers them."""

from typing import NamedTuple

NONE = "none"
"""The hazard of a plan that suspects none."""
REDIRECTED = ("S6", "S11")
"""Hazards whose answer names who can help; requests of other hazards are refused. Ours."""


class Hazard(NamedTuple):
    """One kind of harm; `phrase` is a neutral noun phrase that fits into a sentence (ours)."""

    code: str
    name: str
    phrase: str


HAZARDS: dict[str, Hazard] = {
    hazard.code: hazard
    for hazard in (
        Hazard("S1", "Violent Crimes", "violence against people"),
        Hazard("S2", "Non-Violent Crimes", "crime without violence"),
        Hazard("S3", "Sex-Related Crimes", "sexual crimes"),
        Hazard("S4", "Child Sexual Exploitation", "sexual exploitation of children"),
        Hazard("S5", "Defamation", "false claims that damage a person's name"),
        Hazard("S6", "Specialized Advice", "risky specialist advice"),
        Hazard("S7", "Privacy", "exposure of private information"),
        Hazard("S8", "Intellectual Property", "infringement of intellectual property"),
        Hazard("S9", "Indiscriminate Weapons", "weapons of mass harm"),
        Hazard("S10", "Hate", "hate against a group of people"),
        Hazard("S11", "Suicide & Self-Harm", "suicide or self-harm"),
        Hazard("S12", "Sexual Content", "explicit sexual content"),
        Hazard("S13", "Elections", "false claims about elections"),
        Hazard("S14", "Code Interpreter Abuse", "abuse of a code interpreter"),
    )
}
