"""A short run, its training, which may be stopped after any step, and what makes two ends equal."""

import json
from pathlib import Path
from unittest.mock import patch

import pytest

pytest.importorskip("lightning")
import torch

from manifold_rnn.cli import main
from manifold_rnn.training import SequenceModule, read_run, run
from manifold_rnn.training.checkpoint import read_checkpoint
from manifold_rnn.training.signals import StopSignal

VALUES = {
    "task": {"name": "Copying", "delay": 3, "sizes": [100, 20, 20], "fresh": True},
    "network": {"zoo": "enrnn", "hidden_size": 8},  # which has a sticky flag
    "optimizer": {"lr": 0.03, "constrained": "RMSprop", "constrained_lr": 0.01},
    "schedule": {"name": "cosine", "warmup": 0.1},
    "batch_size": 10,
    "epochs": 3,
    "patience": 3,
    "clip": 1.0,
}


def train(values, folder, stop_after=None, resume=False, on_epoch=None, during=None):
    """Run; request a stop after so many steps of this process, and call ``during(module, loss)`` in each step."""
    steps = 0
    stop = StopSignal(lambda: steps == stop_after)

    def training_step(module, batch, batch_idx, step=SequenceModule.training_step):
        nonlocal steps
        steps += 1
        loss = step(module, batch, batch_idx)
        return loss if during is None else during(module, loss)

    with patch.object(SequenceModule, "training_step", training_step):
        return run(read_run(values), folder=Path(folder), resume=resume, stop=stop, on_epoch=on_epoch)


def require_equal(a, b, at=""):
    """Assert that two nested values are equal to the last bit, times and the output folder left out."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            require_equal(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, pair in enumerate(zip(a, b, strict=True)):
            require_equal(*pair, f"{at}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), at
    else:
        assert a == b or "seconds" in at or at.endswith(".output"), (at, a, b)


def answer(arguments, capsys):
    """The one line of an error with status 2."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("manifold-rnn: error: ") and len(err) <= 450, err
    return err


def fit(folder, *flags):
    return ["fit", "--config", folder / "run.yaml", "--output", folder, *flags]


def state_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def require_same_end(whole, parts):
    for name in ("last.ckpt", "best.ckpt"):
        require_equal(*(read_checkpoint(folder / name) for folder in (whole, parts)))
    results = [json.loads((folder / "result.json").read_text()) for folder in (whole, parts)]
    assert all(result.pop("sha256") for result in results)  # they have other seconds
    require_equal(*results)


def slow(*values):
    """These values of a parameter, only with `-m slow`."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]
