"""Numbers, folders, races and environments of runs: each is checked where it is promised, and said in one line."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

pytest.importorskip("lightning")
import torch
import yaml
from support.run_cases import VALUES, answer, fit, require_same_end, slow, state_of, train
from support.scan_cases import fastest_cpu_scan

from manifold_rnn.cli import main
from manifold_rnn.errors import ManifoldError
from manifold_rnn.tasks import Copying
from manifold_rnn.training import SequenceModule, read_run, run
from manifold_rnn.training.checkpoint import RUN, read_checkpoint, write_checkpoint
from manifold_rnn.training.folder import lock_folder
from manifold_rnn.training.record import read_record, write_record
from manifold_rnn.training.signals import StopSignal

# ---- numbers that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, *slow(math.inf, -math.inf)])
@pytest.mark.parametrize("score", ["loss", "metric"])
@pytest.mark.parametrize("stage", ["training", "validation", "test"])
def test_a_score_that_is_not_finite_fails_the_run(stage, score, value, tmp_path, monkeypatch):
    if (stage, score) == ("training", "metric"):
        pytest.skip("training has no metric")
    steps, step, real = [], getattr(SequenceModule, f"{stage}_step"), getattr(Copying, score)

    def stepped(module, *args):
        steps.append(None)
        at = len(steps) == {"training": 14, "validation": 2, "test": 1}[stage]
        with monkeypatch.context() as patch:
            if at:
                patch.setattr(Copying, score, lambda *args: real(*args) * 0 + value)
            return step(module, *args)

    monkeypatch.setattr(SequenceModule, f"{stage}_step", stepped)
    record = run(read_run(VALUES), folder=tmp_path)
    assert record.state == "failed" and not record.stopped and record.validation is None
    assert str(value) in record.failure
    result = read_record(tmp_path / "result.json")
    assert result.state == "failed" and result.failure == record.failure
    epochs = 3 if stage == "test" else 1
    assert len(read_checkpoint(tmp_path / "last.ckpt")[RUN]["history"]) == epochs
    assert all(math.isfinite(e["val_loss"]) for e in read_checkpoint(tmp_path / "best.ckpt")[RUN]["history"])


def test_a_network_whose_scores_are_not_finite_gives_status_1(copied, monkeypatch, capsys):
    monkeypatch.setattr(Copying, "loss", lambda *args: torch.tensor(math.nan))
    assert main([str(a) for a in ["test", *fit(copied)[1:]]]) == 1
    out, err = capsys.readouterr()
    assert not out and "A network needs finite scores. Got test_loss = nan" in err


def test_a_record_with_a_number_that_is_not_finite_has_failed(whole, tmp_path):
    numbers = ["test_loss", "test_metric", "seconds_per_step", "defect", "spectrum_end", "spectrum_start"]
    for name in numbers:
        record = read_record(whole / "result.json")
        assert record.state == "complete"
        setattr(record, name, [[0.0, math.inf]] if "spectrum" in name else math.nan)
        assert record.state == "failed" and record.not_finite.startswith(name)
    for name in ("train_loss", "val_loss", "val_metric"):
        record = read_record(whole / "result.json")
        record.history[1][name] = math.nan
        write_record(tmp_path / "result.json", record, StopSignal())
        assert record.state == read_record(tmp_path / "result.json").state == "failed"


# ---- starting again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [3, 14], ids=["before a checkpoint", "after one"])
def test_a_run_that_failed_starts_again_by_the_command_it_prints(step, whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    steps, output = [], tmp_path / "out"

    def diverging(task, outputs, targets, real=Copying.loss):
        steps.append(None)
        return real(task, outputs, targets) * (math.nan if len(steps) == step else 1)

    with monkeypatch.context() as patch:
        patch.setattr(Copying, "loss", diverging)
        assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--output", str(output)]) == 1
    line = capsys.readouterr().out.splitlines()[-1]
    assert "start again with: manifold-rnn fit" in line
    before = {name: content for name, content in state_of(output).items() if name != ".lock"}
    resumed = Path(shutil.copytree(output, tmp_path / "resumed"))
    assert main(line.partition("manifold-rnn ")[2].split()) == 0
    require_same_end(whole, output)
    assert state_of(output / "attempt-1") == before and read_record(output / "attempt-1" / "result.json").failure
    assert main([str(a) for a in fit(resumed, "--resume")]) == 0  # it was the machine, not the network
    require_same_end(whole, resumed)
    assert read_record(resumed / "result.previous.json").failure


def test_a_run_that_resumes_has_no_result_until_its_end(copied):
    train({**VALUES, "epochs": 5}, copied, stop_after=2, resume=True)
    assert not (copied / "result.json").exists()
    assert read_record(copied / "result.previous.json").epochs == 3


# ---- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", [[], ["--resume"], ["--restart"]], ids=["fit", "resume", "restart"])
@pytest.mark.parametrize(
    "names", [["table.csv"], [".bashrc"], ["run.yaml", "mine.txt"], ["logs"], ["notes/"], [".x.tmp"], ["run.yaml"]]
)
def test_a_folder_with_files_of_others_is_left_as_it_is(names, flag, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in names:
        (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("mine")
    before = state_of(folder)
    err = answer(["fit", "--config", tmp_path / "run.yaml", "--output", folder, *flag], capsys)
    assert names[-1].strip("/") in err
    assert state_of(folder) == before and {p.name for p in folder.iterdir()} == {name.strip("/") for name in names}


@pytest.mark.parametrize("output", ["", " "])
def test_no_folder_is_refused(output, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    monkeypatch.chdir(tmp_path)
    for flag in ([], ["--resume"], ["--restart"]):
        assert "`output` needs" in answer(["fit", "--config", "run.yaml", "--output", output, *flag], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_notes_of_the_user_beside_a_run_are_kept(copied):
    for name in ("notes.txt", ".draft.tmp", ".run.yaml.77.tmp"):
        (copied / name).write_text("mine")
    train({**VALUES, "epochs": 4}, copied, resume=True)
    run(read_run(VALUES), folder=copied, restart=True)
    assert (copied / "notes.txt").read_text() == (copied / ".draft.tmp").read_text() == "mine"
    assert not (copied / ".run.yaml.77.tmp").exists()  # of a run that was killed
    assert read_record(copied / "attempt-1" / "result.json").epochs == 4


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"restart": True}], ids=str)
@pytest.mark.parametrize("when", ["opened", "died", "moved"])
def test_a_run_that_died_before_its_settings_starts(when, options, whole, copied, tmp_path, monkeypatch):
    from manifold_rnn.training import runs

    folder = copied if when == "moved" else tmp_path / "new"
    with monkeypatch.context() as patch:
        patch.setattr(runs, "prepare", Mock(side_effect=MemoryError))
        with pytest.raises(MemoryError):
            run(read_run(VALUES), folder=folder, restart=when == "moved")
    assert {path.name for path in folder.iterdir()} - {"attempt-1"} == {".lock", "logs"}
    if when == "opened":
        (folder / ".lock").unlink()
    else:
        (folder / "logs" / "events.out.tfevents.1").write_text("")
    run(read_run(VALUES), folder=folder, **options)
    require_same_end(whole, folder)


OF_RUN = ["run.yaml", "last.ckpt", "last.previous.ckpt", "best.ckpt", "best.previous.ckpt", "result.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("flag", ["--resume", "--restart"])
@pytest.mark.parametrize("name", [*OF_RUN, "result.previous.json", "logs"])
def test_a_file_of_another_kind_is_named_before_anything_is_moved(name, flag, copied, capsys):
    settings = copied.parent / "run.yaml"
    settings.write_text(yaml.safe_dump(VALUES))
    for make in (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nothing")):
        (copied / name).rename(copied.parent / "old") if (copied / name).exists() else None
        if name == "logs" and make is Path.mkdir:
            (copied / name).write_text("")
        else:
            make(copied / name)
        before = state_of(copied)
        arguments = ["fit", "--config", settings, "--output", copied, "--epochs", "4", flag]
        assert f"`output` needs a folder where {name} is a " in answer(arguments, capsys)
        assert state_of(copied) == before and not (copied / "attempt-1").exists()
        (copied / name).rmdir() if (copied / name).is_dir() else (copied / name).unlink()


def test_a_start_that_cannot_be_computed_leaves_the_run_where_it_is(copied):
    before = state_of(copied)
    values = {**VALUES, "network": {"cell": "LSTM", "hidden_size": 4}, "start": {"name": "moments"}}
    values["optimizer"] = {"lr": 0.03}
    with pytest.raises(ManifoldError):
        run(read_run(values), folder=copied, restart=True)
    assert state_of(copied) == before and not (copied / "attempt-1").exists()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"restart": True}], ids=str)
def test_a_folder_is_locked_before_it_is_read(options, copied, monkeypatch):
    from manifold_rnn.training import runs

    target = copied if options else copied / "new"
    read = []

    name = "move_aside" if "restart" in options else "starting_point"
    real = getattr(runs, name)

    def looked(*args):
        folder = next(arg for arg in args if isinstance(arg, Path))
        with pytest.raises(BlockingIOError):
            lock_folder(folder)
        read.append(folder)
        return real(*args)

    monkeypatch.setattr(runs, name, looked)
    run(read_run(VALUES), folder=target, **options)
    assert read == [target]
    lock_folder(target).release()


@pytest.mark.slow
@pytest.mark.parametrize("flag", [[], ["--resume"]], ids=["fit", "resume"])
def test_of_two_processes_in_one_folder_one_runs(flag, whole, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    arguments = ["fit", "--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out"), *flag]
    command = [sys.executable, "-m", "manifold_rnn", *arguments]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=1200)[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes
    for code, error in zip(codes, errors, strict=True):
        assert code == 0 or (code == 2 and str(tmp_path / "out") in error and error.count("\n") == 1)
    require_same_end(whole, tmp_path / "out")


# ---- what a run depends on besides its settings ----------------------------------------------------------------------


def test_a_record_holds_the_environment_of_every_part(copied, monkeypatch):
    (first,) = read_record(copied / "result.json").environments
    assert first.keys() == {"manifold_rnn", "torch", "threads", "data", "scan", "accelerator"}
    assert first["scan"] == fastest_cpu_scan() and first["torch"] == torch.__version__ and len(first["data"]) == 64
    values = {**VALUES, "epochs": 4}
    torch.set_num_threads(2)
    try:
        with pytest.warns(UserWarning, match=r"resumes with threads 2 \(was 1\)"):
            record = train(values, copied, resume=True)
    finally:
        torch.set_num_threads(1)
    assert record.environments == [first, {**first, "threads": 2}]
    monkeypatch.setattr("manifold_rnn.training.environment.__version__", "9.9")
    with pytest.warns(UserWarning, match=r"manifold_rnn 9\.9 \(was .*threads 1 \(was 2\)"):
        train({**VALUES, "epochs": 5}, copied, resume=True)


@pytest.mark.filterwarnings("ignore:The run resumes with")
def test_another_scan_is_said_when_it_has_run(copied):
    for name in ("last.ckpt", "last.previous.ckpt"):
        content = read_checkpoint(copied / name)
        content[RUN]["environments"][-1]["scan"] = "reference"
        write_checkpoint(copied / name, content)
    with pytest.warns(UserWarning, match=rf"resumes with scan {fastest_cpu_scan()} \(was reference\)"):
        train({**VALUES, "epochs": 4}, copied, resume=True)


@pytest.mark.parametrize("part", [0, 1, 2], ids=["train", "validation", "test"])
def test_other_data_is_refused(part, copied, monkeypatch, capsys):
    def other(task, real=Copying.splits):
        splits = real(task)
        splits[part].tensors[0].view(-1)[-1] += 1  # one number of one set
        return splits

    before = state_of(copied)
    monkeypatch.setattr(Copying, "splits", other)
    for arguments in (fit(copied, "--resume"), ["test", "--config", copied / "run.yaml", "--output", copied]):
        assert "is a checkpoint of a run on other data" in answer(arguments, capsys)
    assert state_of(copied) == before


def test_a_checkpoint_of_before_resumes_without_a_known_environment(copied, whole):
    for path in copied.glob("*.ckpt"):
        content = read_checkpoint(path)
        del content[RUN]["environments"], content[RUN]["batches"]
        write_checkpoint(path, content)
    assert main(["inspect", str(copied / "last.ckpt")]) == 0
    assert train(VALUES, copied, resume=True).test_loss == read_record(whole / "result.json").test_loss


# ---- signals while a checkpoint is scored ----------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, *slow(signal.SIGINT)])
@pytest.mark.parametrize("stage", ["test", "validate"])
@pytest.mark.parametrize("where", ["Copying.splits", "Trainer._run_stage", "SequenceModule.step"])
def test_a_signal_ends_a_score_without_a_number(where, stage, number, copied, monkeypatch, capsys):
    import lightning.pytorch

    owner, name = where.split(".")
    name = {"test": "test_step", "validate": "validation_step"}[stage] if name == "step" else name
    owner = {"Copying": Copying, "Trainer": lightning.pytorch.Trainer, "SequenceModule": SequenceModule}[owner]
    real = getattr(owner, name)

    def signalled(*args, **kwargs):
        signal.raise_signal(number)
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)
    assert main([stage, "--config", str(copied / "run.yaml"), "--output", str(copied)]) == 130
    assert capsys.readouterr().out == "The run was stopped before its end.\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_a_command_begins_is_one_line(number, monkeypatch, capsys):
    from manifold_rnn.cli import inspect

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells ignore in the background
    monkeypatch.setattr(inspect, "build_parser", lambda *_: signal.raise_signal(number))
    try:
        assert main(["inspect", "x.ckpt"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err == "manifold-rnn: interrupted\n"
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
