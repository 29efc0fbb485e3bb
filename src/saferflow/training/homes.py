"""Folders with the checkpoints that a stage resumes from: `checkpoints/<stage>/<key>/`, outside the outputs that DVC deletes.

The key is a digest of everything that the stage trains from, so that other parameters, rows or code never go on from it.
Source: ours.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from saferflow.params import Section
from saferflow.training.launch import from_leader, is_main_process

ROOT = Path("checkpoints")
LIBRARIES = ("torch", "transformers", "trl", "peft")


def home(stage: str, inputs: Iterable[Path], sections: Iterable[Section], seed: int, root: Path = ROOT) -> Path:
    """The folder of a stage with exactly these inputs; all processes of the stage call it, and one reads the inputs.

    Args:
        inputs: files, and folders with all that is in them, that the stage trains from.
    """
    return root / stage / from_leader(f"home {stage}", lambda: _key(inputs, sections, seed))


def delete_others(kept: Path) -> None:
    """Delete the folders of the same stage with other inputs, in the leading process."""
    if is_main_process() and kept.parent.is_dir():
        for folder in kept.parent.iterdir():
            if folder != kept:
                shutil.rmtree(folder)


@contextmanager
def shelf(name: str, root: Path = ROOT) -> Iterator[Path | None]:
    """The folder `checkpoints/<name>` for the block, deleted when the block ends well; it holds what to go on from, by keys.

    None where another process has it: what is done then is kept nowhere.
    """
    folder = root / name
    root.mkdir(parents=True, exist_ok=True)
    lock = FileLock(root / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError):  # another has it, or the file system knows no locks
        yield None
        return
    try:
        yield folder
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def files_in(paths: Iterable[Path]) -> list[Path]:
    """The files among the paths, and all files in the folders among them."""
    files: list[Path] = []
    for path in paths:
        inside = path.rglob("*") if path.is_dir() else [path]
        files += [file for file in inside if file.is_file() and "__pycache__" not in file.parts]
    return files


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def libraries() -> str:
    """The versions of the libraries that numbers depend on."""
    return " ".join(version(name) for name in LIBRARIES)


def _key(inputs: Iterable[Path], sections: Iterable[Section], seed: int) -> str:
    digest = hashlib.sha256(json.dumps([seed, *(section.model_dump(mode="json") for section in sections)]).encode())
    digest.update(libraries().encode())
    for path in sorted(files_in([*inputs, Path(__file__).parent])):
        digest.update(path.name.encode() + hash_of(path).encode())
    return digest.hexdigest()[:16]
