"""The house keeps its shape: who imports whom, how long files are, what flows may not do."""

import ast
from itertools import chain
from pathlib import Path

import grimp
import networkx
import pytest

ROOT = Path(__file__).parents[1]
FLOWS, COMMANDS, RELEASE = (
    sorted(folder.rglob("*.py"))
    for folder in (ROOT / "flows", ROOT / "src" / "saferflow" / "commands", ROOT / "src" / "saferflow" / "release")
)
LONGEST_APPLICATION = 120
"""Lines of the file that puts the commands together."""


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("saferflow", "flows", cache_dir=None)


def test_no_modules_import_each_other_in_a_circle(imports):
    """Imports for the types alone count: a file owns the type that others need."""
    edges = ((module, known) for module in imports.modules for known in imports.find_modules_directly_imported_by(module))
    circles = networkx.strongly_connected_components(networkx.DiGraph(edges))
    assert not [sorted(circle) for circle in circles if len(circle) > 1]


def calls(file: Path) -> set[str]:
    """The dotted names that a file calls or imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    called = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
    imported = (alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    return set(chain(called, imported))


@pytest.mark.parametrize("file", [*FLOWS, *COMMANDS], ids=lambda file: f"{file.parent.name}/{file.name}")
def test_flows_are_called_and_no_process_takes_the_place_of_a_command(file):
    assert not calls(file) & {"argparse", "os.execv", "os.execvp"}


def test_flows_and_the_room_of_releases_know_no_command(imports):
    rooms = [module for module in imports.modules if module.startswith(("flows", "saferflow.release"))]
    assert len(rooms) >= len(FLOWS) + len(RELEASE) - 1
    known = {imported for module in rooms for imported in imports.find_modules_directly_imported_by(module)}
    assert not [module for module in known if module.startswith("saferflow.commands")]
    own = {imported for module in rooms if "release" in module for imported in imports.find_upstream_modules(module)}
    assert not [module for module in own if module.startswith(("saferflow.cli", "flows"))]


def test_the_application_is_short():
    assert len((COMMANDS[0].parent / "__init__.py").read_text(encoding="utf-8").splitlines()) <= LONGEST_APPLICATION
