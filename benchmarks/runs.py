"""Run long trainings on the tasks of the papers with ``manifold-rnn fit``, and collect the results.

A stopped run is resumed, and a finished run is not repeated. The minutes are those of the training epochs.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from timing import RESULTS, write

from manifold_rnn.training import read_run

CONFIGS = Path(__file__).parent.parent / "examples" / "configs"
RUNS = (
    "copying-1000-scornn-190",
    "copying-1000-exprnn-190",
    "copying-1000-scurnn-130",
    "copying-1000-enrnn-192",
    "adding-750-scornn-170",
    "permuted-exprnn-170-quick",
    "permuted-dtriv-170-quick",
)


def trained(name: str, folder: Path) -> Path:
    """Train a configuration to its end, unless it is finished, and return the file of its result."""
    result = folder / name / "result.json"
    if not result.exists():
        begun = (folder / name / "last.ckpt").exists()
        command = [sys.executable, "-m", "manifold_rnn", "fit", "--config", str(CONFIGS / f"{name}.yaml")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # a second thread would not make it faster
        subprocess.run(
            [*command, "--output", str(folder / name), *(["--resume"] if begun else [])], check=True, env=environment
        )
    return result


def collected(path: Path) -> dict[str, object]:
    """Return the numbers of a result that the documentation shows."""
    result = json.loads(path.read_text())
    history = result["history"]
    return {
        "test loss": result["test_loss"],
        "test metric": result["test_metric"],
        "parameters": result["parameters"],
        "defect": result["defect"],
        "minutes": sum(epoch["seconds"] for epoch in history) / 60,
        "validation loss": [epoch["val_loss"] for epoch in history],
        "validation metric": [epoch["val_metric"] for epoch in history],
    }


def described(name: str) -> dict[str, object]:
    """Return the network and the task of a configuration, and the loss of the baseline."""
    settings = read_run(CONFIGS / f"{name}.yaml")
    return {
        "network": settings.network.zoo,
        "task": settings.task.name,
        "guessing": settings.task.baseline().loss,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", nargs="+", default=RUNS, choices=RUNS)
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    args = parser.parse_args()
    path = RESULTS / "runs.json"
    rows = {row["run"]: row for row in json.loads(path.read_text())["runs"]} if path.exists() else {}
    for name in args.runs:
        rows[name] = {"run": name, **described(name), **collected(trained(name, args.folder))}
        write("runs", list(rows.values()), threads=1)


if __name__ == "__main__":
    main()
