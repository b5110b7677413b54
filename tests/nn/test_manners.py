"""How `manifold_rnn.nn` is written: it asks no object what it can do, and imports no optimizer and no manifold."""

import re

import pytest
from support import ROOT

SOURCES = sorted((ROOT / "manifold_rnn" / "nn").rglob("*.py"))
PROBING = re.compile(r"\bhasattr\(|\bgetattr\([^()]*(\([^()]*\))?[^()]*,[^()]*,")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_found_by_probing(path):
    lines = path.read_text().splitlines()
    # until every parametrization says whether it is diagonal, the layer asks in one place
    assert not [line for line in lines if PROBING.search(line) and "gives_diagonal" not in line]
    assert not re.search(r"from \.+(manifolds|optim)\b", path.read_text())
