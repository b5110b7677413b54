"""A short run, and its training, which may be stopped at any step."""

from pathlib import Path

import pytest

pytest.importorskip("lightning")

from manifold_rnn.training import read_run
from manifold_rnn.training.progress import SilentDisplay
from manifold_rnn.training.randomness import seeded
from manifold_rnn.training.sessions import Session

VALUES = {
    "task": {"name": "copying", "delay": 3, "sizes": [100, 20, 20], "fresh": True},
    "network": {"zoo": "enrnn", "hidden_size": 8},  # which has a sticky flag
    "optimizer": {"lr": 0.03, "constrained": "rmsprop", "constrained_lr": 0.01},
    "schedule": {"name": "cosine", "warmup": 0.1},
    "batch_size": 10,
    "epochs": 3,
    "patience": 3,
    "clip": 1.0,
}


def train(values, folder, stop_after=None, resume=False, on_epoch=None):
    asked = iter(range(10**9))
    settings = read_run(values)
    with seeded(settings.seed):
        stop = lambda: stop_after is not None and next(asked) >= stop_after  # noqa: E731
        return Session(settings, Path(folder), resume=resume, stop=stop).train(SilentDisplay(), on_epoch)
