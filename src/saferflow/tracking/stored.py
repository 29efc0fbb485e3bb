"""Files and folders by DVC's hash, whatever the workspace holds now: from this checkout's cache, or its remote."""

import shutil
import subprocess
from pathlib import Path

from saferflow.errors import PipelineError
from saferflow.tracking.graph import DVC

NAME = "stored"


def stored(digest: str, folder: Path) -> Path:
    """A file or folder with this hash; a repository made in `folder`, which is empty, asks for it.

    Raises:
        PipelineError: neither cache nor remote has it.
    """
    (folder / ".dvc").mkdir()
    for name in ("config", "config.local"):
        if (config := Path(".dvc") / name).exists():
            shutil.copy(config, folder / ".dvc" / name)
    (folder / f"{NAME}.dvc").write_text(f"outs:\n- md5: {digest}\n  hash: md5\n  path: {NAME}\n", encoding="utf-8")
    cache = _dvc(Path(), "cache", "dir").stdout.strip()
    _dvc(folder, "config", "--local", "core.no_scm", "true")
    _dvc(folder, "cache", "dir", "--local", cache)
    if _dvc(folder, "checkout", f"{NAME}.dvc").returncode:
        done = _dvc(folder, "pull", f"{NAME}.dvc")
        if done.returncode:
            raise PipelineError(
                f"DVC's cache in {cache} does not hold {digest}, and no remote gave it: {done.stderr.strip()[-300:]}"
            )
    return folder / NAME


def _dvc(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([*DVC, *arguments], cwd=folder, capture_output=True, text=True, check=False)
