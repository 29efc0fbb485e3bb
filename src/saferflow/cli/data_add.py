"""`saferflow data add`: bring a corpus into data/sources under DVC, once it was read and its licence allows it."""

import shutil
import stat
import subprocess
import tarfile
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from saferflow.data.corpora import CORPORA
from saferflow.data.origins import label_notice, label_origin
from saferflow.data.rows import BadRow, Row
from saferflow.data.sources import SHOWN, bad_rows_error, licence_of, parts, refuse_licences, rows_of
from saferflow.errors import DataError
from saferflow.params import CorpusSource, OwnSource, Params
from saferflow.tracking.graph import DVC

SOURCES = Path("data/sources")
STAGED = Path(".saferflow/adding")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass
class Counted:
    """What a source holds."""

    rows: int = 0
    by: dict[str, Counter] = field(
        default_factory=lambda: {name: Counter() for name in ("split", "expected", "hazard", "label from")}
    )
    bad: list[BadRow] = field(default_factory=list)
    bad_count: int = 0
    unmapped: Counter = field(default_factory=Counter)
    """The corpus's words for harm that no table maps, of its harmful rows."""


def add(
    name: str, path: str, params: Params, source: CorpusSource | OwnSource, console: Console, *, dry_run: bool
) -> None:
    """Copy or import `path` to data/sources/NAME, read it whole, show what is in it, and put it under DVC.

    Nothing stays under data/sources if it cannot be read or its licence is not allowed.

    Raises:
        DataError: the path, an archive's content, a row or the licence is no good, or there is such a source already.
    """
    target, pointer = SOURCES / name, SOURCES / f"{name}.dvc"
    if target.exists() or pointer.exists():
        raise DataError(
            f"{target} is there already; choose another name, or remove it first: dvc remove {pointer} --outs"
        )
    refuse_licences(params.model_copy(update={"data": params.data.model_copy(update={"sources": (source,)})}))
    shutil.rmtree(STAGED, ignore_errors=True)
    held, kept = STAGED / name, False
    try:
        if "://" in path:
            _dvc("import-url", path, str(target))
            held = target
        else:
            _bring(Path(path), held)
        counted = count(source.model_copy(update={"path": str(held)}), params)
        _show(counted, name, source, console)
        if counted.bad and params.data.on_bad_row == "fail":
            raise bad_rows_error(counted.bad, counted.bad_count)
        if not counted.rows:
            raise DataError(f"{path}: no row is readable; see the reasons above")
        if dry_run:
            console.print("dry run: nothing was added")
            return
        if held != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(held, target)
            _dvc("add", str(target))
        kept = True
    finally:
        shutil.rmtree(STAGED, ignore_errors=True)
        if not kept:
            _forget(target, pointer)
    entry = yaml.safe_dump([source.model_dump(mode="json")], sort_keys=False, allow_unicode=True)
    console.print(Text(f"\n{target} is under DVC. Keep the pointer: git add {pointer}"))
    console.print(Text("Name it in params.yaml, under data.sources:\n"))
    console.print(Text(entry))


def source_of(
    name: str, path: str, kind: str | None, licence: str | None, fields: list[str], hazards: list[str]
) -> CorpusSource | OwnSource:
    """The entry of `data.sources` for a corpus of this name, or for rows of one's own.

    Raises:
        DataError: the name, the kind or a mapping is no good.
    """
    given = {"path": str(SOURCES / name), "hazards": _pairs(hazards, "--hazard")}
    try:
        if name in CORPORA:
            if kind or licence or fields:
                raise DataError(
                    f"{name} is a published corpus: it has its own kind, licence and fields; choose another name"
                )
            return CorpusSource(kind="corpus", name=name, share=1.0, evaluation_share=None, **given)
        if kind is None and ("://" in path or path.endswith(ARCHIVES)):
            raise DataError(f"what kind of rows does {path} hold? say --kind jsonl, parquet or datasets")
        found = kind or kind_of(Path(path))
        own = _pairs(fields, "--field")
        return OwnSource(
            kind=found, licence=licence, evaluation_share=0.2, fields=own, hazards=given.pop("hazards"), **given
        )
    except ValidationError as error:
        raise DataError("; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())) from None


def _pairs(given: list[str], option: str) -> dict[str, str]:
    pairs = [one.split("=", 1) for one in given]
    if wrong := [one for one, pair in zip(given, pairs, strict=True) if len(pair) != 2]:
        raise DataError(f"{option} {wrong[0]!r} has no =; write {option} ONE=OTHER")
    return dict(pairs)


def count(source: CorpusSource | OwnSource, params: Params) -> Counted:
    """Read every row of a source as stage `plan` would."""
    own = params.model_copy(update={"data": params.data.model_copy(update={"sources": (source,)})})
    counted, seen = Counted(), set()
    for part in parts(own):
        for item in part.content:
            word = getattr(item, "word", "")
            if word and item.harmful and not CORPORA[source.name].hazard(word, source.hazards):
                counted.unmapped[word] += 1
        for placed in rows_of(part, own):
            if isinstance(placed.found, BadRow):
                counted.bad_count += 1
                counted.bad += [placed.found][: SHOWN - len(counted.bad)]
            elif placed.found.id not in seen:
                seen.add(placed.found.id)
                counted.rows += 1
                _tally(placed.found, counted, own)
    return counted


def _tally(row: Row, counted: Counted, params: Params) -> None:
    counted.by["split"][row.split] += 1
    counted.by["expected"][row.labels.decision if row.labels else "(see label)"] += 1
    counted.by["hazard"][(row.labels.hazard or "(the planner says)") if row.labels else "(see label)"] += 1
    counted.by["label from"][label_origin(row, params)] += 1


def _show(counted: Counted, name: str, source: CorpusSource | OwnSource, console: Console) -> None:
    console.print(Text(f"{name}: {counted.rows:,} rows, licence {licence_of(source) or 'not stated'}"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for aspect, values in counted.by.items():
        for first, (value, rows) in enumerate(sorted(values.items(), key=lambda item: -item[1])):
            table.add_row("" if first else aspect, value, f"{rows:,}")
    console.print(table)
    if notice := label_notice(counted.by["label from"]):
        console.print(Text(notice, "bold"))
    if counted.unmapped:
        words = ", ".join(f"{word} ({rows:,})" for word, rows in counted.unmapped.most_common(10))
        console.print(
            Text(f"words for harm that no table maps, left to the planner: {words}; map them in hazards of the source")
        )
    if counted.bad:
        console.print(Text(str(bad_rows_error(counted.bad, counted.bad_count)).rpartition("\n")[0]))


def kind_of(path: Path) -> str:
    """`jsonl`, `parquet` or `datasets`, by what stands at a path.

    Raises:
        DataError: none of them does.
    """
    if (path / "dataset_info.json").exists() or (path / "dataset_dict.json").exists():
        return "datasets"
    for kind in ("jsonl", "parquet"):
        if path.suffix == f".{kind}" or (path.is_dir() and any(path.glob(f"*.{kind}"))):
            return kind
    raise DataError(
        f"{path}: no *.jsonl or *.parquet file and no dataset saved by datasets; name one of the corpora to have it read as "
        f"its authors publish it: {', '.join(CORPORA)}"
    )


def _bring(path: Path, held: Path) -> None:
    """Copy a file or folder, or unpack an archive, to `held`."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        shutil.copytree(path, held, symlinks=False)
        return
    held.mkdir(parents=True)
    if path.name.endswith(ARCHIVES):
        unpack(path, held)
    else:
        shutil.copy(path, held)


def unpack(archive: Path, to: Path) -> None:
    """Unpack an archive into a folder, whole or not at all.

    Raises:
        DataError: a member would land outside the folder or is a link or a device, the disk has no room for it, or the
            archive is broken.
    """
    room = shutil.disk_usage(to).free
    try:
        if archive.suffix == ".zip":
            with zipfile.ZipFile(archive) as file:
                members = file.infolist()
                for member in members:
                    if stat.S_ISLNK(member.external_attr >> 16):
                        raise DataError(f"{archive}: member {member.filename!r} is a link; none is unpacked")
                    _inside(archive, member.filename, to)
                _fits(archive, sum(member.file_size for member in members), room)
                file.extractall(to)  # noqa: S202 every name was looked at
        else:
            with tarfile.open(archive) as file:
                _fits(archive, sum(member.size for member in file.getmembers()), room)
                file.extractall(to, filter="data")
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: {error}; nothing was unpacked") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked: {error}") from None


def _inside(archive: Path, name: str, to: Path) -> None:
    if not (to / name).resolve().is_relative_to(to.resolve()):
        raise DataError(f"{archive}: member {name!r} would land outside the folder; nothing was unpacked")


def _fits(archive: Path, size: int, room: int) -> None:
    if size > room:
        raise DataError(f"{archive}: unpacks to {size:,} bytes, and the disk has {room:,} left")


def _forget(target: Path, pointer: Path) -> None:
    """Take away what was brought in and is not to stay."""
    if pointer.exists():
        _dvc("remove", "--outs", str(pointer))
    shutil.rmtree(target, ignore_errors=True)
    if target.is_file():
        target.unlink()


def _dvc(*command: str) -> None:
    done = subprocess.run([*DVC, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"dvc {' '.join(command)} failed:\n{(done.stderr or done.stdout).strip()}")
