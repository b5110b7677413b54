"""What surrounds a run: where it prints, the names of its folder and its files, and who else writes there."""

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import yaml
from support.run_cases import VALUES, answer, fit, require_same_end, slow, state_of, train

from manifold_rnn.cli import main
from manifold_rnn.errors import OptionError
from manifold_rnn.study import CompareSettings
from manifold_rnn.tasks import Copying, memory
from manifold_rnn.training import NetworkSettings, RunSettings, evaluate, read_run, run
from manifold_rnn.training.values import dump_yaml, load_yaml, read_yaml

# ---- where a run prints ----------------------------------------------------------------------------------------------


class Broken(io.StringIO):
    """A stream that takes nothing."""

    def __init__(self, code):
        super().__init__()
        self.code = code

    def write(self, text):
        raise OSError(self.code, os.strerror(self.code))


@pytest.mark.parametrize("code", [errno.EPIPE, *slow(errno.ENOSPC, errno.EIO, None)])
def test_a_stream_that_takes_nothing_does_not_end_a_run(code, whole, tmp_path, monkeypatch):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, code and Broken(code))
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out")]) == 0
    require_same_end(whole, tmp_path / "out")


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC, None])
@pytest.mark.parametrize("command", ["inspect", "test"])
def test_what_was_asked_for_and_cannot_be_printed_is_an_error_unless_nobody_reads(
    command, code, copied, monkeypatch, capsys
):
    arguments = {"inspect": ["inspect", copied / "best.ckpt"], "test": ["test", *fit(copied)[1:]]}[command]
    monkeypatch.setattr(sys, "stdout", code and Broken(code))
    assert main([str(a) for a in arguments]) == (0 if code == errno.EPIPE else 2)
    assert capsys.readouterr().err.count("\n") == (0 if code == errno.EPIPE else 1)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such shell")
@pytest.mark.parametrize("redirection", ["| true", ">/dev/full", ">&-", "2>&- >&-"])
def test_a_shell_that_takes_no_output_gets_a_whole_run(redirection, whole, tmp_path):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    command = f"{sys.executable} -m manifold_rnn fit --config run.yaml --output out {redirection}"
    done = subprocess.run(command, shell=True, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0 and not done.stderr
    require_same_end(whole, tmp_path / "out")


# ---- names and settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["val", "validation", "fit", "Test", "", 3, None])
def test_a_stage_of_another_name_is_not_scored(stage, copied):
    with pytest.raises(OptionError, match="`stage` needs one of validate, test"):
        evaluate(read_run(VALUES), stage=stage, checkpoint=copied / "best.ckpt")


TEXTS = ["1e-3", "1", "1_0", "0x1f", "1:30", "2026-01-01", ".inf", "nan", "true", "No", "null", "~", "", " a ", "a: b"]
TEXTS += [
    "- a",
    "#a",
    "[1]",
    "{a: 1}",
    "!x",
    "*a",
    "&a",
    "%a",
    "@a",
    "'q'",
    '"q"',
    "two\nlines",
    "ünï",
    "a" * 300,
    "1e+5",
]


def test_every_text_in_settings_is_read_as_it_was_written():
    values = {"texts": TEXTS, "keys": dict.fromkeys(TEXTS, 1), "numbers": [1e-3, 1e17, 1e-300, 3, True, None, []]}
    assert load_yaml(dump_yaml(values)) == values


@pytest.mark.parametrize("name", ["1e-3", "true", "null"])
def test_a_folder_whose_name_looks_like_a_number_is_one(name, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(VALUES, name, stop_after=3)
    assert read_yaml(Path(name, "run.yaml"))["output"] == name
    assert main(["fit", "--config", f"{name}/run.yaml", "--resume"]) == 0
    require_same_end(whole, tmp_path / name)


@pytest.mark.skipif(os.name == "nt", reason="Windows has another home folder and no links")
@pytest.mark.parametrize("output", ["~/run", "$HOME/run", "run", "link/run"])
def test_all_files_of_a_run_are_in_one_folder(output, tmp_path, monkeypatch, capsys):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here, tmp_path / "real"):
        folder.mkdir()
    (here / "link").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    Path("run.yaml").write_text(yaml.safe_dump({**VALUES, "epochs": 1, "output": output}))
    assert main(["fit", "--config", "run.yaml"]) == 0
    folder = home / "run" if output == "~/run" else here / output
    assert f"Written to {home / 'run' if output == '~/run' else output}\n" in capsys.readouterr().out
    names = {"run.yaml", "last.ckpt", "best.ckpt", "result.json", "logs"}
    assert names <= {path.name for path in folder.iterdir()} and [*(folder / "logs").glob("events.*")]
    others = {path for path in tmp_path.rglob("*") if path.is_file()} - {*folder.resolve().rglob("*")}
    assert {path.relative_to(here).as_posix() for path in others if path.is_relative_to(here)} == {"run.yaml"}
    assert main(["fit", "--config", f"{folder}/run.yaml", "--resume", "--epochs", "2"]) == 0
    assert main(["test", "--config", "run.yaml", "--epochs", "2"]) == 0


def test_a_comparison_is_in_the_home_folder_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert CompareSettings("a.yaml", output="~/grid").folder == Path("~/grid").expanduser()


@pytest.mark.skipif(os.name == "nt", reason="Windows guesses the home folder of every user")
def test_the_home_folder_of_nobody_is_refused_by_name(copied, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    nowhere = "~nobody-of-this-name/x"
    for flag in ("--output", "--checkpoint"):
        assert f"`{flag[2:]}` begins with the home folder" in answer(["test", *fit(copied)[1:], flag, nowhere], capsys)
    with pytest.raises(OptionError, match="`output` begins with the home folder"):
        CompareSettings("a.yaml", output=nowhere)


PATHS = ["a\0b", "", " ", 3, None, b"x"]


@pytest.mark.parametrize("path", PATHS, ids=repr)
def test_what_is_no_path_is_refused_by_name(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="`output` needs the path of a folder"):
        run(read_run(VALUES), folder=path)
    with pytest.raises(OptionError, match="`checkpoint` needs the path of a file"):
        evaluate(read_run(VALUES), stage="test", checkpoint=path)
    if isinstance(path, str):
        assert "`checkpoint` needs the path of a file" in answer(["inspect", path], capsys)
    assert not list(tmp_path.iterdir())


def test_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path, capsys, monkeypatch):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    name = os.fsdecode(b"\xe9raw")
    arguments = ["fit", "--config", tmp_path / "run.yaml", "--output", tmp_path / name]
    assert "`output` needs the path of a folder in UTF-8" in answer(arguments, capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_a_task_that_no_file_can_name_is_refused_before_training(tmp_path):
    class Mine(Copying):
        pass

    with pytest.raises(OptionError, match=r"`task` needs a class that can be imported .*Mine"):
        run(RunSettings(Mine(delay=3, sizes=(10, 10, 10)), NetworkSettings(zoo="scornn")), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


# ---- the folder ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "task: {na", "epochs: 3\n", "\0"], ids=["empty", "cut", "part", "bytes"])
@pytest.mark.parametrize("options", [{"resume": True}, *slow({"restart": True})], ids=str)
def test_damaged_settings_beside_a_checkpoint_are_written_again(options, content, copied, whole):
    (copied / "run.yaml").write_text(content)
    with pytest.warns(UserWarning, match=r"run.yaml' is damaged"):
        run(read_run(VALUES), folder=copied, **options)
    require_same_end(whole, copied)
    assert read_run(copied / "run.yaml").epochs == 3


def test_damaged_settings_alone_and_those_of_a_newer_version_are_left_alone(copied, tmp_path):
    for folder, content in ((copied, "format: 9\nnew: 1\n"), (tmp_path / "alone", "task: {na")):
        folder.mkdir(exist_ok=True)
        (folder / "run.yaml").write_text(content)
        before = state_of(folder)
        for options in ({"resume": True}, {"restart": True}):
            with pytest.raises(OptionError, match=r"needs to hold the settings of a run[\s\S]*Move it away"):
                run(read_run(VALUES), folder=folder, **options)
        assert state_of(folder) == before


@pytest.mark.parametrize("name", ["slurm-7.out", "run.log", "job.e123"])
def test_printed_lines_of_a_job_do_not_make_a_folder_foreign(name, whole, tmp_path):
    (tmp_path / name).write_text("epoch 1")
    train(VALUES, tmp_path, stop_after=1)
    for path in tmp_path.glob("*.ckpt"):  # as after a kill before the first
        path.unlink()
    (tmp_path / "notes.txt").write_text("mine")
    train(VALUES, tmp_path, resume=True)
    require_same_end(whole, tmp_path)
    assert (tmp_path / name).read_text() == "epoch 1" and (tmp_path / "notes.txt").read_text() == "mine"


def test_a_lock_or_a_log_that_is_something_else_is_said_in_one_line(copied, tmp_path, capsys):
    locked, logged = tmp_path / "locked", copied
    (locked / ".lock").mkdir(parents=True)
    arguments = ["fit", "--config", copied / "run.yaml", "--output", locked]
    assert "needs a folder with a file .lock" in answer(arguments, capsys)
    for path in (logged / "logs").iterdir():
        path.unlink()
    (logged / "logs").rmdir()
    (logged / "logs").write_text("")
    before = state_of(logged)
    assert "needs a folder where logs is a folder" in answer(fit(logged, "--resume", "--epochs", 4), capsys)
    assert state_of(logged) == before


def test_a_disk_that_is_full_for_the_log_is_one_line(tmp_path, monkeypatch, capfd):
    from tensorboard.summary.writer.record_writer import RecordWriter

    def failing(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))
    monkeypatch.setattr(RecordWriter, "write", failing)
    assert main(["fit", "--config", str(tmp_path / "run.yaml"), "--output", str(tmp_path / "out")]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and os.strerror(errno.ENOSPC) in err


# ---- checkpoints that are no files of ours ---------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_checkpoint_is_a_regular_file_of_a_size_that_memory_holds(whole, tmp_path, monkeypatch, capsys):
    os.mkfifo(tmp_path / "pipe.ckpt")
    for path in (tmp_path / "pipe.ckpt", Path("/dev/zero")):
        assert "it is not a regular file" in answer(["inspect", path], capsys)
    monkeypatch.chdir(tmp_path)
    assert "'.' is a folder. Expected a checkpoint, such as 'last.ckpt'." in answer(["inspect", "."], capsys)
    assert f"is a folder. Expected a checkpoint, such as '{tmp_path / 'last.ckpt'}'." in answer(
        ["inspect", tmp_path], capsys
    )
    with open(tmp_path / "sparse.ckpt", "wb") as file:
        file.truncate(2**35)
    assert "its digest does not match its content" in answer(["inspect", tmp_path / "sparse.ckpt"], capsys)
    monkeypatch.setattr(memory, "machine_memory", lambda: 1000)
    assert "needs a file that fits into memory" in answer(["inspect", whole / "last.ckpt"], capsys)


def test_an_error_without_words_is_named(monkeypatch, capsys):
    from manifold_rnn.cli import inspect

    def lacking(*_):
        raise MemoryError

    monkeypatch.setattr(inspect, "execute", lacking)
    assert "MemoryError" in answer(["inspect", "x.ckpt"], capsys)
