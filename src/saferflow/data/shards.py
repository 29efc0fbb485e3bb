"""WebDataset: files that share a name up to the first dot are one record, in a tar or in a folder.

`000.jpg`, `000.json`, `000.txt`: the fields of an object in `.json` are the record's own; `NAME.txt` is the field NAME, plain
`.txt` the field txt; the pictures are `image`; a file of another ending is a field of that name.
Source: the WebDataset format; the code is ours, tarfile reads the archive.
"""

import codecs
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from saferflow.data.forms import USUAL
from saferflow.data.records import BROKEN, WHOLE, Found, Record
from saferflow.data.rows import BadRow

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "img")
MEMBER = 256 * 2**20
"""Largest member that is read, in bytes."""
TAR = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a record."""

    name: str
    """Its path inside the shard."""
    size: int
    content: Any
    """Its bytes, or for a picture in a folder its path, relative to the folder; None where it is too large to be read."""

    @property
    def key(self) -> str:
        """The key of its record: folder, and name up to the first dot."""
        path = PurePosixPath(self.name)
        return str(path.parent / path.name.partition(".")[0])

    @property
    def ending(self) -> str:
        """Its name from the first dot on, in lower case, without that dot."""
        return PurePosixPath(self.name).name.partition(".")[2].casefold()


def is_hidden(name: str) -> bool:
    """Whether a file belongs to the operating system or a tool and holds no data."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePosixPath(name).parts)


def tar_rows(file: Path) -> Found:
    """Yield the records of a shard, in order; files of one record must be adjacent."""
    try:
        with tarfile.open(file, "r|*") as archive:
            yield from _records(file, _members(archive))
    except (tarfile.TarError, *BROKEN) as error:
        yield BadRow(str(file), WHOLE, f"not a readable tar: {str(error)[:200]}", "")


def folder_rows(folder: Path) -> Found:
    """Yield the records of a folder that holds a shard's files, in the order of their names."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    members = (_held(folder, name) for name in names if not is_hidden(name))
    yield from _records(folder, sorted(members, key=lambda member: (member.key, member.name)))


def is_shard(names: Iterable[str]) -> bool:
    """Whether files form a WebDataset: most texts and objects have a picture of the same name."""
    members = [Member(name, 0, None) for name in names if not is_hidden(name)]
    pictured = {member.key for member in members if member.ending.rpartition(".")[2] in PICTURES}
    texts = [member.key for member in members if member.ending.rpartition(".")[2] in ("json", "txt")]
    beside = sum(key in pictured for key in texts)
    return beside * 2 > len(texts)


def _members(archive: tarfile.TarFile) -> Iterator[Member]:
    for member in archive:
        if member.isfile() and not is_hidden(member.name):
            content = archive.extractfile(member).read() if member.size <= MEMBER else None
            yield Member(member.name, member.size, content)


def _held(folder: Path, name: str) -> Member:
    path, size = folder / name, (folder / name).stat().st_size
    if Member(name, 0, None).ending.rpartition(".")[2] in PICTURES:
        return Member(name, size, name)
    return Member(name, size, path.read_bytes() if size <= MEMBER else None)


def _records(shard: Path, members: Iterable[Member]) -> Found:
    for number, (key, files) in enumerate(groupby(members, key=lambda member: member.key), 1):
        record, pictures = Record(str(shard), number, {}), {}
        try:
            for member in files:
                _put(member, record.values, pictures)
        except ValueError as error:
            yield record.bad(f"{key[:80]}: {str(error)[:200]}")
            continue
        if pictures:
            _put_pictures(pictures, record.values)
        yield record


def _put_pictures(pictures: dict[str, Any], values: dict[str, Any]) -> None:
    """Set a sample's field `image` to its pictures, in place of their names in its JSON."""
    for field in USUAL["image"]:
        named = values.get(field)
        names = named if isinstance(named, list) else [named]
        if all(isinstance(name, str) and PurePosixPath(name).name in pictures for name in names):
            values.pop(field)
    others = values.pop("image", [])
    values["image"] = [*pictures.values(), *(others if isinstance(others, list) else [others])]


def _put(member: Member, values: dict[str, Any], pictures: dict[str, Any]) -> None:
    """Add a file's content to the fields of its record, or to the record's pictures by name.

    Raises:
        ValueError: the file is too large, or not what its ending says.
    """
    name, _, last = member.ending.rpartition(".")
    if member.content is None:
        raise ValueError(f".{member.ending} has {member.size:,} bytes, more than the {MEMBER:,} that are read")
    if last in PICTURES:
        pictures[PurePosixPath(member.name).name] = member.content
    elif last == "json":
        held = json.loads(member.content.removeprefix(codecs.BOM_UTF8))
        values.update(held if isinstance(held, dict) and not name else {name or "json": held})
    elif last in ("txt", "cls", "id", "caption", "text"):
        values[name or last] = member.content.decode("utf-8-sig").strip("\r\n")
    else:
        values[member.ending or "data"] = member.content
