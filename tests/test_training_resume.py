"""Runs that end anywhere and go on, in one process and killed from outside."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import torch
import yaml

from manifold_rnn.training import cli, read_run, run
from manifold_rnn.training.checkpoints import read_checkpoint, write_checkpoint
from manifold_rnn.training.progress import SilentDisplay
from manifold_rnn.training.randomness import seeded
from manifold_rnn.training.sessions import Session

BATCHES = 10
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


def train(values, folder, stop_after=None, resume=False, on_epoch=None):
    asked = iter(range(10**9))
    settings = read_run(values)
    with seeded(settings.seed):
        stop = lambda: stop_after is not None and next(asked) >= stop_after  # noqa: E731
        return Session(settings, Path(folder), resume=resume, stop=stop).train(SilentDisplay(), on_epoch)


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


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train({**VALUES, "epochs": 1}, folder / "run")
    return folder / "run"


def damaged(content):
    middle = len(content) // 3
    wrong = bytes(byte ^ 0xFF for byte in content[middle : middle + 80])  # more than a gap between two parts
    return content[:middle] + wrong + content[middle + 80 :]


FILES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "with wrong bytes": damaged,
    "text": lambda content: b"epoch 3",
}


def answers(arguments, capsys):
    status = cli.main([str(a) for a in arguments])
    err = capsys.readouterr().err
    assert status == 2
    assert err.count("\n") == 1 and err.startswith("manifold-rnn: error: ") and len(err) <= 450
    return err


def state_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def copied(trained, tmp_path):
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_checkpoint_is_answered_with_one_line_and_left_alone(kind, copied, capsys):
    path = copied / "last.ckpt"
    path.write_bytes(FILES[kind](path.read_bytes()))
    before = state_of(copied)
    resume = ["fit", "--config", copied / "run.yaml", "--output", copied, "--resume"]
    for command in (resume, ["inspect", path], ["test", "--config", copied / "run.yaml", "--checkpoint", path]):
        assert "is no checkpoint of this package, or damaged" in answers(command, capsys)
    assert state_of(copied) == before


def test_a_file_of_tensors_that_is_no_checkpoint_is_refused(tmp_path, capsys):
    torch.save([torch.ones(2)], tmp_path / "x.ckpt")
    assert "another content" in answers(["inspect", tmp_path / "x.ckpt"], capsys)


CHANGES = {
    "size": (["--network.hidden-size", "9"], "Expected network.hidden_size=9, got network.hidden_size=8."),
    "network": (["--network.zoo", "scornn"], "Expected network.zoo=scornn"),
    "task": (["--task.delay", "4"], "Expected task.delay=4"),
    "seed": (["--seed", "4"], "Expected seed=4, got seed=0."),
    "rate": (["--optimizer.lr", "4"], "Expected optimizer.lr=4.0, got optimizer.lr=0.03."),
}


@pytest.mark.parametrize(("flags", "answer"), CHANGES.values(), ids=CHANGES)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(flags, answer, copied, capsys):
    before = state_of(copied)
    fit = ["fit", "--config", copied / "run.yaml", "--output", copied, "--resume", *flags]
    assert answer in answers(fit, capsys)
    assert answer in answers(["test", "--config", copied / "run.yaml", "--output", copied, *flags], capsys)
    assert state_of(copied) == before


def test_weights_that_do_not_fit_are_refused(copied, capsys):
    content = read_checkpoint(copied / "last.ckpt")
    content["network"]["readout.weight"] = torch.zeros(2, 2)
    write_checkpoint(copied / "last.ckpt", content)
    fit = ["fit", "--config", copied / "run.yaml", "--output", copied, "--resume"]
    assert "does not fit the network" in answers(fit, capsys)


def test_a_folder_with_a_run_is_refused_without_resume(copied, capsys):
    before = state_of(copied)
    err = answers(["fit", "--config", copied / "run.yaml", "--output", copied], capsys)
    assert "has a run already" in err and "--resume" in err
    assert state_of(copied) == before


def test_a_folder_that_cannot_be_written_is_refused(trained, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    err = answers(["fit", "--config", trained / "run.yaml", "--output", tmp_path / "taken"], capsys)
    assert "--output needs a folder that can be written" in err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_text_with_one_symbol_is_refused(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a" * 5000)
    flags = ["--task.path", tmp_path / "text.txt", "--network.cell", "gru", "--output", tmp_path / "run"]
    assert "two different symbols" in answers(["fit", "--task.name", "characters", *flags], capsys)
    assert not (tmp_path / "run").exists()


def test_images_that_are_cut_off_are_refused(tmp_path, capsys):
    for name, axes in (("images-idx3", (40, 28, 28)), ("labels-idx1", (40,))):
        sizes = b"".join(size.to_bytes(4, "big") for size in axes)
        content = bytes([0, 0, 8, len(axes)]) + sizes + bytes(torch.Size(axes).numel())
        (tmp_path / f"train-{name}-ubyte").write_bytes(content[:-5] if "images" in name else content)
        (tmp_path / f"t10k-{name}-ubyte").write_bytes(content)
    flags = ["--task.data-dir", tmp_path, "--network.zoo", "exprnn", "--output", tmp_path / "run"]
    assert "train-images-idx3-ubyte" in answers(["fit", "--task.name", "pixel_mnist", *flags], capsys)
    assert not (tmp_path / "run").exists()


# ---- what is said and written ----------------------------------------------------------------------------------------


def test_inspect_says_how_far_a_run_is_and_how_to_go_on(copied, capsys):
    assert cli.main(["inspect", str(copied / "best.ckpt")]) == 0
    out = capsys.readouterr().out
    for words in ("1 of 1 epochs are over", "10 steps", "trained degrees of freedom", "defect of layer.weight_hh_l0"):
        assert words in out
    assert "spectrum of W_hh: moduli from" in out and "name: copying" in out
    assert f"manifold-rnn fit --config {copied / 'run.yaml'} --resume" in out


def test_validate_and_test_score_the_best_checkpoint(copied, capsys):
    for stage, key in (("validate", "val"), ("test", "test")):
        assert cli.main([stage, "--config", str(copied / "run.yaml"), "--output", str(copied)]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert set(scores) == {f"{key}_loss", f"{key}_metric"}
    result = json.loads((copied / "result.json").read_text())
    assert scores == pytest.approx({key: result[key] for key in ("test_loss", "test_metric")}, rel=1e-5)


@pytest.mark.parametrize(
    ("network", "weights"),
    [({"zoo": "scornn", "hidden_size": 6}, "weights/defect"), ({"cell": "gru"}, "weights/spectral_radius")],
    ids=["constrained", "free"],
)
def test_the_log_has_loss_metric_gradients_and_the_defect_or_the_radius(network, weights, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train({**VALUES, "network": network, "log_every": 5}, tmp_path)
    log = EventAccumulator(str(tmp_path / "logs"))
    log.Reload()
    scalars = {name: [event.step for event in log.Scalars(name)] for name in log.Tags()["scalars"]}
    steps = list(range(5, 31, 5))
    for name in ("loss/batch", "rate/0", "gradient/layer0", "gradient/readout"):
        assert scalars[name] == steps, name
    for name in ("epoch/train_loss", "epoch/val_loss", "epoch/val_metric", weights):
        assert scalars[name] == [10, 20, 30], name


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
