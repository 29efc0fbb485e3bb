"""Finds files and folders by DVC's hash in this checkout's cache or its remote, whatever the workspace holds now."""

import hashlib
import shutil
import subprocess
from pathlib import Path

from saferflow.errors import PipelineError
from saferflow.tracking import dvc_remote
from saferflow.tracking.graph import DVC

NAME = "stored"


def stored(digest: str, folder: Path, project: Path | None = None) -> Path:
    """A file or folder with this hash, for reading. Anything but a file in the cache goes into `folder`, empty before.

    Args:
        project: a folder with a configuration that `dvc_remote` wrote; None for the checkout in the working directory.

    Raises:
        PipelineError: neither cache nor remote has it, or the cache's file is damaged.
    """
    held = dvc_remote.cache_of(Path.cwd()) if project is None else dvc_remote.cache_named(project)
    if project is not None and not held.is_dir():  # another machine's
        held = folder / ".dvc" / "cache"
    file = held / "files" / "md5" / digest[:2] / digest[2:]
    if file.is_file() and not digest.endswith(".dir"):
        if hashlib.md5(file.read_bytes(), usedforsecurity=False).hexdigest() != digest:
            raise PipelineError(
                f"{file} is not what DVC put there: something changed it; delete it, and dvc fetch it anew"
            )
        return file
    (folder / ".dvc").mkdir()
    for name in ("config", "config.local"):
        if (config := (project or Path()) / ".dvc" / name).exists():
            shutil.copy(config, folder / ".dvc" / name)
    (folder / f"{NAME}.dvc").write_text(f"outs:\n- md5: {digest}\n  hash: md5\n  path: {NAME}\n", encoding="utf-8")
    _dvc(folder, "config", "--local", "core.no_scm", "true")
    _dvc(folder, "cache", "dir", "--local", str(held))
    if _dvc(folder, "checkout", f"{NAME}.dvc").returncode:
        done = _dvc(folder, "pull", f"{NAME}.dvc")
        if done.returncode:
            raise PipelineError(
                f"DVC's cache in {held} does not hold {digest}, and no remote gave it: {done.stderr.strip()[-300:]}"
            )
    return folder / NAME


def _dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*DVC, *arguments], cwd=folder, capture_output=True, text=True, check=False)
