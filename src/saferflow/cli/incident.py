"""`saferflow incident`: requests that were answered wrongly become labelled rows, which are trained on and asked again."""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import yaml
from filelock import FileLock
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.cli.data_add import dvc, forget_source
from saferflow.cli.show import cut
from saferflow.data.images import check_image
from saferflow.data.incidents import (
    FOLDER,
    SOURCE,
    Incident,
    Report,
    find_incident,
    incident_id,
    read_incidents,
    save_picture,
    with_report,
    write_incidents,
)
from saferflow.data.kinds import kind_of
from saferflow.data.leakage import Entry, near_twin
from saferflow.data.own import own_records, own_row
from saferflow.data.records import Record
from saferflow.data.rows import PromptRow, Turn, whole_question
from saferflow.data.tables import read_table
from saferflow.errors import DataError
from saferflow.layout import EVALUATION
from saferflow.params import OwnSource, Params
from saferflow.serving import store
from saferflow.serving.refusal import Refusal
from saferflow.serving.request import read_request
from saferflow.tracking import environment

FORMER = environment.HOME / "incidents"
"""What the source was, while it is changed."""
POINTER = FOLDER.with_suffix(".dvc")
ENTRY = OwnSource(kind="jsonl", path=str(FOLDER), licence=None, evaluation_share=0, fields={}, hazards={})
"""Of `data.sources`; the share is never drawn, for each row says its side."""
COMPLETION = "chatcmpl-"
"""How the ids of exchanges begin."""
SHOWN = 60
"""Characters of a text in the list."""


@dataclass(frozen=True, slots=True)
class Case:
    """A request that was answered wrongly, and what is right where its reporter said it."""

    earlier: tuple[Turn, ...]
    question: str
    image: bytes | None
    report: Report
    decision: str = ""
    hazard: str = ""
    severity: int | None = None


@dataclass(frozen=True, slots=True)
class Label:
    """What the command line says is right; empty and None where it says nothing."""

    decision: str = ""
    hazard: str = ""
    severity: int | None = None


def add(
    console: Console, root: Path, params: Params, asked: str, why: str, label: Label, *, picture: Path | None = None
) -> list[Incident]:
    """Make rows of an exchange that the server kept, or of the reports in a file, and put them under DVC.

    Args:
        asked: the exchange's id, or a file of rows as `data add` reads them.
        picture: the picture of an exchange whose picture was not kept.

    Raises:
        DataError: a request has no label, is none that is answered here, or a twin of it says another thing is right.
        PipelineError: the store does not hold the exchange.
    """
    file = root / asked
    if not file.exists() and not asked.startswith(COMPLETION):
        raise DataError(f"{asked}: no such file; and no completion, whose id begins with {COMPLETION}")
    cases = reported(file, params, why) if file.exists() else [kept(root, params, asked, why, picture)]
    cases = [_labelled(case, label, asked) for case in cases]
    with _changing(root, console) as incidents:
        changed = [_joined(console, root, params, incidents, case) for case in cases]
        write_incidents(root / FOLDER, incidents)
    if all(getattr(source, "path", "") != ENTRY.path for source in params.data.sources):
        entry = yaml.safe_dump([ENTRY.model_dump(mode="json")], sort_keys=False)
        console.print(
            Text(f"\nName the source in params.yaml, under data.sources, so that retrain sees it:\n\n{entry}")
        )
    return changed


def remove(console: Console, root: Path, name: str) -> None:
    """Take an incident out of the source, and what the store holds of it.

    Raises:
        DataError: there is no such incident.
    """
    with _changing(root, console) as incidents:
        found = _named(incidents, name)
        incidents.remove(found)
        write_incidents(root / FOLDER, incidents)
    gone = sum(store.forget(root / store.FILE, report.exchange) for report in found.reports if report.exchange)
    console.print(Text(f"{found.id} is out of {FOLDER}, and {gone} exchanges of it are out of {store.FILE}"))
    console.print(
        Text(f"what was made from it: saferflow lineage who {found.id}; older versions of the source: dvc gc --cloud")
    )


def show(console: Console, root: Path, *, as_json: bool) -> None:
    """Print every incident: what is right, its side, how often it was reported, and why."""
    incidents = read_incidents(root / FOLDER)
    if as_json:
        console.print_json(json.dumps([asdict(one) for one in incidents]))
        return
    if not incidents:
        console.print(
            "no incident was added yet; saferflow incident add makes one of a request that was answered wrongly"
        )
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("incident", "right is", "hazard", "side", "reports", "first", "question", "why"):
        table.add_column(heading, no_wrap=heading in ("incident", "first"))
    for one in incidents:
        first = one.reports[0]
        told = (one.decision, one.hazard or "-", "held out" if one.held_out else "training", str(len(one.reports)))
        texts = (Text(cut(text, SHOWN)) for text in (one.question, first.why))
        table.add_row(one.id, *told, first.at[:10], *texts)
    console.print(table)


def _labelled(case: Case, label: Label, asked: str) -> Case:
    told = {name: value for name, value in asdict(label).items() if value not in ("", None)}
    case = replace(case, **told)
    if not case.decision:
        raise DataError(
            f"{asked}: nothing says what is right here: give --decision answer, answer_with_care, redirect or refuse, and "
            "--hazard where there is harm"
        )
    return case


def kept(root: Path, params: Params, name: str, why: str, picture: Path | None) -> Case:
    """The request of an exchange that the server kept.

    Raises:
        PipelineError: the store does not hold it.
        DataError: its words were redacted, or its picture was not kept and is not given.
    """
    held = store.exchange(root / store.FILE, name)
    image = held.picture
    if held.picture_digest and image is None:
        if picture is None:
            raise DataError(f"{name}: its picture was not kept (serve.store.pictures); give the file: --picture FILE")
        image = picture.read_bytes()
        if hashlib.sha256(image).hexdigest() != held.picture_digest:
            raise DataError(f"--picture {picture}: this is not the picture of {name}, its digest is another")
    shown = f"data:image/any;base64,{base64.b64encode(image).decode()}" if image is not None else ""
    body = json.dumps(held.request).replace(f"{store.PICTURE}{held.picture_digest}", shown)
    try:
        conversation = read_request(body.encode(), params.data)
    except Refusal as refusal:
        raise DataError(
            f"{name}: what was kept of it is no request ({refusal}); serve.store.redact may have taken out too much, bring the "
            "request as a file instead"
        ) from None
    if store.REDACTED in conversation.texts:
        raise DataError(f"{name}: serve.store.redact took its words out; bring the request as a file instead")
    report = Report(_now(), why, name, str(held.served.version))
    return Case(conversation.earlier, conversation.question, conversation.image, report)


def reported(file: Path, params: Params, why: str) -> list[Case]:
    """The requests in a file of rows, in any form that `data add` reads.

    Raises:
        DataError: a row cannot be read, or there is none.
    """
    source = ENTRY.model_copy(update={"kind": kind_of(file), "path": str(file)})
    cases = []
    for record in own_records(source):
        if not isinstance(record, Record):
            raise DataError(f"{record.file}:{record.line}: {record.reason}")
        try:
            row = own_row(record, source, params.data, params.run.seed)
        except DataError as error:
            raise DataError(f"{record.file}:{record.number}: {error}") from None
        last = row.question.removeprefix(whole_question(row.earlier, ""))
        labels = (row.labels.decision, row.labels.hazard, row.labels.severity) if row.labels else ()
        cases.append(Case(row.earlier, last, row.image, Report(_now(), why), *labels))
    if not cases:
        raise DataError(f"{file}: it holds no row; write one JSON object a line: question or messages, image, decision")
    return cases


def _joined(console: Console, root: Path, params: Params, incidents: list[Incident], case: Case) -> Incident:
    """Put a case into the list: as a report of the incident that is its twin, else as a new row."""
    folder, bounds = root / FOLDER, (params.validation.twin_text, params.validation.twin_image_bits)
    question = whole_question(case.earlier, case.question)
    entry = Entry(SOURCE, "", question, case.image)
    if twin := near_twin(entry, entries(folder, incidents), *bounds):
        place, former = next((n, one) for n, one in enumerate(incidents) if one.id == twin.held_out)
        if former.decision != case.decision:
            raise DataError(
                f"{former.id} is a twin of this request, and says that {former.decision} is right; here it is {case.decision}. "
                f"Decide which, and take the other out: saferflow incident remove {former.id}"
            )
        incidents[place] = with_report(former, case.report)
        console.print(Text(f"{former.id}: reported {len(incidents[place].reports)} times now; a twin of it was there"))
        return incidents[place]
    held_out = _held_out_twin(console, root, entry, bounds)
    name = incident_id(case.earlier, case.question, case.image)
    image = save_picture(folder, case.image) if case.image is not None else ""
    label = (case.decision, case.hazard, case.severity)
    made = Incident(name, case.earlier, case.question, image, *label, held_out, (case.report,))
    _readable(made, folder, params)
    incidents.append(made)
    side = "held out" if made.held_out else "for training"
    console.print(Text(f"{made.id}: new, {side}; every candidate is asked it from now on"))
    return made


def _held_out_twin(console: Console, root: Path, entry: Entry, bounds: tuple[float, int]) -> bool:
    """Whether the held-out table has a twin: a row that measures must not be trained on."""
    file = root / EVALUATION
    if not file.exists():
        console.print(Text(f"{EVALUATION} is not here: stage validate will stop if a held-out row is a twin of this one"))
        return False
    rows = [row for row in read_table(file, PromptRow) if row.source != SOURCE]
    twin = near_twin(entry, (Entry("evaluation", row.id, row.question, row.image) for row in rows), *bounds)
    if twin:
        console.print(Text(f"held-out row {twin.held_out} is a twin of it, so it is held out too"))
    return twin is not None


def _readable(incident: Incident, folder: Path, params: Params) -> None:
    """Read a row as stage `plan` will.

    Raises:
        DataError: it could not.
    """
    if incident.image:
        check_image((folder / incident.image).read_bytes(), "of the incident", params.data.max_image_pixels)
    record = Record(str(folder / f"{SOURCE}.jsonl"), 1, json.loads(incident.to_json()))
    own_row(record, ENTRY.model_copy(update={"path": str(folder)}), params.data, params.run.seed)


def entries(folder: Path, incidents: Iterable[Incident]) -> list[Entry]:
    """What leakage sees of incidents."""
    return [
        Entry(SOURCE, one.id, one.user_text, (folder / one.image).read_bytes() if one.image else None)
        for one in incidents
    ]


@contextmanager
def _changing(root: Path, console: Console) -> Iterator[list[Incident]]:
    """The incidents, to be changed by one process at a time; DVC then has them, or they are as they were.

    Raises:
        DataError: the source is under DVC and not in this checkout, or DVC does not take it.
    """
    folder, pointer = root / FOLDER, root / POINTER
    (root / environment.HOME).mkdir(exist_ok=True)
    with FileLock(root / environment.HOME / "incidents.lock"):
        former = root / FORMER
        if former.exists() and not folder.exists():  # killed as it was put back
            shutil.move(former, folder)
        if pointer.exists() and not folder.exists():
            raise DataError(f"{FOLDER} is under DVC and not in this checkout; bring it first: dvc pull {POINTER}")
        incidents = read_incidents(folder)
        shutil.rmtree(former, ignore_errors=True)
        if folder.exists():
            shutil.copytree(folder, former)
        try:
            yield incidents
            if incidents:
                dvc("add", str(FOLDER))
                console.print(Text(f"{FOLDER} is under DVC. Keep the pointer: git add {POINTER}"))
            else:
                forget_source(folder, pointer)
                console.print(Text(f"it was the last one: take {FOLDER} out of data.sources"))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if former.exists():
                shutil.move(former, folder)
            raise
        finally:
            shutil.rmtree(former, ignore_errors=True)


def _named(incidents: list[Incident], name: str) -> Incident:
    found = find_incident(incidents, name)
    if found is None:
        raise DataError(f"{FOLDER} holds no incident {name[:80]!r}; saferflow incident list names them")
    return found


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
