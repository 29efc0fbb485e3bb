"""The files of a registered version: finds them and checks that they are what was registered."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlparse

from saferflow.errors import PipelineError
from saferflow.release.registry import MODEL_DIGEST, Version
from saferflow.tracking.runs import fetch_artifact
from saferflow.tracking.stored import stored

Fetch = Callable[[str, str, Path], Path]
"""Copies a run's artifact into a folder and returns the copy: (run, path, folder) -> copy."""


@contextmanager
def weights_of(version: Version) -> Iterator[Path]:
    """Yield the folder with a version's files, after checking each byte against the registered digest.

    Raises:
        PipelineError: the files are not there, or are not those that were registered.
    """
    name = f"{version.model} version {version.number}"
    with weights_at(version.source, version.tags.get(MODEL_DIGEST, ""), name) as folder:
        yield folder


@contextmanager
def weights_at(
    source: str, digest: str, name: str, *, project: Path | None = None, fetch: Fetch = fetch_artifact
) -> Iterator[Path]:
    """Yield the folder with the files at an address, after checking each byte against the registered digest.

    Args:
        source: `runs:/RUN/PATH`, `dvc://DIGEST/PATH` or `file:///FOLDER`.
        digest: DVC's hash of the folder.
        name: of the version, for errors.
        project: a folder with the `.dvc/config` that says where DVC keeps files; None for the working directory.
        fetch: copies a run's artifact into a folder.

    Raises:
        PipelineError: the files are not there, or have another digest.
    """
    with TemporaryDirectory() as temporary:
        address = urlparse(source)
        if address.scheme == "runs":
            run, _, path = source.removeprefix("runs:/").partition("/")
            folder = fetch(run, path, Path(temporary))
        elif address.scheme == "dvc":
            folder = stored(address.netloc, Path(temporary), project)
        elif address.scheme == "file":
            folder = Path(unquote(address.path))
        else:
            raise PipelineError(f"{name} lies at {source}, which is no run, no file and not in DVC")
        if not folder.is_dir():
            raise PipelineError(f"{name}: {folder} is not there any more; dvc checkout its commit, or dvc pull")
        actual = folder_digest(folder)
        if actual != digest:
            raise PipelineError(
                f"{name}: the files at {source} are not those that were registered (DVC's hash is {actual}, the registry says "
                f"{digest or 'none'}); something changed them: do not serve them"
            )
        yield folder


def folder_digest(folder: Path) -> str:
    """DVC's hash of a folder: the MD5 of the list of its files' paths and MD5s."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": _md5(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    listed.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
