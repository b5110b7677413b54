"""Runs that end anywhere and resume: stopped after any step, by a signal in any phase, and killed from outside."""

import json
import os
import pkgutil
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("lightning")
import numpy as np
import torch
import yaml
from support.run_cases import VALUES, require_equal, require_same_end, train

from manifold_rnn.cli import main
from manifold_rnn.training import read_run, run
from manifold_rnn.training.checkpoint import RUN, read_checkpoint

BATCHES = 10
RUNS = {
    "sticky flag, fresh sets": {},
    "moving base": {"network": {"zoo": "dtriv", "hidden_size": 6, "options": {"angles": "henaff"}, "rebase_every": 7}},
    "update view": {
        "network": {"cell": "LSTM", "hidden_size": 5, "constraint": "Orthogonal", "gates": ["g"], "num_layers": 2},
        "optimizer": {"name": "RMSprop", "options": {"momentum": 0.9, "initial_accumulator_value": 1.0}},
        "schedule": {"name": "step", "every": 2},
    },
    "float64, complex, max_steps": {
        "network": {"zoo": "scurnn", "hidden_size": 5},
        "precision": "float64",
        "max_steps": 27,
        "optimizer": {"name": "Adagrad", "lr": 0.01},
    },
    "gates over units": {
        "network": {"cell": "GRU", "hidden_size": 6, "constraint": "Orthogonal", "num_layers": 2},
        "optimizer": {"lr": 0.03},
        "pruning": {"penalty": 1e-3, "warmup": 0.5, "lr": 0.2, "inputs": True},
    },
    "carried stream": {
        "task": {"name": "Characters", "length": 8},
        "network": {"cell": "LEM", "hidden_size": 6},
        "optimizer": {"lr": 0.03},
    },
}


@pytest.fixture
def values(request, tmp_path):
    values = {**VALUES, **RUNS[request.param]}
    if values["task"]["name"] == "Characters":
        path = tmp_path / "text.txt"
        path.write_text("".join("abcd"[i * i % 17 % 4] for i in range(900)))
        values["task"] = {**values["task"], "path": str(path)}
    return values


def noisy(module, loss):
    """A loss that depends on all sources of random numbers, as that of a network with dropout does."""
    drawn = random.random() + float(np.random.rand()) + torch.rand(())  # noqa: NPY002
    return loss * (1 + 0.1 * drawn)


@pytest.mark.parametrize("values", RUNS, indirect=True)
def test_a_run_that_was_stopped_resumes_to_the_last_bit(values, tmp_path):
    whole = train(values, tmp_path / "whole", during=noisy)
    steps = read_checkpoint(tmp_path / "whole" / "last.ckpt")["global_step"]
    per_epoch = BATCHES if "max_steps" in values else steps // 3
    for stop_after in (0, per_epoch - 1, per_epoch, 2 * per_epoch + 3):
        folder = tmp_path / str(stop_after)
        stopped = train(values, folder, stop_after, during=noisy)
        assert stopped.stopped and stopped.test_loss is None and not (folder / "result.json").exists()
        if stop_after:
            assert read_checkpoint(folder / "last.ckpt")["global_step"] == stop_after
        resumed = train(values, folder, resume=True, during=noisy)
        require_same_end(tmp_path / "whole", folder)
        assert (resumed.test_loss, resumed.test_metric) == (whole.test_loss, whole.test_metric)


@pytest.mark.slow
@pytest.mark.parametrize("every", [60.0, 1e-6, None], ids=["never inside", "after each batch", "off"])
@pytest.mark.parametrize("values", RUNS, indirect=True)
def test_a_run_that_was_stopped_after_every_step_resumes_to_the_last_bit(values, every, tmp_path):
    values = {**values, "checkpoint_every": every, "patience": 2}
    train(values, tmp_path / "whole", during=noisy)
    steps = read_checkpoint(tmp_path / "whole" / "last.ckpt")["global_step"]
    for _ in range(steps + 3):
        if not train(values, tmp_path / "parts", 1, resume=True, during=noisy).stopped:
            break
    require_same_end(tmp_path / "whole", tmp_path / "parts")


def test_the_sources_of_randomness_are_left_alone(tmp_path):
    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    train({**VALUES, "epochs": 1}, tmp_path, during=noisy)
    assert torch.equal(torch.rand(()), expected)


def test_more_epochs_may_be_asked_for(tmp_path):
    constant = {**VALUES, "schedule": {}}
    train({**constant, "epochs": 4}, tmp_path / "whole")
    train({**constant, "epochs": 2}, tmp_path / "parts")
    train({**constant, "epochs": 4}, tmp_path / "parts", resume=True)
    whole, parts = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
    require_equal(whole["state_dict"], parts["state_dict"])
    assert yaml.safe_load((tmp_path / "parts" / "run.yaml").read_text())["epochs"] == 4


def test_a_run_that_is_over_is_not_trained_again(tmp_path):
    first = train(VALUES, tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    again = train(VALUES, tmp_path, resume=True)
    assert again.test_loss == first.test_loss and again.history == first.history
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_patience_ends_a_run_for_good_until_there_is_more_of_it(tmp_path):
    values = {**VALUES, "optimizer": {"lr": 1e-30}, "epochs": 9, "patience": 2}
    assert len(train(values, tmp_path).history) == 3
    assert len(train(values, tmp_path, resume=True).history) == 3
    assert len(train({**values, "patience": 4}, tmp_path, resume=True).history) == 5


def test_a_caller_may_end_a_run_with_an_error_of_its_own(tmp_path):
    class PrunedError(Exception):
        pass

    seen = []

    def on_epoch(epoch):
        seen.append(set(epoch))
        if epoch["epoch"] == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        run(read_run(VALUES), folder=tmp_path, on_epoch=on_epoch)
    assert seen == [{"epoch", "train_loss", "val_loss", "val_metric", "seconds"}] * 2
    assert len(read_checkpoint(tmp_path / "last.ckpt")[RUN]["history"]) == 2


def test_a_network_that_diverges_leaves_its_best(tmp_path):
    values = {**VALUES, "optimizer": {"name": "SGD", "lr": 1e30}, "network": {"cell": "Elman", "hidden_size": 4}}
    values |= {"task": {"name": "Adding", "steps": 5, "sizes": [40, 8, 8]}, "clip": None}
    values["network"] = {**values["network"], "nonlinearity": "relu"}
    record = run(read_run(values), folder=tmp_path)
    assert "Training needs a finite loss." in record.failure and not record.stopped
    assert json.loads((tmp_path / "result.json").read_text())["failure"] == record.failure


# ---- signals in every phase ------------------------------------------------------------------------------------------

PHASES = {  # where the signal comes, and the epochs that are over when the run stops
    "in setup": ("manifold_rnn.training.runs:require_hardware", 1, 0),
    "in data loading": ("manifold_rnn.tasks:Copying.splits", 1, 0),
    "as Lightning handles signals, before training": ("lightning.pytorch:Trainer._run_stage", 1, 0),
    "as Lightning handles signals, before the test": ("lightning.pytorch:Trainer._run_stage", 2, 3),
    "while the best network is read": ("manifold_rnn.training.runs:best_checkpoint", 1, 3),
    "while the result is written": ("manifold_rnn.training.record:_json", 1, 3),
    "before training": ("manifold_rnn.training.module:SequenceModule.configure_optimizers", 1, 0),
    "in training": ("manifold_rnn.training.module:SequenceModule.training_step", 14, 1),
    "at the last batch of an epoch": ("manifold_rnn.training.module:SequenceModule.training_step", 10, 1),
    "in validation": ("manifold_rnn.training.module:SequenceModule.validation_step", 2, 2),
    "while a checkpoint is written": ("os:fsync", 5, 1),
    "in the final test": ("manifold_rnn.training.module:SequenceModule.test_step", 1, 3),
}
QUICK = {
    ("in training", signal.SIGTERM),
    ("in validation", signal.SIGINT),
    ("in the final test", signal.SIGTERM),
    ("while the result is written", signal.SIGTERM),
}
SIGNALS = [
    pytest.param(
        phase, number, marks=[] if (phase, number) in QUICK else pytest.mark.slow, id=f"{phase}, {number.name}"
    )
    for phase in PHASES
    for number in (signal.SIGINT, signal.SIGTERM)
]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize(("phase", "number"), SIGNALS)
def test_a_signal_leaves_a_checkpoint_a_line_and_a_status(phase, number, tmp_path, monkeypatch, capsys):
    (where, count, epochs), output, calls = PHASES[phase], tmp_path / "run", []
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**VALUES, "output": str(output)}))

    def signalled(*args, **kwargs):
        calls.append(None)
        if len(calls) == count:
            signal.raise_signal(number)
        return real(*args, **kwargs)

    with monkeypatch.context() as patch:
        real = pkgutil.resolve_name(where)
        patch.setattr(where.replace(":", "."), signalled)
        assert main(["fit", "--config", str(tmp_path / "run.yaml")]) == 130
    out, err = capsys.readouterr()
    assert err.count("\n") == (number == signal.SIGINT)  # "Press Ctrl-C again"
    line = out.splitlines()[-1]
    rest = " and 4 of 10 batches of the next" if count == 14 else ""
    assert f"stopped after {epochs} of 3 epochs{rest}; resume with: manifold-rnn fit" in line
    assert not (output / "result.json").exists()
    if epochs:
        assert len(read_checkpoint(output / "last.ckpt")[RUN]["history"]) == epochs
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert main(line.partition("manifold-rnn ")[2].split()) == 0
    if epochs:
        assert f"Resuming after {epochs} of 3 epochs{rest}.\n" in capsys.readouterr().out
    train(VALUES, tmp_path / "whole")
    require_same_end(tmp_path / "whole", output)


def test_a_second_ctrl_c_leaves_at_once():
    script = (
        "import os, signal, time\nfrom manifold_rnn.training.signals import StopSignal\n"
        "with StopSignal() as stop:\n"
        "    signal.raise_signal(signal.SIGINT)\n    assert stop.requested\n    print('first', flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM)\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stdout) == (130, "first\n")
    assert done.stderr.count("\n") == 1 and "Press Ctrl-C again" in done.stderr


def test_a_checkpoint_is_written_by_the_first_step_that_ends_an_interval(tmp_path, monkeypatch):
    now, saved = [0.0], []
    monkeypatch.setattr("lightning.pytorch.callbacks.model_checkpoint.time", SimpleNamespace(monotonic=lambda: now[0]))

    def a_second_later(module, loss):
        last = tmp_path / "run" / "last.ckpt"
        saved.append(read_checkpoint(last)["global_step"] if last.exists() else 0)
        now[0] += 1.0
        return loss

    train({**VALUES, "epochs": 2, "checkpoint_every": 3.0}, tmp_path / "run", during=a_second_later)
    assert len(saved) == 2 * BATCHES
    assert all(step - kept < 3 + 1 for step, kept in enumerate(saved)), saved


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

KILLER = """
import json, os, random, signal, sys, time
from multiprocessing import Value
from pathlib import Path
import torch
import torch.utils.tensorboard  # here, so that each child begins at once
import manifold_rnn.training.runs
from manifold_rnn.cli import main
from manifold_rnn.training.checkpoint import read_checkpoint
from manifold_rnn.training.module import SequenceModule

folder, config, kills, longest = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
began, killed, ended, chance = Value("b", False), 0, [], random.Random(0)
step = SequenceModule.training_step

def training_step(self, batch, batch_idx):
    began.value = True
    return step(self, batch, batch_idx) * (1 + 0.1 * torch.rand(()))  # as dropout would

def fit(output):
    began.value = False
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(main(["fit", "--config", config, "--output", str(output), "--resume"]))
    return child

def is_over(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

SequenceModule.training_step = training_step
output = folder / "0"
while killed < kills:
    child = fit(output)
    training = chance.random() < 0.9  # most of them while it trains, some before
    while training and not began.value and not is_over(child):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, longest))
    if is_over(child):
        ended.append((str(output), os.waitpid(child, 0)[1]))
        output = folder / str(len(ended))
        continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    killed += 1
    for path in (output / "last.ckpt", output / "best.ckpt"):
        if path.exists():
            read_checkpoint(path)
for path in (output, folder / "whole"):
    ended.append((str(path), os.waitpid(fit(path), 0)[1]))
print(json.dumps(ended))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("kills", "interval", "longest", "count"),
    [(3, 0.2, 0.4, 150), pytest.param(50, 1.0, 3.0, 2000, marks=pytest.mark.slow)],
    ids=["3 times", "50 times"],
)
def test_kill_corrupts_nothing_and_the_run_ends_as_if_it_had_not_been(kills, interval, longest, count, tmp_path):
    task = {"name": "Copying", "delay": 20, "sizes": [count, 20, 20], "fresh": True}
    values = {**VALUES, "task": task, "epochs": 6, "patience": None, "checkpoint_every": interval}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    arguments = [str(tmp_path), str(tmp_path / "run.yaml"), str(kills), str(longest)]
    command = [sys.executable, "-c", KILLER, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder, status in json.loads(
        done.stdout.splitlines()[-1]
    ):  # every run that was killed, however often, and one that was not
        assert status == 0
        require_same_end(tmp_path / "whole", Path(folder))
