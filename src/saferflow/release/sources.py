"""The part of the package's source that a module needs: what it imports, directly or through others, read from the source."""

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

import saferflow

PACKAGE = Path(saferflow.__file__).parent


def copy_needed(module: Path, folder: Path) -> None:
    """Copy the modules that a module of the package needs into `folder/saferflow`, with the data files beside them."""
    files = needed(module)
    beside = {path for file in files for path in file.parent.iterdir() if path.is_file() and path.suffix != ".py"}
    for file in files | beside:
        target = folder / PACKAGE.name / file.relative_to(PACKAGE)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def needed(module: Path) -> set[Path]:
    """The files of a module and of all package modules that it imports; imports inside functions count."""
    files, pending = set(), [module]
    while pending:
        if (file := pending.pop()) not in files:
            files.add(file)
            pending += _imported(file)
    return files


def _imported(file: Path) -> Iterator[Path]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == PACKAGE.name:
                yield from _files(name.split(".")[1:])


def _files(parts: list[str]) -> Iterator[Path]:
    """The packages and the module that a dotted name goes through; its last part may be a name in a module."""
    folder = PACKAGE
    yield folder / "__init__.py"
    for part in parts:
        if (folder / f"{part}.py").exists():
            yield folder / f"{part}.py"
            return
        folder = folder / part
        if not (folder / "__init__.py").exists():
            return
        yield folder / "__init__.py"
