"""Finds the kind of source at a path by the names of its files, and unpacks archives.

Source: ours.
"""

import shutil
import stat
import tarfile
import zipfile
from collections import Counter
from itertools import islice
from pathlib import Path

from saferflow.data.corpora import CORPORA
from saferflow.data.own import ENDINGS, SAVED
from saferflow.data.shards import TAR, is_hidden, is_shard
from saferflow.errors import DataError

ARCHIVES = (".zip", *TAR)
LOOKED_AT = 2000
"""Most members of an archive, or files of a folder, whose names are looked at."""
WRITTEN_AS = {
    (
        ".xlsx",
        ".xls",
        ".ods",
    ): "import pandas; pandas.read_excel({path!r}).to_json({rows!r}, orient='records', lines=True)",
    (".feather",): "import pandas; pandas.read_feather({path!r}).to_parquet({table!r})",
    (".arrow",): "import datasets; datasets.Dataset.from_file({path!r}).to_parquet({table!r})",
    (".txt",): "import json; open({rows!r}, 'w').writelines(json.dumps(dict(question=line.strip())) + chr(10) "
    "for line in open({path!r}) if line.strip())",
    (".orc",): "import pandas; pandas.read_orc({path!r}).to_parquet({table!r})",
}
"""Ending of an unsupported file -> a line of Python that converts it to a supported one."""


def kind_of(path: Path) -> str:
    """The kind of `OwnSource` at a path.

    Raises:
        DataError: the path holds no known kind; the message names a conversion where one line does it.
    """
    names = _names(path)
    plain = {name for name in names if "/" not in name}
    if SAVED[0] in plain or _is_saved(names):
        return "datasets"
    if not path.is_file() or is_archive(path):
        if is_shard(names):
            return "webdataset"
        if any(name.rpartition("/")[2] in ("state.json", SAVED[0]) for name in names):
            return "datasets"
    kinds = by_kind(names)
    if is_archive(path):
        kinds.pop("webdataset", None)
    elif any(is_shard(_names(path / name)) for name in names[:LOOKED_AT] if path.is_dir() and is_archive(name)):
        return "webdataset"
    else:
        kinds.pop("webdataset", None)
    if kinds:
        return next(kind for kind in ENDINGS if kind in kinds)
    raise DataError(_unknown(path))


def by_kind(names: list[str]) -> Counter:
    """Kind -> number of these files that have it, by their names."""
    counts = Counter()
    for name in names:
        kind = next((kind for kind, endings in ENDINGS.items() if name.casefold().endswith(endings)), None)
        counts.update([kind] if kind else [])
    return counts


def is_archive(path: Path | str) -> bool:
    """Whether a path ends like an archive that `unpack` reads."""
    return str(path).casefold().endswith(ARCHIVES)


def _is_saved(names: list[str]) -> bool:
    """Whether `datasets` saved a folder; LLaMA-Factory gives the same name to a list of its JSON files."""
    others = [name for name in names if name.endswith(ENDINGS["json"]) and name not in (*SAVED, "state.json")]
    return SAVED[1] in names and ("state.json" in names or not others)


def _names(path: Path) -> list[str]:
    """The files at a path, relative to it: its own name, those in a folder, or those in an archive.

    Raises:
        DataError: an archive cannot be read.
    """
    if path.is_dir():
        names = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    elif not is_archive(path) or not path.exists():
        names = iter([path.name])
    else:
        names = iter(_members(path))
    return [name.removeprefix("./") for name in names if not is_hidden(name)]


def _members(archive: Path) -> list[str]:
    try:
        if archive.suffix.casefold() == ".zip":
            with zipfile.ZipFile(archive) as file:
                return [name for name in file.namelist() if not name.endswith("/")]
        with tarfile.open(archive) as file:
            return [member.name for member in islice(file, LOOKED_AT) if member.isfile()]
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(
            f"what kind of rows does {archive} hold? say --kind; it cannot be unpacked: {str(error)[:200]}"
        ) from None


def _unknown(path: Path) -> str:
    line = next((line for endings, line in WRITTEN_AS.items() if path.suffix.casefold() in endings), None)
    if line:
        line = line.format(
            path=str(path), rows=f"{path.with_suffix('')}.jsonl", table=f"{path.with_suffix('')}.parquet"
        )
        return f'{path}: *{path.suffix} is not read; this writes it as a file that is: python -c "{line}"'
    known = ", ".join(f"*{endings[0]}" for endings in ENDINGS.values())
    return (
        f"{path}: no {known} file and no dataset saved by datasets. Write the rows as one JSON object a line, "
        f"rows.jsonl; or name one of the corpora to have it read as its authors publish it: {', '.join(CORPORA)}"
    )


def unpack(archive: Path, to: Path) -> None:
    """Unpack an archive into a folder, whole or not at all.

    Raises:
        DataError: a member would land outside the folder or is a link or a device, the disk has no room for it, or the
            archive is broken.
    """
    room = shutil.disk_usage(to).free
    try:
        if archive.suffix.casefold() == ".zip":
            with zipfile.ZipFile(archive) as file:
                members = file.infolist()
                for member in members:
                    if stat.S_ISLNK(member.external_attr >> 16):
                        raise DataError(f"{archive}: member {member.filename[:80]!r} is a link; none is unpacked")
                    _inside(archive, member.filename, to)
                _fits(archive, sum(member.file_size for member in members), room)
                file.extractall(to)  # noqa: S202 every name was looked at
        else:
            with tarfile.open(archive) as file:
                _fits(archive, sum(member.size for member in file.getmembers()), room)
                file.extractall(to, filter="data")
    except tarfile.FilterError as error:
        raise DataError(f"{archive}: {str(error)[:200]}; nothing was unpacked") from None
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{archive}: cannot be unpacked: {str(error)[:200]}") from None


def _inside(archive: Path, name: str, to: Path) -> None:
    if not (to / name).resolve().is_relative_to(to.resolve()):
        raise DataError(f"{archive}: member {name[:80]!r} would land outside the folder; nothing was unpacked")


def _fits(archive: Path, size: int, room: int) -> None:
    if size > room:
        raise DataError(f"{archive}: unpacks to {size:,} bytes, and the disk has {room:,} left")
