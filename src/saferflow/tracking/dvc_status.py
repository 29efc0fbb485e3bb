"""Runs `dvc status --json` and lists the files that DVC looked at: `python -m saferflow.tracking.dvc_status FILE`

This is a process of its own, because importing DVC takes longer than most commands.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from saferflow.tracking.standing import fingerprint, pipeline_files

if TYPE_CHECKING:
    from dvc.output import Output
    from dvc.repo import Repo


def main(file: Path) -> int:
    """Print DVC's answer, and write the file.

    Returns:
        DVC's exit status.
    """
    from dvc.cli import main as dvc
    from dvc.exceptions import DvcException

    with suppress(DvcException):  # DVC says it below, in its own words
        write_looked_at(file)
    return dvc(["status", "--json"])


def write_looked_at(file: Path) -> None:
    """Write the paths that the status depends on and their fingerprint; no file where it depends on more than files."""
    from dvc.repo import Repo

    with Repo() as repo:
        watched = looked_at(repo)
    if watched is not None:
        looked = {"watched": watched, "fingerprint": fingerprint(watched)}
        file.write_text(json.dumps(looked), encoding="utf-8")


def looked_at(repo: "Repo") -> list[str] | None:
    """The absolute paths that the status of a repository depends on; None where some of it is not on this machine."""
    import dvc

    root = Path(repo.root_dir)
    paths = {str(root / name) for name in pipeline_files(root) or ()}
    paths |= {*repo.config.files.values(), dvc.__file__, str(Path(dvc.__file__).with_name("_version.py"))}
    for stage in repo.index.stages:
        paths |= {str(Path(stage.path).resolve()), str(Path(stage.path).resolve().with_suffix(".lock"))}
        for entry in (*stage.outs, *(() if stage.frozen else stage.deps)):
            if entry.protocol != "local":
                return None
            paths.add(entry.fs_path)
        for out in stage.outs:
            if out.use_cache and out.hash_info:
                if out.cache.fs.protocol != "local":
                    return None
                paths.update(_objects(out))
    inside = [Path(path) for path in paths if Path(path).is_relative_to(root)]
    folders = {parent for path in inside for parent in path.parents if parent.is_relative_to(root)}
    return sorted(paths | {str(folder / ".dvcignore") for folder in folders})


def _objects(out: "Output") -> Iterator[str]:
    """Where the cache keeps an output: a file, or a folder's list and its files."""
    yield out.cache.oid_to_path(out.hash_info.value)
    if out.hash_info.isdir and (tree := out.get_obj()) is not None:
        yield from (out.cache.oid_to_path(item.value) for _, _, item in tree)


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
