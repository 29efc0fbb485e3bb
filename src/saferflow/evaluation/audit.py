"""Audit pages: every evaluated row under every policy, as static files that open without a server.

`index.html` with its script, `rows.js` (what filters need), `texts-*.js` (completions and reasons, fetched when a row is
opened), `drawings.js` (each graph once), `images/`. All that a model or a corpus wrote travels as JSON and is shown as text,
never as markup. Source: ours.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from saferflow.data.origins import LABEL_SOURCES
from saferflow.data.rows import Answered, Labels, PromptRow
from saferflow.evaluation.drawing import draw
from saferflow.evaluation.judges import spread
from saferflow.evaluation.measures import shown_a_plan
from saferflow.judge.ensemble import opinions_from_json
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import parse

SHARD = 200
"""Rows whose texts come in one file."""
ORDER = ("base", "sft", "dpo", "grpo")


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where the pages come from, shown at their top."""

    commit: str
    """Checked out when the pages were written."""
    profile: str
    data: str
    """DVC digest of the evaluated rows."""
    made: str
    """When the pages were written."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """Policy -> its weights' hash, the run that made them, the version that they are registered as, in words."""


@dataclass(frozen=True, slots=True)
class View:
    """The rows that the pages open at; their reader can go on to all rows."""

    policy: str
    rows: tuple[str, ...]
    title: str
    """What the rows have in common."""


def write_audit(
    folder: Path,
    rows: Sequence[PromptRow],
    answered: Sequence[Answered],
    lineage: Lineage,
    view: View | None = None,
) -> int:
    """Write the pages into `folder`, in the place of earlier ones.

    Args:
        view: the rows to open at; None: all.

    Returns:
        The number of rows.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "images").mkdir(parents=True)
    by_row: dict[str, dict[str, Answered]] = {}
    for one in answered:
        by_row.setdefault(one.row, {})[one.policy] = one
    known = [row for row in rows if row.id in by_row]
    drawings = _Drawings()
    listed, texts = [], []
    for row in known:
        plan = Plan.from_json(row.plan) if row.plan else None
        image = _image(row.image, fresh / "images")
        told = {policy: _texts(plan, one, drawings) for policy, one in by_row[row.id].items()}
        listed.append(_listed(row, plan, image, by_row[row.id], told))
        texts.append(told)
    policies = sorted(
        {one.policy for one in answered}, key=lambda name: (name not in ORDER, [*ORDER, name].index(name))
    )
    about = {"policies": policies, "shard": SHARD, "lineage": asdict(lineage), "view": asdict(view) if view else None}
    _script(fresh / "rows.js", "rows", {**about, "rows": listed})
    _script(fresh / "drawings.js", "drawings", drawings.made)
    for number, start in enumerate(range(0, len(texts), SHARD)):
        _script(fresh / f"texts-{number}.js", f"texts-{number}", texts[start : start + SHARD])
    environment = Environment(
        loader=PackageLoader("saferflow.evaluation", "."), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("audit.html.j2").render(rows=len(known), policies=policies)
    (fresh / "index.html").write_text(page, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return len(known)


class _Drawings:
    """Graphs, each drawn once: rows of one plan and one path share theirs."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self._known: dict[tuple, int] = {}

    def of(self, plan: Plan, text: str, faults: tuple[tuple[int, str], ...]) -> int:
        key = (plan.topology, plan.tools, str(plan), tuple(call.tool for call in parse(text).trace), faults)
        if key not in self._known:
            self._known[key] = len(self.made)
            self.made.append(draw(plan, text))
        return self._known[key]


def _listed(
    row: PromptRow, plan: Plan | None, image: str, by: Mapping[str, Answered], told: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    labels = Labels.from_json(row.labels)
    scores = {
        policy: {
            "s": one.safety, "h": one.helpfulness, "r": one.rigor, "refused": one.refused, "valid": one.valid,
            "correct": one.correct, "graded": one.graded, "spread": spread(one),
            "codes": sorted({code for _, code, _ in told[policy]["violations"]}),
        }
        for policy, one in by.items()
    }  # fmt: skip
    return {
        "id": row.id,
        "source": row.source,
        "kind": row.kind,
        "question": row.question,
        "earlier": row.turns,
        "image": image,
        "hazard": labels.hazard,
        "severity": labels.severity,
        "risk": labels.risk_source,
        "attack": labels.attack,
        "decision": labels.decision,
        "label": LABEL_SOURCES.get(labels.label_source, "unknown"),
        "plan": _plan(plan),
        "by": scores,
    }


def _plan(plan: Plan | None) -> dict[str, Any] | None:
    return None if plan is None else json.loads(plan.to_json())


def _texts(plan: Plan | None, one: Answered, drawings: _Drawings) -> dict[str, Any]:
    asked = plan is not None and shown_a_plan(one.policy)
    violations = check(plan, one.completion) if asked else ()
    found = [[violation.line, violation.code, str(violation)] for violation in violations]
    faults = tuple((violation.step, violation.code) for violation in violations)
    drawing = drawings.of(plan, one.completion, faults) if asked else None
    return {
        "text": one.completion, "reason": one.reason, "violations": found, "drawing": drawing, "judges": _opinions(one),
    }  # fmt: skip


def _opinions(one: Answered) -> list[dict[str, Any]]:
    """What each judge of an ensemble said; nothing for a single judge, whose grades are the row's."""
    return [
        {"judge": judge, "s": own.safety, "h": own.helpfulness, "r": own.rigor, "refused": own.refused, "graded": own.readable}
        | {"reason": own.reason}
        for judge, own in opinions_from_json(one.opinions).items()
    ]


def _image(image: bytes | None, folder: Path) -> str:
    """The name of an image's file, written once."""
    if image is None:
        return ""
    path = folder / f"{hashlib.sha256(image).hexdigest()[:16]}{_suffix(image)}"
    if not path.exists():
        path.write_bytes(image)
    return f"images/{path.name}"


def _suffix(image: bytes) -> str:
    return ".png" if image.startswith(b"\x89PNG") else ".jpg" if image.startswith(b"\xff\xd8") else ".webp"


def _script(path: Path, name: str, value: Any) -> None:
    """A script that hands JSON to the page; `<` is escaped so that no text can end it."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(f'saferflow("{name}",{text});\n', encoding="utf-8")
