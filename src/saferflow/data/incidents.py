"""The source `incidents`: requests that were answered wrongly, each with its right label. Source: ours.

data/sources/incidents/incidents.jsonl holds one row per line; pictures lie beside it. Each row says whether it is held out.
Near twins share one row. The file is replaced as a whole, so that neither a kill nor DVC's cache sees half of it.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from PIL import Image

from saferflow.data.rows import DPORow, PromptRow, SFTRow, Turn, content_id, whole_question
from saferflow.data.tables import atomic
from saferflow.errors import DataError
from saferflow.protocol.plan import Plan

SOURCE = "incidents"
"""The source of its rows in the tables."""
FOLDER = Path("data/sources") / SOURCE
FILE = f"{SOURCE}.jsonl"
PICTURES = "pictures"


@dataclass(frozen=True, slots=True)
class Report:
    """One report of an incident."""

    at: str
    """Time of the report, ISO 8601."""
    why: str
    """What was wrong with the answer."""
    exchange: str = ""
    """The completion's id, where the server kept it."""
    version: str = ""
    """The version that answered, where known."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A row of the source."""

    id: str
    earlier: tuple[Turn, ...]
    question: str
    """The user's last message."""
    image: str
    """The picture's path beside the file; empty where there is none."""
    decision: str
    hazard: str
    """S1..S14, none, or empty if not given."""
    severity: int | None
    held_out: bool
    reports: tuple[Report, ...]

    @property
    def user_text(self) -> str:
        """All of the user's messages, one line per turn."""
        return whole_question(self.earlier, self.question)

    def to_json(self) -> str:
        """The incident as a line of the file, in the form that stage `plan` reads."""
        turns = [(who, text) for turn in self.earlier for who, text in zip(("user", "assistant"), turn, strict=True)]
        messages = [{"role": who, "content": text} for who, text in (*turns, ("user", self.question))]
        fields = {"id": self.id, "messages": messages, "decision": self.decision, "held_out": self.held_out}
        optional = {"image": self.image, "hazard": self.hazard, "severity": self.severity}
        fields |= {name: value for name, value in optional.items() if value not in ("", None)}
        return json.dumps(fields | {"reports": [asdict(report) for report in self.reports]}, ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> "Incident":
        """Read a line that `to_json` wrote."""
        raw = json.loads(line)
        texts = [message["content"] for message in raw["messages"]]
        earlier = tuple(zip(texts[:-1:2], texts[1::2], strict=True))
        reports = tuple(Report(**report) for report in raw["reports"])
        values = (raw.get("image", ""), raw["decision"], raw.get("hazard", ""), raw.get("severity"), raw["held_out"])
        return cls(raw["id"], earlier, texts[-1], *values, reports)


def incident_id(earlier: Sequence[Turn], question: str, image: bytes | None) -> str:
    """The id of a conversation about a picture: equal content gives an equal id."""
    texts = [whole_question(earlier, question), *(assistant for _, assistant in earlier)]
    return content_id(SOURCE, "\0".join(texts), image)


def read_incidents(folder: Path) -> list[Incident]:
    """Read the source's rows, in the order in which they were added; none where there is no file.

    Raises:
        DataError: a line was not written by `write_incidents`.
    """
    file = folder / FILE
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n") if file.exists() else []
    incidents = []
    for number, line in enumerate(lines, 1):
        try:
            incidents.append(Incident.from_json(line))
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise DataError(
                f"{file}:{number}: no incident as saferflow incident add writes it ({type(error).__name__}: {error!s:.100}); "
                "bring the file back: dvc checkout " + str(folder)
            ) from None
    return incidents


def write_incidents(folder: Path, incidents: Iterable[Incident]) -> None:
    """Replace the file by these rows, and delete pictures that no row names."""
    rows = list(incidents)
    with atomic(folder / FILE) as partial:
        partial.write_text("".join(f"{row.to_json()}\n" for row in rows), encoding="utf-8")
    named = {row.image for row in rows}
    for picture in (folder / PICTURES).glob("*"):
        if f"{PICTURES}/{picture.name}" not in named:
            picture.unlink()


def save_picture(folder: Path, image: bytes) -> str:
    """Save a checked picture under its digest; returns its path relative to the folder."""
    with Image.open(io.BytesIO(image)) as opened:
        ending = opened.format.lower()
    name = f"{PICTURES}/{hashlib.sha256(image).hexdigest()[:16]}.{ending}"
    with atomic(folder / name) as partial:
        partial.write_bytes(image)
    return name


def find_incident(incidents: Iterable[Incident], name: str) -> Incident | None:
    """The incident with this id, or the one that a completion with this id was reported for; None where there is none."""
    return next(
        (incident for incident in incidents if name in (incident.id, *(report.exchange for report in incident.reports))), None
    )


def with_report(incident: Incident, report: Report) -> Incident:
    """The incident with one more report."""
    return replace(incident, reports=(*incident.reports, report))


def repeated(rows: Sequence[SFTRow], incidents: int, topologies: Mapping[str, int]) -> list[SFTRow]:
    """The rows as an epoch shows them.

    Args:
        incidents: how often each row of source `incidents` comes.
        topologies: how often each other row comes, by its plan's topology; others, and rows without a plan, come once.
    """

    def times(row: SFTRow) -> int:
        if row.source == SOURCE:
            return incidents
        return topologies.get(Plan.from_json(row.plan).topology, 1) if row.plan else 1

    return [row for row in rows for _ in range(times(row))]


def prompt_of(name: str, row: SFTRow | DPORow | PromptRow) -> PromptRow:
    """The prompt of a table's row, as the table `incidents` holds it.

    Args:
        name: the record's id; a pair's own id also names its fault.
    """
    kind = getattr(row, "kind", "safety")
    return PromptRow(name, row.source, kind, row.image, row.system, row.question, row.plan, row.labels, row.earlier)
