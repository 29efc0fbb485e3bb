"""Caches the output of `dvc status` until a file that DVC looks at changes, because DVC takes seconds.

DVC itself lists what it looks at (`dvc_status`): its files, dependencies, outputs, their objects in the cache, its settings. A
file counts as unchanged if its inode, size and times are the same, as for DVC. In any case of doubt (another environment, a
new .dvc file, a link to a folder, no git) DVC runs again. Source: ours.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from saferflow.errors import PipelineError
from saferflow.layout import HOME

MEMORY = HOME / "dvc_status.json"
ENVIRONMENT = ("HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
"""Variables that tell DVC where to look for settings, beside its own."""
PIPELINES = ("dvc.yaml", "*/dvc.yaml", "*.dvc", "*.dvcignore", "*.gitignore")
"""Patterns, for git, of the files by which DVC finds stages or ignores them."""
IGNORED = "__pycache__"
"""Name of a folder in .dvcignore, which Python writes while this runs."""


def status(root: Path) -> str:
    """The output of `dvc status --json`.

    Raises:
        PipelineError: DVC cannot read the project; the message holds DVC's words.
    """
    circumstances = _circumstances(root)
    if circumstances is not None and (known := _known(root, circumstances)) is not None:
        return known
    with TemporaryDirectory() as folder:
        file = Path(folder) / "looked.json"
        answer = ask(root, file)
        if circumstances is not None and file.exists():
            _remember(root, circumstances, json.loads(file.read_text(encoding="utf-8")), answer)
    return answer


def ask(root: Path, file: Path) -> str:
    """Run DVC for its answer; the list of files that it looked at goes into `file`.

    Raises:
        PipelineError: DVC cannot read the project.
    """
    command = [sys.executable, "-m", "saferflow.tracking.dvc_status", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    if done.returncode:
        words = "\n".join(line for line in done.stderr.splitlines() if line.strip()) or "(no message)"
        raise PipelineError(f"dvc status failed:\n{words}")
    return done.stdout


def _known(root: Path, circumstances: dict) -> str | None:
    try:
        held = json.loads((root / MEMORY).read_text(encoding="utf-8"))
        same = held["circumstances"] == circumstances and held["fingerprint"] == fingerprint(held["watched"])
        return held["answer"] if same else None
    except (OSError, ValueError, KeyError, TypeError):  # none, or one that was cut off
        return None


def _remember(root: Path, circumstances: dict, looked: dict, answer: str) -> None:
    """Store an answer, unless something changed while DVC ran."""
    if looked["fingerprint"] is None or fingerprint(looked["watched"]) != looked["fingerprint"]:
        return
    if not (root / MEMORY).parent.is_dir() or _circumstances(root) != circumstances:
        return
    partial = (root / MEMORY).with_suffix(f".{os.getpid()}.partial")
    with suppress(OSError):  # a full disk costs the memory and nothing else
        partial.write_text(json.dumps({"circumstances": circumstances, **looked, "answer": answer}), encoding="utf-8")
        partial.replace(root / MEMORY)


def _circumstances(root: Path) -> dict | None:
    """Everything but files that DVC's answer depends on; None outside git, where new files cannot be found quickly."""
    listed = pipeline_files(root)
    if listed is None:
        return None
    environ = {name: value for name, value in os.environ.items() if name.startswith("DVC_") or name in ENVIRONMENT}
    return {"root": str(root.resolve()), "python": sys.executable, "environment": environ, "files": listed}


def pipeline_files(root: Path) -> list[str] | None:
    """The files of `PIPELINES` that git tracks or would track, relative to the root; None outside git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *PIPELINES]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    return None if done.returncode else sorted(set(filter(None, done.stdout.split("\0"))))


def fingerprint(paths: Iterable[str]) -> str | None:
    """A digest of files, and of folders with their content; None where one holds a link to a folder."""
    digest = hashlib.sha256()
    try:
        for path in paths:
            for line in _states(path):
                digest.update(line.encode(errors="surrogateescape"))
    except _LinkToFolder:
        return None
    return digest.hexdigest()


class _LinkToFolder(Exception):
    """A link to a folder, whose target is not looked at."""


def _states(path: str) -> Iterator[str]:
    """Yield a line of inode, size and times for each file at or below a path; a folder's own times mean nothing."""
    try:
        stat = os.stat(path)  # noqa: PTH116 a hundred thousand of them
    except OSError:
        yield f"{path}\0absent\n"
        return
    if not os.path.isdir(path):  # noqa: PTH112 as above
        yield f"{path}\0{stat.st_ino} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_mode}\n"
        return
    if os.path.islink(path):  # noqa: PTH114
        raise _LinkToFolder(path)
    yield f"{path}\0folder\n"
    for name in sorted(os.listdir(path)):  # noqa: PTH208
        if name != IGNORED:
            yield from _states(f"{path}/{name}")
