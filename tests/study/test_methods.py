"""Comparisons of runs with the sections learning, pruning, start and search: stopped inside a run, resumed, shown."""

import csv
import json
import signal
from unittest.mock import patch

import pytest
import yaml

pytest.importorskip("lightning")
pytest.importorskip("optuna")
from support.run_cases import require_equal

from manifold_rnn.study import CompareSettings, compare
from manifold_rnn.training import SequenceModule

ADDING = {"name": "Adding", "steps": 5, "sizes": [40, 10, 10]}
SYSTEM = {"name": "QuadraticSystem", "sizes": [4_000, 100, 100]}
SECTIONS = {
    "learning": {
        "base": {"task": ADDING, "network": {"cell": "LeakyElman", "hidden_size": 4}},
        "grid": {"learning.rule": ["backpropagation", "rflo"], "network.constraint": [None, "Orthogonal"]},
    },
    "pruning": {
        "base": {
            "task": ADDING,
            "network": {"cell": "GRU", "hidden_size": 4, "constraint": "Orthogonal"},
            "pruning": {"penalty": 1e-3, "warmup": 0.5, "lr": 0.2},
        },
        "grid": {"pruning.penalty": [1e-3, 0.1], "pruning.inputs": [False, True]},
    },
    "start": {
        "base": {
            "task": SYSTEM,
            "network": {"cell": "Quadratic", "hidden_size": 3},
            "optimizer": {"lr": 1e-4},
            "start": {"name": "moments", "directions": 3},
        },
        "grid": {"start.gain": [0.5, 1.0], "start.inputs": ["gaussian", "standard"]},
    },
    "search": {
        "base": {
            "task": ADDING,
            "network": {"cell": "TreeSearch", "hidden_size": 3, "options": {"nodes": 2, "slots": 2}},
            "search": {"margin": 0.1, "fix": 0.6},
        },
        "grid": {"search.margin": [0.05, 0.1], "search.alternate": [0, 2]},
    },
}
OF_THE_PROCESS = ("seconds_per_step", "environments", "sha256")


def results(folder):
    runs = json.loads((folder / "results.json").read_text())["runs"]
    found = {}
    for run in runs:
        kept = {key: value for key, value in run.items() if key not in OF_THE_PROCESS}
        kept["history"] = [{k: v for k, v in epoch.items() if k != "seconds"} for epoch in run["history"]]
        found[json.dumps(run["choices"])] = kept
    return found


@pytest.mark.parametrize("section", SECTIONS)
def test_a_comparison_of_a_section_resumes_within_a_run_and_shows_what_varies(section, tmp_path, capsys):
    values = SECTIONS[section]
    batch = values["base"]["task"]["sizes"][0] // 4
    values = {**values, "base": {**values["base"], "epochs": 2, "batch_size": batch, "checkpoint_every": None}}
    path = tmp_path / "comparison.yaml"
    path.write_text(yaml.safe_dump(values))
    compared = [CompareSettings(str(path), output=str(tmp_path / name)) for name in ("whole", "parts")]
    assert compare(compared[0]) == 0
    steps = 0

    def training_step(module, batch, batch_idx, step=SequenceModule.training_step):
        nonlocal steps
        steps += 1
        if steps in (8 + 3, 3 * 8 + 6):  # in the first epoch of the second run, and the second of the last
            signal.raise_signal(signal.SIGINT)
        return step(module, batch, batch_idx)

    with patch.object(SequenceModule, "training_step", training_step):
        assert [compare(compared[1]) for _ in range(3)] == [130, 130, 0]
    assert steps == 4 * 8  # none is run twice
    whole, parts = (results(tmp_path / name) for name in ("whole", "parts"))
    require_equal(whole, parts)
    assert len(whole) == 4 and not any(run["failure"] for run in whole.values())
    rows = list(csv.DictReader((tmp_path / "parts" / "table.csv").read_text(encoding="utf-8").splitlines()))
    for key, choices in values["grid"].items():
        shown = {row[next(name for name in row if name in (key, key.partition(".")[2]))] for row in rows}
        assert len(shown) == len(choices), (key, shown)
    page = (tmp_path / "parts" / "report.html").read_text(encoding="utf-8")
    assert all(key.partition(".")[2] in page for key in values["grid"])
