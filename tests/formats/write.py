"""Writes one file of each format by the present code: ``python tests/formats/write.py SET``.

A released set of files is never written again. If a format changes, write the next set beside it.
"""

import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
import yaml

from manifold_rnn.study import CompareSettings, compare
from manifold_rnn.training import read_run, run
from manifold_rnn.training.build import build_network
from manifold_rnn.training.checkpoint import BEST, load_weights, read_checkpoint

HERE = Path(__file__).parent
TASK = {"name": "Copying", "delay": 3, "sizes": [40, 20, 20]}
RATES = {"lr": 0.02, "constrained_lr": 0.01}
LSTM = {"cell": "LSTM", "hidden_size": 4, "constraint": "Orthogonal", "retraction": "cayley", "view": "update"}
ELMAN = {
    **{"cell": "Elman", "hidden_size": 4, "constraint": "Unitary", "retraction": "exp", "view": "trivialized"},
    **{"nonlinearity": "modrelu", "rebase_every": 5},
}
COMMON = {"task": TASK, "optimizer": RATES, "epochs": 2, "batch_size": 10, "precision": "float64"}
RUNS = {"update": {**COMMON, "network": LSTM}, "trivialized": {**COMMON, "network": ELMAN}}
GRID = {
    "base": {**COMMON, "network": LSTM, "epochs": 1},
    "grid": {"network.retraction": ["cayley", "qr"]},
    "seeds": [0, 1],
}
NOT_KEPT = ("*.previous.ckpt", "logs", "runs", ".lock", "*.lock", "*.append", "*.svg", "*.html", "*.md", "*.csv")


def outputs(folder):
    """What the network of the best checkpoint of a run computes for a fixed input."""
    settings = read_run(folder / "run.yaml")
    task, path = settings.task, folder / BEST
    network = build_network(settings.network, task.input_size, task.output_size, dtype=torch.float64)
    load_weights(path, read_checkpoint(path), torch.nn.ModuleDict({"network": network}))
    steps = torch.linspace(-1, 1, 3 * 5 * task.input_size, dtype=torch.float64)
    return network(steps.view(3, 5, task.input_size)).flatten().tolist()


def write(name):
    target = HERE / name
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):  # so that files hold no path
        for view, values in RUNS.items():
            run(read_run(values), folder=view)
        Path("grid.yaml").write_text(yaml.safe_dump({"format": 1, **GRID}, sort_keys=False))
        assert compare(CompareSettings("grid.yaml", output="comparison")) == 0
        shutil.move("grid.yaml", "comparison")
        shutil.rmtree(target, ignore_errors=True)
        for folder in (*RUNS, "comparison"):
            shutil.copytree(folder, target / folder, ignore=shutil.ignore_patterns(*NOT_KEPT))
    expected = {view: outputs(target / view) for view in RUNS}
    (target / "outputs.json").write_text(f"{json.dumps(expected, indent=1)}\n")


if __name__ == "__main__":
    os.umask(0o022)
    torch.set_num_threads(1)
    write(*sys.argv[1:])
