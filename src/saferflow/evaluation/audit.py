"""Audit pages: every evaluated row under every policy, as static files that open without a server.

`index.html` with its script, `rows.js` (what filters need), `texts-*.js` (completions and reasons, fetched when a row is
opened), `drawings.js` (each graph once), `images/`. Text by a model or a corpus is stored as JSON and shown as text, never as
markup. Source: ours.
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
from saferflow.layout import in_order
from saferflow.protocol.check import check
from saferflow.protocol.plan import Plan
from saferflow.protocol.trace import parse

SHARD = 200
"""Rows per file of texts."""


@dataclass(frozen=True, slots=True)
class Lineage:
    """The origin of the pages, shown at their top."""

    commit: str
    """The commit that was checked out when the pages were written."""
    profile: str
    data: str
    """DVC digest of the evaluated rows."""
    made: str
    """Time at which the pages were written."""
    policies: Mapping[str, str] = field(default_factory=dict)
    """Policy -> hash of its weights, the run that produced them, and their registered version, in words."""


@dataclass(frozen=True, slots=True)
class View:
    """The rows that the pages open with; a reader can go on to all rows."""

    policy: str
    rows: tuple[str, ...]
    title: str
    """The common property of the rows."""


def write_audit(
    folder: Path,
    rows: Sequence[PromptRow],
    answered: Sequence[Answered],
    lineage: Lineage,
    view: View | None = None,
) -> int:
    """Write the pages into `folder`; they replace earlier ones.

    Args:
        view: the rows to open with; None: all.

    Returns:
        The number of rows.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    (fresh / "images").mkdir(parents=True)
    by_row: dict[str, dict[str, Answered]] = {}
    for answer in answered:
        by_row.setdefault(answer.row, {})[answer.policy] = answer
    known = [row for row in rows if row.id in by_row]
    drawings = _Drawings()
    listed, texts = [], []
    for row in known:
        plan = Plan.from_json(row.plan) if row.plan else None
        image = _image(row.image, fresh / "images")
        details = {policy: _texts(plan, answer, drawings) for policy, answer in by_row[row.id].items()}
        listed.append(_listed(row, plan, image, by_row[row.id], details))
        texts.append(details)
    policies = in_order({answer.policy for answer in answered})
    about = {"policies": policies, "shard": SHARD, "lineage": asdict(lineage), "view": asdict(view) if view else None}
    _script(fresh / "rows.js", "rows", {**about, "rows": listed})
    _script(fresh / "drawings.js", "drawings", drawings.svgs)
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
    """The graphs, each drawn once: rows with the same plan and path share one."""

    def __init__(self) -> None:
        self.svgs: list[str] = []
        self._known: dict[tuple, int] = {}

    def of(self, plan: Plan, text: str, faults: tuple[tuple[int, str], ...]) -> int:
        key = (plan.topology, plan.tools, str(plan), tuple(call.tool for call in parse(text).trace), faults)
        if key not in self._known:
            self._known[key] = len(self.svgs)
            self.svgs.append(draw(plan, text))
        return self._known[key]


def _listed(
    row: PromptRow, plan: Plan | None, image: str, by: Mapping[str, Answered], details: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    labels = Labels.from_json(row.labels)
    scores = {
        policy: {
            "s": answer.safety, "h": answer.helpfulness, "r": answer.rigor, "refused": answer.refused, "valid": answer.valid,
            "correct": answer.correct, "graded": answer.graded, "spread": spread(answer),
            "codes": sorted({code for _, code, _ in details[policy]["violations"]}),
        }
        for policy, answer in by.items()
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


def _texts(plan: Plan | None, answer: Answered, drawings: _Drawings) -> dict[str, Any]:
    planned = plan is not None and shown_a_plan(answer.policy)
    violations = check(plan, answer.completion) if planned else ()
    messages = [[violation.line, violation.code, str(violation)] for violation in violations]
    faults = tuple((violation.step, violation.code) for violation in violations)
    drawing = drawings.of(plan, answer.completion, faults) if planned else None
    return {
        "text": answer.completion, "reason": answer.reason, "violations": messages, "drawing": drawing,
        "judges": _opinions(answer),
    }  # fmt: skip


def _opinions(answer: Answered) -> list[dict[str, Any]]:
    """The grades of each judge of an ensemble; empty for a single judge, whose grades are the row's."""
    return [
        {"judge": judge, "s": own.safety, "h": own.helpfulness, "r": own.rigor, "refused": own.refused, "graded": own.readable}
        | {"reason": own.reason}
        for judge, own in opinions_from_json(answer.opinions).items()
    ]


def _image(image: bytes | None, folder: Path) -> str:
    """Write an image once; returns the name of its file."""
    if image is None:
        return ""
    path = folder / f"{hashlib.sha256(image).hexdigest()[:16]}{_suffix(image)}"
    if not path.exists():
        path.write_bytes(image)
    return f"images/{path.name}"


def _suffix(image: bytes) -> str:
    return ".png" if image.startswith(b"\x89PNG") else ".jpg" if image.startswith(b"\xff\xd8") else ".webp"


def _script(path: Path, name: str, value: Any) -> None:
    """Write a script that passes JSON to the page; `<` is escaped so that no text can end the script."""
    text = json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
    path.write_text(f'saferflow("{name}",{text});\n', encoding="utf-8")
