"""How the package is written: it asks no object what it can do, and each fact stands on the class that it is about."""

import ast
import inspect
import re

import pytest
from support import ROOT

from manifold_rnn import constraints, manifolds

PACKAGE = ROOT / "manifold_rnn"
TYPED = [
    path for room in ("constraints", "nn", "diagnostics", "optim") for path in sorted((PACKAGE / room).rglob("*.py"))
]
CONCRETE = {
    name
    for package in (manifolds, constraints)
    for name in package.__all__
    if inspect.isclass(kind := getattr(package, name)) and not inspect.isabstract(kind)
}
MOST_ANY = {("constraints",): 20, ("training", "study", "cli"): 60}


def calls(path, name):
    tree = ast.parse(path.read_text())
    return [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == name]


@pytest.mark.parametrize("path", TYPED, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_object_is_asked_what_it_can_do(path):
    assert not calls(path, "hasattr")
    assert not [call for call in calls(path, "getattr") if len(call.args) == 3]
    for call in calls(path, "isinstance"):
        kinds = {
            n.id if isinstance(n, ast.Name) else n.attr
            for n in ast.walk(call.args[1])
            if hasattr(n, "id") or hasattr(n, "attr")
        }
        assert not kinds & CONCRETE, ast.unparse(call)


def test_the_types_of_constraints_hold_without_exceptions():
    assert not [path for path in sorted((PACKAGE / "constraints").rglob("*.py")) if "type: ignore" in path.read_text()]


@pytest.mark.parametrize(("rooms", "most"), MOST_ANY.items(), ids=str)
def test_few_lines_have_no_type(rooms, most):
    sources = [path.read_text() for room in rooms for path in (PACKAGE / room).rglob("*.py")]
    lines = [line for source in sources for line in source.splitlines() if re.search(r"\bAny\b", line)]
    assert len(lines) <= most


def test_cells_and_layers_import_no_manifold_and_no_optimizer():
    for path in (PACKAGE / "nn").rglob("*.py"):
        assert not re.search(r"from \.+(manifolds|optim)\b", path.read_text()), path
