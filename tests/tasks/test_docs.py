import importlib.util
import re
import sys

import pytest
from support import ROOT

from manifold_rnn import tasks

DOCS = ROOT / "docs"
PAGE = (DOCS / "guide" / "tasks.rst").read_text(encoding="utf-8")


@pytest.fixture
def pages(monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delenv("MANIFOLD_RNN_DATA", raising=False)
    spec = importlib.util.spec_from_file_location("task_pages", DOCS / "task_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("measured", None)


def test_the_page_is_in_the_guide_and_speaks_of_every_task():
    assert re.search(r"^   guide/tasks$", (DOCS / "index.rst").read_text(), flags=re.MULTILINE)
    assert all(f"tasks.{name}`" in PAGE or f"{name}(" in PAGE for name in tasks.available())


def test_everything_that_the_page_includes_is_made_without_data(pages, tmp_path):
    pytest.importorskip("sklearn")
    pages.write(tmp_path)
    included = set(re.findall(r"_build/tasks/([\w.]+)", PAGE))
    assert included == {path.name for path in tmp_path.iterdir()}
    for name in ("overview.rst", "baselines.rst"):
        assert all(f"tasks.{task}`" in (tmp_path / name).read_text() for task in tasks.available())
    table = (tmp_path / "published.rst").read_text()
    assert ":doc:`/networks/dtriv`" in table and "96.8 %" in table and ":cite:t:`kiani2022`" in table
    assert "without MNIST" in (tmp_path / "mnist.rst").read_text()


def test_the_problems_of_the_page_are_those_of_the_tasks(pages):
    ours = [tasks.Copying(), tasks.PixelMNIST(), tasks.PixelMNIST(True), tasks.Characters("text"), tasks.Speech()]
    assert tuple(task.problem for task in ours) == pages.PROBLEMS
