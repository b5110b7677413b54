"""The index of the API: every public name once, in a group of names with one use."""

import importlib
import sys

import pytest
from support import ROOT

import manifold_rnn as mr


@pytest.fixture
def index(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    return importlib.import_module("api_index")


def test_the_index_has_every_public_name_once_and_no_empty_group(index):
    groups = index.groups()
    listed = [page for names in groups.values() for page in names]
    assert sorted(listed) == sorted(set(index.api_pages.public_names().values()))
    assert all(groups.values())


def test_a_listed_name_is_what_a_user_writes(index):
    for names in index.groups().values():
        for page, name in names.items():
            module, _, leaf = page.rpartition(".")
            assert eval(name, {"mr": _with_submodules(mr)}) is getattr(importlib.import_module(module), leaf)


def test_names_are_under_their_use(index):
    groups = index.groups()
    assert "mr.constrain" in groups["Constraining weights"].values()
    assert "mr.Orthogonal" in groups["Manifolds"].values()
    assert "mr.nn.cells.LEM" in groups["Cells"].values()
    assert "mr.manifolds.Manifold" in groups["Writing your own classes"].values()
    assert "mr.optim.RiemannianAdam" in groups["Optimizers and averages"].values()


def test_a_name_without_a_group_is_refused(index):
    with pytest.raises(LookupError, match=r"optimal\.x"):
        index._group_of("optimal.x")


def _with_submodules(package):
    for name in ("cli", "study", "training", "interop.peft"):
        pytest.importorskip("lightning")
        importlib.import_module(f"{package.__name__}.{name}")
    return package
