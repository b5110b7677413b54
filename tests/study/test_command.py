"""``manifold-rnn compare`` as a user meets it: one line for every mistake, Ctrl-C, and resuming."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("lightning")
pytest.importorskip("optuna")
from support import ROOT
from support.study_cases import ABOUT, attempts, postgresql, train, train_slowly

from manifold_rnn.cli import main
from manifold_rnn.errors import OptionError
from manifold_rnn.study import CompareSettings, compare, comparison, read_grid
from manifold_rnn.study.claim import Study
from manifold_rnn.study.comparison import Comparison
from manifold_rnn.study.store import JOURNAL, open_store

GRID = """
base: {task: {name: Digits}, network: {cell: Elman, hidden_size: 4}, epochs: 2, batch_size: 512}
grid:
  network.constraint: [Orthogonal, Unitary]
  network.retraction: [cayley, polar]
"""
WIDER = GRID.replace("[cayley, polar]", "[cayley, polar, qr]")


@pytest.fixture
def grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(GRID)
    return path


def compared(path, output, objective=train, **options):
    settings = CompareSettings(str(path), output=str(output), **options)
    return compare(settings, objective=objective, about=ABOUT)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(capsys, *arguments):
    """The one line that answers the arguments."""
    assert main(["compare", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and err.startswith("manifold-rnn: error: ")
    return err


def unused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


BAD = {
    "no such flag": (["--wrokers", "2"], "Unknown flag `--wrokers`. Did you mean `--workers`?"),
    "workers by name": (["--workers", "many"], "`workers` needs an integer. Got 'many'."),
    "workers below none": (["--workers", "-1"], "`workers` needs an integer of at least 0. Got -1."),
    "no patience": (["--patience", "0"], "`patience` needs a number of at least 1. Got 0.0."),
    "a storage of another kind": (["--storage", "mysql://u:secret@h/d"], "Got mysql://..."),
    "a storage that is no URL": (["--storage", "secret"], "`storage` needs sqlite:///FILE or postgresql://"),
    "SQLite in memory": (["--storage", "sqlite://"], "which names no file"),
    "SQLite in no folder": (
        ["--storage", "sqlite:////none/such/a.db"],
        "`storage` sqlite:////none/such/a.db cannot be",
    ),
    "nobody at the port": (["--storage", "postgresql://u:secret@127.0.0.1:{port}/d"], "cannot be opened: connection"),
    "an unknown driver": (["--storage", "postgresql+secret://u@h/d"], "cannot be opened"),
}


@pytest.mark.parametrize(("arguments", "answer"), BAD.values(), ids=BAD.keys())
def test_a_bad_argument_is_answered_with_one_line_and_nothing_is_written(arguments, answer, grid, tmp_path, capsys):
    before = contents(tmp_path)
    arguments = [argument.format(port=unused_port()) for argument in arguments]
    err = refused(capsys, grid, "--output", tmp_path / "out", *arguments)
    assert answer in err and ":secret" not in err
    assert contents(tmp_path) == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize(("old", "new", "answer"), [
    ("grid:", "grids:", "Unknown key `grids`. Did you mean `grid`?"),
    ("polar", "poler", "poler: `network.retraction` needs one of cayley, exp, polar, qr. Got 'poler'. Did you mean"),
    ("epochs: 2", "epoch: 2", "Unknown key `epoch`. Did you mean `epochs`?"),
    ("network.constraint:", "network.constrain:", "Unknown key `network.constrain`. Did you mean `network.con"),
    ("epochs: 2", "epochs: two", "`epochs` needs an integer. Got 'two'."),
])  # fmt: skip
def test_a_typo_in_the_file_is_answered_with_the_right_word(old, new, answer, grid, tmp_path, capsys):
    grid.write_text(GRID.replace(old, new))
    assert answer in refused(capsys, grid, "--output", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


def test_data_that_is_missing_is_said_before_anything_runs(grid, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("MANIFOLD_RNN_DATA", raising=False)
    grid.write_text(GRID.replace("{name: Digits}", "{name: PixelMNIST}"))
    assert "MANIFOLD_RNN_DATA" in refused(capsys, grid, "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_left_alone(grid, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    assert "`output` needs a folder that can be written" in refused(capsys, grid, "--output", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.parametrize(("name", "content"), [("results.json", "{}"), (JOURNAL, "no journal\n"), (JOURNAL, "[1]\n")])
def test_files_of_something_else_are_left_alone(name, content, grid, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text(content)
    refused(capsys, grid, "--output", tmp_path / "out")
    assert (tmp_path / "out" / name).read_text() == content


def test_a_folder_of_another_study_is_left_alone(grid, tmp_path, capsys):
    assert compared(grid, tmp_path / "out", study="first") == 0
    before = contents(tmp_path / "out")
    capsys.readouterr()
    assert "with results of the study 'first'" in refused(capsys, grid, "--output", tmp_path / "out")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("storage", [None, "sqlite:///{}/a.db"])
@pytest.mark.parametrize("at", ["opened before", "opened at the same time"])
def test_a_folder_of_a_study_without_results_is_left_alone(at, storage, grid, tmp_path, monkeypatch):
    storage = storage and storage.format(tmp_path)
    settings = [
        CompareSettings(str(grid), output=str(tmp_path / "out"), study=name, storage=storage)
        for name in ("first", "second")
    ]
    first, second = (Comparison(each, read_grid(grid), ABOUT, train) for each in settings)

    def open_first_too(*arguments):
        monkeypatch.undo()
        comparison.require_own(*arguments)
        first.open().close()

    if at == "opened before":
        first.open().close()
    else:
        monkeypatch.setattr(comparison, "require_own", open_first_too)
    with pytest.raises(OptionError, match=r"with (results|a journal) of the study 'first'"):
        second.open()
    assert compare(settings[0], objective=train, about=ABOUT) == 0


def test_an_empty_storage_is_no_journal(grid, tmp_path, capsys):
    assert "`storage` needs sqlite:///FILE" in refused(capsys, grid, "--output", tmp_path / "out", "--storage", "")
    assert not (tmp_path / "out").exists()


def test_a_changed_grid_is_refused_by_name_and_extended_on_demand(grid, tmp_path, capsys):
    assert compared(grid, tmp_path / "out") == 0
    before = contents(tmp_path / "out")
    grid.write_text(WIDER)
    capsys.readouterr()
    err = refused(capsys, grid, "--output", tmp_path / "out")
    assert "network.retraction was cayley, polar, now cayley, polar, qr" in err and "--extend" in err
    assert contents(tmp_path / "out") == before
    assert compared(grid, tmp_path / "out", extend=True) == 0
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(document["runs"]) == document["cases"] == 6
    assert len(list((tmp_path / "out").glob("runs/*/done.txt"))) == 6


def test_the_command_trains_reports_and_has_nothing_to_do_the_second_time(grid, tmp_path, capsys):
    arguments = ["compare", str(grid), "--output", str(tmp_path / "out"), "--study", "tiny"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "4/4" in out and "Best by validation: " in out and "report.html" in out
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert document["study"] == "tiny" and len(document["rows"]) == 4
    for run in document["runs"]:
        assert run["state"] == "complete" and [epoch["epoch"] for epoch in run["history"]] == [1, 2]
        assert 0 <= run["test_metric"] <= 1 and run["parameters"] > 0
    before = contents(tmp_path / "out" / "runs")
    assert main(arguments) == 0
    assert "of which 4 have ended before" in capsys.readouterr().out
    assert contents(tmp_path / "out" / "runs") == before


def test_a_loss_that_is_not_finite_is_a_row_with_its_reason(tmp_path, capsys):
    path = tmp_path / "wild.yaml"
    rates = "[Orthogonal]\n  optimizer.lr: [1e-3, 1e38]"
    wild = GRID.replace("[Orthogonal, Unitary]", rates).replace("epochs: 2", "epochs: 2, optimizer: {name: SGD}")
    path.write_text(wild)
    assert main(["compare", str(path), "--output", str(tmp_path / "out")]) == 1
    runs = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert len(runs) == 4
    for run in runs:
        assert run["failure"] is None if run["choices"]["optimizer.lr"] == 1e-3 else "finite" in run["failure"]
    assert "2 failed" in capsys.readouterr().out
    assert "finite" in (tmp_path / "out" / "report.html").read_text()


def test_a_combination_that_cannot_be_is_a_row_with_its_reason(grid, tmp_path):
    grid.write_text(GRID.replace("[Orthogonal, Unitary]", "[Orthogonal, Contraction]"))
    assert main(["compare", str(grid), "--output", str(tmp_path / "out")]) == 1
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    assert [row["complete"] for row in rows] == [1, 1, 0, 0]
    assert all("`network.retraction` needs a network with this option" in row["remark"] for row in rows[2:])


def test_a_report_of_what_there_is_needs_no_worker(grid, tmp_path):
    assert compared(grid, tmp_path / "out", workers=0) == 1
    assert "No run is complete yet" in (tmp_path / "out" / "report.html").read_text()


def test_many_workers_of_one_command_end_every_case_once(grid, tmp_path, capfd):
    assert compared(grid, tmp_path / "out", train_slowly, workers=2) == 0
    runs = [path.read_text().splitlines() for path in (tmp_path / "out").glob("runs/*/done.txt")]
    assert len(runs) == 4
    for lines in runs:  # each by one worker, whichever it was, and none of them this process
        assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
        assert len({line.split()[1] for line in lines}) == 1 and str(os.getpid()) not in lines[0].split()
    study = Study(open_store(None, tmp_path / "out", "grid"), "grid", read_grid(grid), ABOUT)
    assert list(attempts(study).values()) == [[("COMPLETE", "own")]] * 4
    assert capfd.readouterr().out.count("/4  ") == 4


def interrupted(command, folder, number, begun, count):
    """Send a signal to a command when so many files are there, and return what it says."""
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until = time.monotonic() + 1200
        while len(list(folder.glob(begun))) < count and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(number)
        _, err = process.communicate(timeout=1200)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    document = json.loads((folder / "out" / "results.json").read_text())
    assert document["cases"] == 4 and document["runs"] == []
    study = Study(open_store(None, folder / "out", "grid"), "grid", read_grid(folder / "grid.yaml"), ABOUT)
    assert list(attempts(study).values()) == [[("FAIL", "stopped")]] * count


@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 1),
        *(pytest.param(number, 2, marks=pytest.mark.slow) for number in (signal.SIGINT, signal.SIGTERM)),
    ],
)
def test_an_interrupted_study_reports_and_goes_on_where_it_was(workers, number, grid, tmp_path):
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests')!r}); from support import study_cases as c\n"
        "from manifold_rnn.study import CompareSettings, compare\n"
        f"settings = CompareSettings('grid.yaml', output='out', workers={workers})\n"
        "sys.exit(compare(settings, objective=c.train_for_long, about=c.ABOUT))"
    )
    interrupted([sys.executable, "-c", script], tmp_path, number, "out/runs/*/done.txt", workers)
    assert compared(grid, tmp_path / "out") == 0
    for path in tmp_path.glob("out/runs/*/done.txt"):
        trained = [line.split()[0] for line in path.read_text().splitlines()]
        assert len(trained) == len(set(trained)) >= 4  # none was trained twice


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_stops_after_its_batch_and_goes_on(number, grid, tmp_path):
    grid.write_text(GRID.replace("epochs: 2", "epochs: 2000"))
    command = [sys.executable, "-m", "manifold_rnn", "compare", "grid.yaml", "--output", "out"]
    interrupted(command, tmp_path, number, "out/runs/*/best.ckpt", 1)
    assert len(list(tmp_path.glob("out/runs/*/last.ckpt"))) == 1


def test_a_wrong_password_is_not_repeated_and_the_right_one_works(grid, tmp_path, capsys):
    with postgresql() as url:
        err = refused(capsys, grid, "--output", tmp_path / "out", "--storage", url.replace("tester:", "tester:wrong"))
        assert "password authentication failed" in err and url.split(":")[2].split("@")[0] not in err
        assert not (tmp_path / "out").exists()
        assert compared(grid, tmp_path / "out", storage=url) == 0
        written = b"".join(contents(tmp_path / "out").values()).decode()
        assert "postgresql" not in written and not Path(tmp_path, "out", JOURNAL).exists()
