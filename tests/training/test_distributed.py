"""Two processes, started by torchrun, against one with the doubled batch."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("lightning")
import torch
from support.run_cases import require_equal
from torch import distributed

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.training import evaluate, read_run, run, runs
from manifold_rnn.training.checkpoint import read_checkpoint
from manifold_rnn.training.trainer import own_process_group

if not distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from manifold_rnn.training import read_run, run, runs
from manifold_rnn.training.module import SequenceModule
from manifold_rnn.training.signals import StopSignal

values, folder, resume, last = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "resume", int(sys.argv[4])
rank, steps, states = os.environ.get("RANK", "0"), 0, []
step = SequenceModule.training_step

def training_step(self, batch, batch_idx):
    global steps
    steps += 1
    states[:] = [self.network]
    return step(self, batch, batch_idx)

SequenceModule.training_step = training_step
stop = StopSignal(lambda: rank == "1" and steps == last)  # one process is asked to, and all stop
keep = lambda epoch: torch.save(states[0].state_dict(), folder / f"{rank}.pt")
record = run(read_run(values), folder=folder / "run", resume=resume, stop=stop, on_epoch=keep)
assert not torch.distributed.is_initialized()
(folder / f"{rank}.json").write_text(json.dumps([record.stopped, record.test_loss]))
"""
VALUES = {
    "task": {"name": "Copying", "delay": 5, "sizes": [70, 20, 20]},
    "optimizer": {"lr": 0.01},
    "precision": "float64",
    "epochs": 3,
    "clip": 1.0,
}
NETWORKS = {
    "update view": {"cell": "LSTM", "constraint": "Orthogonal", "hidden_size": 6},
    "sticky flag": {"zoo": "enrnn", "hidden_size": 8},
    "complex": {"zoo": "scurnn", "hidden_size": 6},
}


def start(folder, values, processes, resume=False, stop_after=-1):
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(SCRIPT)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]  # on a free port of its own
    launcher += ["--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, str(folder / "script.py"), json.dumps(values), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "resume" if resume else "begin", str(stop_after)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


def state_of(folder):
    return read_checkpoint(folder / "run" / "last.ckpt")["state_dict"]


@pytest.mark.parametrize(
    "name", ["sticky flag", *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS if n != "sticky flag")]
)
def test_two_processes_have_equal_replicas_and_the_result_of_one_with_the_doubled_batch(name, tmp_path):
    values = {**VALUES, "network": NETWORKS[name]}
    first, second = start(tmp_path / "two", {**values, "batch_size": 10, "devices": 2}, 2)
    assert first == second
    replicas = [torch.load(tmp_path / "two" / f"{rank}.pt") for rank in range(2)]
    require_equal(*replicas)
    run(read_run({**values, "batch_size": 20}), folder=tmp_path / "one" / "run")
    states = [state_of(tmp_path / kind) for kind in ("two", "one")]
    for key in states[0]:
        torch.testing.assert_close(states[0][key], states[1][key], rtol=1e-5, atol=1e-5)
    two, one = (json.loads((tmp_path / kind / "run" / "result.json").read_text()) for kind in ("two", "one"))
    for ours, theirs in zip(two["history"], one["history"], strict=True):
        for key in ("train_loss", "val_loss", "val_metric"):
            assert ours[key] == pytest.approx(theirs[key], abs=1e-5), key
    assert two["test_loss"] == pytest.approx(one["test_loss"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [5, 8], ids=["inside an epoch", "between two"])
@pytest.mark.parametrize("kind", ["symbols", "stream"])
def test_two_processes_resume_to_the_last_bit_after_one_of_them_was_asked_to_stop(kind, stop_after, tmp_path):
    values = {**VALUES, "network": NETWORKS["sticky flag"], "batch_size": 10, "devices": 2}  # of 4 batches
    if kind == "stream":
        (tmp_path / "text.txt").write_text("".join("abcd"[i * i % 17 % 4] for i in range(900)))
        values["task"] = {"name": "Characters", "path": str(tmp_path / "text.txt"), "length": 10}
    whole = start(tmp_path / "whole", values, 2)
    assert start(tmp_path / "parts", values, 2, stop_after=stop_after) == [[True, None]] * 2
    assert start(tmp_path / "parts", values, 2, resume=True) == whole
    for name in ("last.ckpt", "best.ckpt"):
        require_equal(*(read_checkpoint(tmp_path / kind / "run" / name) for kind in ("whole", "parts")))


@pytest.mark.parametrize("made", ["before", "within"])
def test_a_process_group_is_taken_down_where_it_was_made(made, tmp_path):
    def make():
        distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)

    try:
        if made == "before":
            make()
        with own_process_group():
            if made == "within":
                make()
        assert distributed.is_initialized() == (made == "before")
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()


def test_processes_that_torchrun_has_not_started_are_refused(tmp_path):
    settings = read_run({**VALUES, "network": NETWORKS["complex"], "devices": 2})
    with pytest.raises(OptionError, match="torchrun --nproc-per-node"):
        run(settings, folder=tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", ["abc", "", "-1", "1.5"])
@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_a_variable_of_a_process_that_is_no_number_is_named(name, value, tmp_path, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=f"environment variable {name} needs a whole number"):
        run(read_run({**VALUES, "network": NETWORKS["complex"]}), folder=tmp_path / "run")
    with pytest.raises(OptionError, match=name):  # before Lightning reads it on import
        mr.training.__getattr__("run")
    assert not list(tmp_path.iterdir())


def test_a_batch_system_that_lightning_refuses_is_one_error(tmp_path, monkeypatch, whole):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    settings = read_run(whole / "run.yaml")
    for call in (
        lambda: run(settings, folder=tmp_path / "run"),
        lambda: evaluate(settings, stage="test", checkpoint=whole / "best.ckpt"),
    ):
        with pytest.raises(OptionError, match="Lightning cannot set up the processes of this run"):
            call()
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_looks_at_the_folder_in_which_it_writes(tmp_path, monkeypatch):
    (tmp_path / "logs").mkdir()  # as the first process has made it, before it has written the settings
    (tmp_path / "logs" / "events.out.tfevents.1").write_text("")
    settings = read_run({**VALUES, "network": NETWORKS["sticky flag"]})
    monkeypatch.setattr(runs, "_train_and_test", lambda *args: "trained")
    with pytest.raises(OptionError, match="logs"):
        run(settings, folder=tmp_path)
    monkeypatch.setattr(runs, "process_rank", lambda settings: 1)
    assert run(settings, folder=tmp_path) == "trained"
