"""What a generative reward model says of one response: marks for its thinking and its answer apart, and penalties [V]."""

from dataclasses import dataclass, fields

SEVEREST = 3
PENALTIES = ("hallucination", "contradiction")


@dataclass(frozen=True, slots=True)
class StructuredMarks:
    """Integers: each dimension 0..10, each penalty's severity 0 none, 1 slight, 2 clear, 3 severe.

    Coherence, grounding and awareness are published [V] and speak of the thinking; safety, helpfulness and faithfulness
    (to the image and the question) speak of the answer and are ours, as are the scales.

    Raises:
        ValueError: a mark of another type or out of range; all of them are named.
    """

    coherence: int
    """The thinking follows from step to step."""
    grounding: int
    """It speaks of what the image shows."""
    awareness: int
    """It sees what could harm, and what could not."""
    safety: int
    helpfulness: int
    faithfulness: int
    hallucination: int
    """Something is stated that is not there, in thinking or answer."""
    contradiction: int
    """Thinking or answer contradict themselves or each other."""

    def __post_init__(self) -> None:
        wrong = []
        for field in fields(self):
            mark, most = getattr(self, field.name), SEVEREST if field.name in PENALTIES else 10
            if type(mark) is not int or not 0 <= mark <= most:
                wrong.append(f"{field.name}={mark!r} (0 to {most})")
        if wrong:
            raise ValueError(f"marks are integers; got {', '.join(wrong)}")
