"""The scripts of the gallery: a picture is taken at the end of each cell, so a cell draws into figures of its own."""

import ast

import pytest
from support import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("plot_*.py"))


def names(tree, context):
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, context)}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_cell_draws_into_figures_of_its_own(script):
    for cell in script.read_text().split("# %%\n"):
        tree = ast.parse(cell)
        drawn = {"figure", "axis", "axes"} & names(tree, ast.Load)
        assert drawn <= names(tree, ast.Store), cell[:200]


def test_there_are_at_least_twelve_examples():
    assert len(SCRIPTS) >= 12
