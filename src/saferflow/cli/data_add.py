"""`saferflow data add`: reads a corpus, checks its licence, and puts it into data/sources under DVC."""

import shutil
import subprocess
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.text import Text

from saferflow.cli.data_counts import count, show
from saferflow.data.corpora import CORPORA
from saferflow.data.forms import reading
from saferflow.data.images import path_of
from saferflow.data.kinds import by_kind, is_archive, kind_of, unpack
from saferflow.data.own import ENDINGS, TIED, own_records
from saferflow.data.records import Record
from saferflow.data.sources import bad_rows_error, refuse_licences
from saferflow.errors import DataError
from saferflow.params import CorpusSource, OwnSource, Params
from saferflow.tracking.graph import DVC

SOURCES = Path("data/sources")
STAGED = Path(".saferflow/adding")


def add(
    name: str,
    path: str,
    params: Params,
    source: CorpusSource | OwnSource,
    console: Console,
    *,
    images: Path | None = None,
    dry_run: bool,
) -> None:
    """Copy or import `path` to data/sources/NAME, read it whole, show what is in it, and put it under DVC.

    Nothing stays under data/sources if it cannot be read or its licence is not allowed.

    Args:
        images: the folder to which the rows' picture paths are relative; None: the folder of the rows.

    Raises:
        DataError: the path, an archive's content, a row or the licence is invalid, or the source exists already.
    """
    target, pointer = SOURCES / name, SOURCES / f"{name}.dvc"
    there = target.exists() or pointer.exists()
    if there and not dry_run:
        raise DataError(
            f"{target} is there already; choose another name, or remove it first: dvc remove {pointer} --outs"
        )
    refuse_licences(params.model_copy(update={"data": params.data.model_copy(update={"sources": (source,)})}))
    shutil.rmtree(STAGED, ignore_errors=True)
    held, kept = target if "://" in path and not dry_run else STAGED / name, dry_run
    try:
        _fetch(path, held, source, images, dry_run=dry_run)
        _read(path, held, name, params, source, console)
        if dry_run:
            console.print(
                "dry run: nothing was added" + (f"; the name {name} is taken, choose another" if there else "")
            )
            return
        if held != target:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(held, target)
            dvc("add", str(target))
        kept = True
    finally:
        shutil.rmtree(STAGED, ignore_errors=True)
        if not kept:
            forget_source(target, pointer)
    entry = yaml.safe_dump([source.model_dump(mode="json")], sort_keys=False, allow_unicode=True)
    console.print(Text(f"\n{target} is under DVC. Keep the pointer: git add {pointer}"))
    console.print(Text("Name it in params.yaml, under data.sources:\n"))
    console.print(Text(entry))


def _fetch(path: str, held: Path, source: CorpusSource | OwnSource, images: Path | None, *, dry_run: bool) -> None:
    """Copy or import a path or an address to `held`; a dry run does not track an address."""
    if "://" in path:
        held.parent.mkdir(parents=True, exist_ok=True)
        dvc("get-url" if dry_run else "import-url", path, str(held))
    else:
        _bring(Path(path), held, source, images)


def _read(path: str, held: Path, name: str, params: Params, source: CorpusSource | OwnSource, console: Console) -> None:
    """Read the fetched rows, and print what they hold.

    Raises:
        DataError: rows are no good and the params forbid it, or there is no row.
    """
    counted = count(source.model_copy(update={"path": str(held)}), params, str(SOURCES / name))
    theirs = path if is_archive(path) or Path(path).is_dir() or "://" in path else str(Path(path).parent)
    counted.rename(str(held), theirs)
    show(counted, name, source, held, console)
    if counted.bad and params.data.on_bad_row == "fail":
        raise bad_rows_error(counted.bad, counted.bad_count)
    if counted.bad:
        console.print(Text(str(bad_rows_error(counted.bad, counted.bad_count)).rpartition("\n")[0]))
    if not counted.rows:
        kind = f", read as --kind {source.kind}" if isinstance(source, OwnSource) else ""
        why = "no row is readable; see the reasons above" if counted.bad else "it holds no row"
        raise DataError(f"{path}: {why}{kind}")


def source_of(
    name: str, path: str, kind: str | None, licence: str | None, fields: list[str], hazards: list[str]
) -> CorpusSource | OwnSource:
    """The entry of `data.sources` for a published corpus of this name, or for the user's own rows.

    Raises:
        DataError: the name, the kind or a mapping is invalid.
    """
    given = {"path": str(SOURCES / name), "hazards": _pairs(hazards, "--hazard")}
    try:
        if name in CORPORA:
            if kind or licence or fields:
                raise DataError(
                    f"{name} is a published corpus: it has its own kind, licence and fields; choose another name"
                )
            return CorpusSource(kind="corpus", name=name, share=1.0, evaluation_share=None, **given)
        file_kind = kind or (_kind_behind(path) if "://" in path else kind_of(Path(path)))
        own = _pairs(fields, "--field")
        return OwnSource(
            kind=file_kind, licence=licence, evaluation_share=0.2, fields=own, hazards=given.pop("hazards"), **given
        )
    except ValidationError as error:
        raise DataError("; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())) from None


def _kind_behind(address: str) -> str:
    """The kind of file behind an address, by its suffix.

    Raises:
        DataError: the ending does not say.
    """
    kinds = by_kind([address.partition("?")[0]])
    if not kinds or is_archive(address):
        raise DataError(f"what kind of rows does {address[:200]} hold? say --kind {', '.join([*ENDINGS, 'datasets'])}")
    return next(iter(kinds))


def _pairs(given: list[str], option: str) -> dict[str, str]:
    pairs = [text.split("=", 1) for text in given]
    if wrong := [text for text, pair in zip(given, pairs, strict=True) if len(pair) != 2]:
        raise DataError(f"{option} {wrong[0]!r} has no =; write {option} ONE=OTHER")
    return dict(pairs)


def _bring(path: Path, held: Path, source: CorpusSource | OwnSource, images: Path | None) -> None:
    """Copy a file or folder with the pictures that its rows name, or unpack an archive, to `held`."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    paths = isinstance(source, OwnSource) and source.kind not in TIED
    if images is not None and not (paths and images.is_dir()):
        why = "no such folder" if paths else "only rows of your own name pictures by paths; leave it out"
        raise DataError(f"--images {images}: {why}")
    try:
        _copy(path, held, source)
    except OSError as error:
        raise DataError(f"{path}: cannot be copied: {str(error)[:400]}") from None
    if paths and (path.is_file() or images is not None):
        _bring_pictures(source.model_copy(update={"path": str(held)}), images or path.parent)


def _copy(path: Path, held: Path, source: CorpusSource | OwnSource) -> None:
    if path.is_dir():
        shutil.copytree(path, held, symlinks=False)
    else:
        held.mkdir(parents=True)
        whole = source.kind == "webdataset" and path.suffix.casefold() != ".zip"
        if is_archive(path) and not whole:
            unpack(path, held)
        else:
            shutil.copy(path, held)


def _bring_pictures(source: OwnSource, root: Path) -> None:
    """Copy the pictures that rows name by paths relative to `root`, to the same paths beside the rows.

    A path that leaves `root`, and one where nothing is, stays out; whoever reads the row says so.
    """
    for record in own_records(source):
        try:
            name = path_of(reading(record.values, source.fields).picture) if isinstance(record, Record) else ""
            picture, beside = (root / name).resolve(), Path(record.file).parent / name
            inside = not Path(name).is_absolute() and picture.is_relative_to(root.resolve())
            if name and inside and picture.is_file() and not beside.exists():
                beside.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(picture, beside)
        except (DataError, OSError, ValueError):
            continue


def forget_source(target: Path, pointer: Path) -> None:
    """Delete a source's files and its DVC pointer."""
    if pointer.exists():
        dvc("remove", "--outs", str(pointer))
    shutil.rmtree(target, ignore_errors=True)
    if target.is_file():
        target.unlink()


def dvc(*command: str) -> None:
    """Run a DVC command.

    Raises:
        DataError: it failed; the message has its output.
    """
    done = subprocess.run([*DVC, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DataError(f"dvc {' '.join(command)} failed:\n{(done.stderr or done.stdout).strip()}")
