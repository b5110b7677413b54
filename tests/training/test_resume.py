"""Runs that end anywhere and go on, in one process and killed from outside."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import torch
import yaml
from support.run_cases import VALUES, train

from manifold_rnn.training import cli, read_run, run
from manifold_rnn.training.checkpoints import read_checkpoint
from manifold_rnn.training.module import SequenceModule
from manifold_rnn.training.progress import SilentDisplay
from manifold_rnn.training.randomness import seeded
from manifold_rnn.training.sessions import Session

BATCHES = 10
RUNS = {
    "sticky flag": {},
    "moving base": {"network": {"zoo": "dtriv", "hidden_size": 6, "options": {"angles": "henaff"}, "rebase_every": 7}},
    "update view": {
        "network": {"cell": "lstm", "hidden_size": 5, "constraint": "orthogonal", "gates": ["g"], "num_layers": 2},
        "optimizer": {"name": "rmsprop", "momentum": 0.9, "initial_accumulator": 1.0},
        "schedule": {"name": "step", "every": 2},
    },
    "float64, complex": {
        "network": {"zoo": "scurnn", "hidden_size": 5},
        "precision": "float64",
        "max_steps": 27,
        "optimizer": {"name": "adagrad", "lr": 0.01},
    },
    "stream": {"task": {"name": "characters", "length": 8}, "network": {"cell": "lem", "hidden_size": 6}},
}


@pytest.fixture
def values(request, tmp_path):
    values = {**VALUES, **RUNS[request.param]}
    if values["task"]["name"] == "characters":
        path = tmp_path / "text.txt"
        path.write_text("".join("abcd"[i * i % 17 % 4] for i in range(900)))
        values["task"] = {**values["task"], "path": str(path)}
    return values


def require_equal(a, b, at=""):
    if isinstance(a, dict):
        assert a.keys() == b.keys(), at
        for key in a:
            require_equal(a[key], b[key], f"{at}.{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), at
        for i, pair in enumerate(zip(a, b, strict=True)):
            require_equal(*pair, f"{at}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), at
    else:
        assert a == b or "seconds" in at, (at, a, b)


@pytest.mark.parametrize("values", RUNS, indirect=True)
def test_a_run_that_was_stopped_goes_on_to_the_last_bit(values, tmp_path):
    whole = train(values, tmp_path / "whole")
    wanted = read_checkpoint(tmp_path / "whole" / "last.ckpt")
    per_epoch = wanted["position"]["step"] // 3 if "max_steps" not in values else BATCHES
    for stop_after in (0, per_epoch - 1, per_epoch, 2 * per_epoch + 3):
        folder = tmp_path / str(stop_after)
        record = train(values, folder, stop_after)
        assert record.stopped and record.test_loss is None
        assert read_checkpoint(folder / "last.ckpt")["position"]["step"] == stop_after
        resumed = train(values, folder, resume=True)
        require_equal(wanted, read_checkpoint(folder / "last.ckpt"))
        require_equal(read_checkpoint(tmp_path / "whole" / "best.ckpt"), read_checkpoint(folder / "best.ckpt"))
        assert (resumed.test_loss, resumed.test_metric) == (whole.test_loss, whole.test_metric)


def test_the_sources_of_randomness_are_left_alone_and_kept(tmp_path):
    import random

    import numpy as np

    def drawn():
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    class Drawing:
        """A stop that is never asked for, but draws a number at each step."""

        def __init__(self, stop_at):
            self.seen, self.stop_at = [], stop_at

        def __call__(self):
            if self.stop_at == len(self.seen):
                return True
            self.seen.append(drawn())
            return False

    def numbers(folder, stop_at, resume=False):
        settings, stop = read_run({**VALUES, "epochs": 1}), Drawing(stop_at)
        with seeded(settings.seed):
            Session(settings, tmp_path / folder, resume=resume, stop=stop).train(SilentDisplay(), None)
        return stop.seen

    torch.manual_seed(1)
    expected = torch.rand(())
    torch.manual_seed(1)
    whole = numbers("whole", None)
    parts = numbers("parts", 4) + numbers("parts", None, resume=True)
    assert torch.equal(torch.rand(()), expected)
    assert len(whole) == BATCHES and whole == parts


def test_more_epochs_may_be_asked_for(tmp_path):
    constant = {**VALUES, "schedule": {}}
    train({**constant, "epochs": 4}, tmp_path / "whole")
    train({**constant, "epochs": 2}, tmp_path / "parts")
    train({**constant, "epochs": 4}, tmp_path / "parts", resume=True)
    whole, parts = (read_checkpoint(tmp_path / name / "last.ckpt") for name in ("whole", "parts"))
    require_equal(whole["network"], parts["network"])
    assert yaml.safe_load((tmp_path / "parts" / "run.yaml").read_text())["epochs"] == 4


def test_a_run_that_is_over_is_not_trained_again(tmp_path):
    first = train(VALUES, tmp_path)
    before = (tmp_path / "last.ckpt").read_bytes()
    again = train(VALUES, tmp_path, resume=True)
    assert again.test_loss == first.test_loss and again.history == first.history
    assert (tmp_path / "last.ckpt").read_bytes() == before


def test_patience_ends_a_run_for_good(tmp_path):
    values = {**VALUES, "optimizer": {"lr": 1e-30}, "epochs": 9, "patience": 2}
    assert len(train(values, tmp_path).history) == 3
    assert len(train(values, tmp_path, resume=True).history) == 3


def test_a_caller_may_end_a_run_with_an_error_of_its_own(tmp_path):
    class PrunedError(Exception):
        pass

    seen = []

    def on_epoch(epoch, scores):
        seen.append((epoch, set(scores)))
        if epoch == 2:
            raise PrunedError

    with pytest.raises(PrunedError):
        run(read_run(VALUES), folder=tmp_path, on_epoch=on_epoch)
    assert seen == [(k, {"train_loss", "val_loss", "val_metric", "seconds"}) for k in (1, 2)]
    assert read_checkpoint(tmp_path / "last.ckpt")["position"]["epoch"] == 2


def test_a_network_that_diverges_leaves_its_best(tmp_path):
    values = {**VALUES, "optimizer": {"name": "sgd", "lr": 1e30}, "network": {"cell": "elman", "hidden_size": 4}}
    values |= {"task": {"name": "adding", "steps": 5, "sizes": [40, 8, 8]}, "clip": None}
    values["network"] = {**values["network"], "nonlinearity": "relu"}
    record = run(read_run(values), folder=tmp_path)
    assert "Training needs a finite loss." in record.failure and not record.stopped
    assert json.loads((tmp_path / "result.json").read_text())["failure"] == record.failure


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signal")
def test_a_batch_system_that_ends_the_job_leaves_a_checkpoint_and_a_status(tmp_path, capsys, monkeypatch):
    def step(self, batch, index, trained=SequenceModule.training_step):
        if self.trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return trained(self, batch, index)

    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**VALUES, "output": str(tmp_path / "run")}))
    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, "training_step", step)
        assert cli.main(["fit", "--config", str(tmp_path / "run.yaml")]) == 130
    assert "go on with: manifold-rnn fit" in capsys.readouterr().out
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["position"] == {"epoch": 1, "batch": 4, "step": 14}
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# ---- kill -9 ---------------------------------------------------------------------------------------------------------

KILLER = """
import json, os, random, signal, sys, time
from multiprocessing import Value
from pathlib import Path
import torch.utils.tensorboard  # here, so that each child begins at once
from manifold_rnn.training import cli, running
from manifold_rnn.training.checkpoints import read_checkpoint
from manifold_rnn.training.module import SequenceModule

folder, config, kills, longest = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
began, lost, runs, chance = Value("d", 0.0), [], 0, random.Random(0)
step = SequenceModule.training_step

def training_step(self, batch, index):
    if not began.value:
        began.value = time.time()
    return step(self, batch, index)

def fit(output):
    began.value = 0.0
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(cli.main(["fit", "--config", config, "--output", str(output), "--resume"]))
    return child

def over(child):
    return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

SequenceModule.training_step = training_step
output = folder / "0"
while len(lost) < kills:
    child = fit(output)
    training = chance.random() < 0.9  # most of them while it trains, some before
    while training and not began.value and not over(child):
        time.sleep(0.001)
    time.sleep(chance.uniform(0, longest))
    now = time.time()
    if over(child):
        os.waitpid(child, 0)
        runs += 1
        output = folder / str(runs)
        continue
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    kept = [path for path in (output / "last.ckpt", output / "best.ckpt") if path.exists()]
    for path in kept:
        read_checkpoint(path)
    lost.append(now - max(began.value, kept[0].stat().st_mtime) if began.value else 0.0)
statuses = [os.waitpid(fit(path), 0)[1] for path in (output, folder / "whole")]
print(json.dumps({"lost": lost, "statuses": statuses, "output": str(output)}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(
    ("kills", "interval", "longest", "epochs"),
    [(3, 0.2, 0.6, 4), pytest.param(50, 1.0, 3.0, 60, marks=pytest.mark.slow)],
    ids=["3 times", "50 times"],
)
def test_kill_loses_at_most_one_interval_and_corrupts_nothing(kills, interval, longest, epochs, tmp_path):
    task = {"name": "copying", "delay": 20, "sizes": [500, 20, 20]}
    values = {**VALUES, "task": task, "epochs": epochs, "patience": None, "checkpoint_every": interval}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    arguments = [str(tmp_path), str(tmp_path / "run.yaml"), str(kills), str(longest)]
    command = [sys.executable, "-c", KILLER, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["statuses"] == [0, 0]
    assert len(report["lost"]) == kills and max(report["lost"]) > 0
    assert max(report["lost"]) <= interval + 1.0, report["lost"]  # a second for the step and the write under way
    ends = [read_checkpoint(Path(path, "last.ckpt")) for path in (report["output"], tmp_path / "whole")]
    for end in ends:
        end["settings"].pop("output")
    require_equal(*ends)
