import importlib.util
import json
import re

import pytest
from support import ROOT

import manifold_rnn as mr

DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text() for path in (DOCS / "networks").glob("*.rst") if path.stem != "index"}
NETWORKS = {name: text for name, text in PAGES.items() if f"networks/{name}.rst" in text}  # others are ways to learn
FIELDS = ("Cell", "Constrained", "Trained", "Initialization", "Parameters", "Made for", "Source")


def _load(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _toctrees(path):
    entries = []
    for block in re.findall(r"^\.\. toctree::\n((?:   .*\n|\n)+)", path.read_text(), flags=re.MULTILINE):
        entries += [line.strip() for line in block.splitlines() if line.strip() and ":" not in line]
    return entries


def test_every_network_has_a_page_and_every_page_a_network():
    assert set(NETWORKS) == set(mr.zoo.available())


def test_every_page_is_in_the_toctree():
    assert sorted(_toctrees(DOCS / "networks" / "index.rst")) == sorted(PAGES)
    assert "networks/index" in _toctrees(DOCS / "index.rst")


@pytest.mark.parametrize("name", sorted(PAGES.keys() - NETWORKS))
def test_page_of_a_way_to_learn_says_what_it_is(name):
    text = PAGES[name]
    assert all(re.search(rf"^:{field}: \S", text, flags=re.MULTILINE) for field in ("Trained", "Source"))
    assert f"cells/{name}.svg" in text and ".. math::" in text and "read_run(" in text and "Limits\n------" in text


@pytest.mark.parametrize("name", NETWORKS)
def test_page_says_everything_about_its_network(name):
    text = PAGES[name]
    assert all(re.search(rf"^:{field}: \S", text, flags=re.MULTILINE) for field in FIELDS)
    assert f"cells/{name}.svg" in text and f"networks/{name}.rst" in text and ".. math::" in text
    assert re.search(rf"^>>> network = mr\.zoo\.{name}\(", text, flags=re.MULTILINE)
    assert re.search(r"^>>> mr\.degrees_of_freedom\(network\)\n\d+$", text, flags=re.MULTILINE)


def test_every_source_is_in_the_bibliography():
    known = set(re.findall(r"^@\w+\{(\w+),", (DOCS / "references.bib").read_text(), flags=re.MULTILINE))
    files = [DOCS / "networks" / "cells.toml", _load("measured").PUBLISHED]
    texts = [*PAGES.values(), *(path.read_text(encoding="utf-8") for path in files)]
    assert {key for text in texts for key in re.findall(r":cite:[tp]:`(\w+)`", text)} <= known


def test_every_picture_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    pictures = _load("cell_pictures")
    pictures.write(DOCS / "networks" / "cells.toml", tmp_path)
    assert {path.stem for path in tmp_path.glob("*.svg")} == set(PAGES)


def test_tables_list_what_was_run_and_what_was_published(tmp_path):
    measured = _load("measured")
    measured.write_tables(tmp_path, DOCS / "networks", tmp_path / "empty")
    assert "Not measured yet" in (tmp_path / "empty" / "scan.rst").read_text()
    published = (tmp_path / "empty" / "networks" / "scornn.rst").read_text()
    assert "measured here" not in published and published.count(":cite:t:") > 2
    row = {"network": "scornn", "task": "adding", "hidden size": 170, "parameters": 15046, "rate": 1e-3}
    settings = {"steps": "3,000 (adding)", "batch": 64}
    learning = {"settings": settings, "learning": [{**row, "loss": 0.0012, "times better": 139.0}]}
    (tmp_path / "learning.json").write_text(json.dumps(learning))
    measured.write_tables(tmp_path, DOCS / "networks", tmp_path / "full")
    table = (tmp_path / "full" / "networks" / "scornn.rst").read_text()
    assert "15,046" in table and "- 0.0012\n     - 139" in table and published in table
    overview = (tmp_path / "full" / "learning.rst").read_text()
    assert "139" in overview and "15,046" in overview and "copying, adding, pixels in order and permuted" in overview
    assert "urnn" not in overview and "3,000 (adding) steps on batches of 64" in overview
