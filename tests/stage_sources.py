"""The source files that each stage of dvc.yaml depends on, from the import graph.

    make sources        writes them into dvc.yaml; a test compares

A file that is missing would leave stale outputs that DVC calls up to date; one too many would run a stage for nothing.
"""

import ast
from functools import cache
from pathlib import Path

import grimp
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
WITHOUT_EFFECT = {
    "saferflow": "a docstring",
    "saferflow.errors": "messages only",
    "saferflow.layout": "names only: each file and stage is in dvc.yaml, where DVC sees it",
    "saferflow.params": "types only: each value is in params.yaml, where DVC sees it (two tests hold it to that)",
    "saferflow.tracking": "watches a stage, and gives it nothing",
}
"""Modules whose edits change no output of any stage, and why; DVC need not know them."""
WHOLE = ("src/saferflow/data/scenes", "src/saferflow/protocol")
"""Folders that change as a whole: a stage that imports a part of them depends on all."""


def imported_files(stage: str) -> set[str]:
    """Files, relative to the repository, of all modules of ours that a stage imports, directly or not."""
    seen: set[str] = set()
    waiting = {f"saferflow.stages.{stage}"}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        imported = _graph().find_modules_directly_imported_by(module)
        # Importing a.b.c runs a and a.b first.
        packages = {module.rsplit(".", up)[0] for up in range(1, module.count(".") + 1)}
        waiting |= {name for name in imported | packages if name not in seen and not _without_effect(name)}
    return {_file(module).relative_to(ROOT).as_posix() for module in seen if not _only_a_docstring(_file(module))}


def sources(stage: str) -> list[str]:
    """A stage's files, in order, and the folders of `WHOLE` in place of theirs."""
    folder = {file: next((whole for whole in WHOLE if file.startswith(f"{whole}/")), file) for file in imported_files(stage)}
    return sorted(set(folder.values()))


def is_source(dependency: str) -> bool:
    return dependency.startswith("src/") and not dependency.endswith(".j2")


def write(file: Path = ROOT / "dvc.yaml") -> None:
    """Write each stage's sources behind what else it reads; comments and the rest of the file stay."""
    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width, yaml.preserve_quotes = 200, True
    graph = yaml.load(file)
    for stage, declared in graph["stages"].items():
        deps = declared["deps"]
        for place in reversed(range(len(deps))):  # by deletion: comments stay at what they are of
            if is_source(deps[place]):
                del deps[place]
        deps.extend(sources(stage))
    yaml.dump(graph, file)


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph("saferflow", cache_dir=None)


@cache
def _file(module: str) -> Path:
    base = ROOT.joinpath("src", *module.split("."))
    return next(path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists())


@cache
def _only_a_docstring(file: Path) -> bool:
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text(encoding="utf-8")).body)


def _without_effect(module: str) -> bool:
    return module in WITHOUT_EFFECT or module.startswith("saferflow.tracking.")


if __name__ == "__main__":
    write()
