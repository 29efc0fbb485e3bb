"""The files of a registered version: where they are, and that they are what was registered."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlparse

from saferflow.errors import PipelineError
from saferflow.tracking.registry import MODEL_DIGEST, Version
from saferflow.tracking.runs import fetch_artifact
from saferflow.tracking.stored import stored


@contextmanager
def weights_of(version: Version) -> Iterator[Path]:
    """The folder with a version's files, for the block; each byte is what was registered.

    Raises:
        PipelineError: the files are not there, or are not those that were registered.
    """
    with TemporaryDirectory() as folder:
        address = urlparse(version.source)
        if address.scheme == "runs":
            run, _, name = version.source.removeprefix("runs:/").partition("/")
            found = fetch_artifact(run, name, Path(folder))
        elif address.scheme == "dvc":
            found = stored(address.netloc, Path(folder))
        elif address.scheme == "file":
            found = Path(unquote(address.path))
        else:
            raise PipelineError(
                f"{version.model} version {version.number} lies at {version.source}, which is no run, no file and not in DVC"
            )
        if not found.is_dir():
            raise PipelineError(
                f"{version.model} version {version.number}: {found} is not there any more; dvc checkout its commit, or dvc pull"
            )
        digest, told = folder_digest(found), version.tags.get(MODEL_DIGEST, "")
        if digest != told:
            raise PipelineError(
                f"{version.model} version {version.number}: the files at {version.source} are not those that were registered "
                f"(DVC's hash is {digest}, the registry says {told or 'none'}); something changed them: do not serve them"
            )
        yield found


def dvc_address(digest: str, path: str) -> str:
    """Where a registered version's files are that DVC keeps: its cache or remote has them by hash, whatever ran since."""
    return f"dvc://{digest}/{path}"


def folder_digest(folder: Path) -> str:
    """DVC's hash of a folder: of the list of its files' paths and MD5s."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": _md5(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    listed.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
