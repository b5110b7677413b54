"""What goes wrong beside a comparison, or is written in its file, and what must not follow from it."""

import errno
import io
import json
import math
import os
import sqlite3
import sys

import pytest

pytest.importorskip("optuna")
pytest.importorskip("matplotlib")
import optuna
from filelock import FileLock
from support.study_cases import ABOUT, BASE, GRID, SMALL, attempts, epoch_scores, open_study, record, train

from manifold_rnn.errors import OptionError
from manifold_rnn.study import CompareSettings, Grid, compare, store
from manifold_rnn.study.report import write_report
from manifold_rnn.study.results import gather
from manifold_rnn.study.store import JOURNAL, StudyBusy, open_store
from manifold_rnn.study.worker import Worker


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


def test_failed_cases_are_run_again_on_request_and_complete_ones_are_not(tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(GRID)
    broken, begun = [True], []

    def objective(mapping, *, folder, **options):
        begun.append(mapping["network"]["constraint"] + mapping["network"]["retraction"])
        if mapping["network"]["constraint"] == "Unitary" and broken:
            folder.mkdir(parents=True)
            (folder / "left.txt").write_text("by the attempt that failed")
            raise RuntimeError("out of memory")
        return train(mapping, folder=folder, **options)

    def compared(**options):
        settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"), **options)
        begun.clear()
        return compare(settings, objective=objective, about=ABOUT)

    assert compared() == 1
    assert "2 failed. Add --retry_failed" in capsys.readouterr().out
    assert compared() == 1 and not begun  # a failure is an end, unless it is asked for
    with pytest.raises(OptionError, match=r"`retry` needs the name of a failed case.*Unitary · cayley, seed 0"):
        compared(retry="Orthogonal · cayley, seed 0")
    assert compared(retry_failed=True) == 1 and begun == ["Unitarycayley", "Unitarypolar"]
    broken.clear()
    assert compared(retry="Unitary · cayley, seed 0") == 1 and begun == ["Unitarycayley"]
    assert compared(retry="unitary-polar-*") == 0 and begun == ["Unitarypolar"]
    assert compared(retry_failed=True) == 0 and not begun
    assert len(list(tmp_path.glob("out/runs/*.failed*/left.txt"))) == 4  # what failed attempts left is kept
    runs = json.loads((tmp_path / "out" / "results.json").read_text())["runs"]
    assert [run["state"] for run in runs] == ["complete"] * 4


def test_a_case_that_was_given_up_can_be_retried(tmp_path, monkeypatch):
    from manifold_rnn.study import claim

    (tmp_path / "worker.lock").touch()
    one = open_study(tmp_path, axes={"network.constraint": ["Orthogonal"]}, seeds=[0])
    with monkeypatch.context() as past:
        past.setattr(claim, "identity", lambda: str(tmp_path / "worker.lock"))
        while one.claim() is not None:
            pass
    assert one.claim() is None
    one.retry([case.key for case in one.cases])
    assert one.claim().is_retry


def test_combinations_that_give_the_same_run_are_run_once(tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(
        "base: {task: {name: Digits}, network: {cell: Elman, constraint: Orthogonal}}\n"
        "grid:\n  network.retraction: [null, cayley, polar]\n  optimizer: [{lr: 1e-3}, {}, {lr: 0.001, name: Adam}]\n"
        "  clip: [1, 1.0]\n"
    )

    def objective(mapping, *, folder, on_epoch, stop):
        on_epoch(epoch_scores(0.5, 1))
        return record([epoch_scores(0.5, 1)])

    settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"))
    assert compare(settings, objective=objective, about=ABOUT) == 0
    assert "2 runs" in (out := capsys.readouterr().out) and "16 combinations are equal to others" in out
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    assert len(document["runs"]) == len(document["rows"]) == 2


def test_a_study_goes_on_if_its_file_says_the_same_in_other_words(tmp_path):
    Worker(open_study(tmp_path, axes=SMALL), train, tmp_path / "runs").work()
    base = {**BASE, "optimizer": {"lr": 0.001}, "task": {"name": "Digits", "seed": 0}}
    axes = {"network.constraint": ["Unitary", {"name": "Orthogonal"}], "network.retraction": ["cayley"]}
    other = open_study(tmp_path, axes=Grid(base, axes, seeds=[1, 0]))
    assert len(other.ends()) == 4 and other.claim() is None
    results = gather(other)
    shown = [row.choices["network.constraint"] for row in results.rows]
    assert all(constraint in shown for constraint in axes["network.constraint"])
    assert len(results.rows) == 2 and all(len(row.complete) == 2 for row in results.rows)


def hold(kind, folder):
    """Keep a lock as a suspended worker does, and return what releases it."""
    if kind == "sqlite":
        connection = sqlite3.connect(folder / "a.db", isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
        return connection.close
    lock = FileLock({"study": folder / "study.lock", "journal": folder / f"{JOURNAL}.append"}[kind], is_singleton=False)
    lock.acquire()
    return lock.release


@pytest.mark.parametrize("kind", ["study", "journal", "sqlite"])
def test_workers_wait_for_the_lock_of_a_suspended_one_and_lose_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_WAIT", 0.05)
    url = f"sqlite:///{tmp_path / 'a.db'}" if kind == "sqlite" else None
    one = open_study(tmp_path, url, axes=SMALL)
    release = hold(kind, tmp_path)
    with pytest.raises(StudyBusy):
        one.claim()
    calls, held, real = [], [release], one._close

    def close(*arguments):
        calls.append(arguments)
        if len(calls) == 2:  # while the second result is to be written, a lock is kept for three tries
            held.append(hold(kind, tmp_path))
        if len(calls) == 5:
            held.pop()()
        return real(*arguments)

    claims, claim = [], one.claim

    def claim_after_waiting(*arguments):
        claims.append(arguments)
        if len(claims) == 3:
            held.pop()()
        return claim(*arguments)

    monkeypatch.setattr(one, "_close", close)
    monkeypatch.setattr(one, "claim", claim_after_waiting)
    Worker(one, train, tmp_path / "runs").work()
    assert list(attempts(one).values()) == [[("COMPLETE", "own")]] * 4 and not held


def test_a_run_whose_folder_a_suspended_worker_has_is_left_alone_for_a_while(tmp_path):
    one, asked = open_study(tmp_path, axes=SMALL, patience=1), []

    def objective(mapping, **options):
        asked.append(mapping["network"]["constraint"])
        if len(asked) == 1:
            raise BlockingIOError("Another process is training in the folder.")
        return train(mapping, **options)

    Worker(one, objective, tmp_path / "runs").work()
    assert len(one.ends()) == 4 and asked.count("Orthogonal") == 3
    assert all(trial.state.name == "COMPLETE" for trial in one.ends().values())


@pytest.mark.parametrize("error", [
    FileNotFoundError(errno.ENOENT, "No such file"), PermissionError(errno.EACCES, "not readable"),
    OSError("no errno: not a sound"), MemoryError(), RecursionError("deep"), KeyError("a"), TimeoutError("a download"),
], ids=repr)  # fmt: skip
def test_an_error_of_one_case_ends_that_case_alone(error, tmp_path):
    def objective(mapping, **options):
        if mapping["network"]["constraint"] == "Unitary":
            raise error
        return train(mapping, **options)

    one = open_study(tmp_path, axes=SMALL)
    Worker(one, objective, tmp_path / "runs").work()
    assert sorted(trial.state.name for trial in one.ends().values()) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE])
def test_an_error_of_the_machine_ends_the_work_and_no_case(number, tmp_path):
    def objective(mapping, **options):
        raise OSError(number, os.strerror(number))

    one = open_study(tmp_path, axes=SMALL)
    with pytest.raises(OSError, match=os.strerror(number)):
        Worker(one, objective, tmp_path / "runs").work()
    assert not one.ends()


SPOILED = {
    **{name: {name: math.nan} for name in ("test_loss", "test_metric", "seconds_per_step", "defect")},
    "an infinite loss of the test": {"test_loss": math.inf},
    "an eigenvalue": {"spectrum_end": [[math.nan, 0.0]]},
    **{
        f"{key} of epoch 1": {"history": [{**epoch_scores(0.99, 1), key: math.nan}, epoch_scores(0.99, 2)]}
        for key in ("train_loss", "val_loss", "val_metric")
    },
}


@pytest.mark.parametrize(
    ("changes", "stored"),
    [
        *((changes, "by this version") for changes in SPOILED.values()),
        # JSON has null for a number that is not finite, which in other places is a number that is not there
        *((changes, "before") for name, changes in SPOILED.items() if "epoch" in name or "eigenvalue" in name),
    ],
)
def test_a_case_with_any_number_that_is_not_finite_is_not_ranked(changes, stored, tmp_path):
    def objective(mapping, **options):
        good = [epoch_scores(0.5, 1), epoch_scores(0.5, 2)]
        spoiled = mapping["network"]["constraint"] == "Unitary"
        return (
            record([epoch_scores(0.99, 1)], **changes)
            if spoiled and "history" not in changes
            else record(changes["history"] if spoiled else good)
        )

    one = open_study(tmp_path, axes=SMALL, seeds=[0])
    if stored == "before":
        while attempt := one.claim():
            one.finish(attempt, objective(one.grid.run_mapping(attempt.choices, 0)))
    else:
        Worker(one, objective, tmp_path / "runs").work()
    rows = gather(one).rows
    assert rows[0].choices["network.constraint"] == "Orthogonal" and len(rows[0].complete) == 1
    assert not rows[1].complete and rows[1].remark.endswith(("is nan", "is inf"))
    write_report(gather(one), tmp_path)


@pytest.mark.parametrize("change", [
    ('"test_metric":0.', '"test_metric":0.9'), ('"val_loss":', '"val_loss":1'), ('"seed":0', '"seed":1'),
    ('"sha256":"', '"sha256":"0'), ('"choices":{"network.constraint":"Orth', '"choices":{"network.constraint":"Horth'),
], ids=str)  # fmt: skip
def test_a_changed_character_of_a_stored_result_is_not_ranked(change, tmp_path, capsys):
    (tmp_path / "grid.yaml").write_text(GRID)
    settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"))
    assert compare(settings, objective=train, about=ABOUT) == 0
    journal, lines = tmp_path / "out" / JOURNAL, []
    for line in (content := journal.read_text()).splitlines():
        lines.append(line.replace(*change, 1) if '"record":' in line and change[0] in line else line)
    assert "\n".join(lines) != content.strip()
    journal.write_text("\n".join([*lines, ""]))
    capsys.readouterr()
    with pytest.raises(OptionError, match=r"The study cannot be read at trial \d. A result is damaged"):
        compare(settings, objective=train, about=ABOUT)
    assert "Best" not in capsys.readouterr().out
    journal.unlink()
    assert compare(settings, objective=train, about=ABOUT) == 0


@pytest.mark.parametrize(("old", "new"), [
    ('"case":', '"cbse":'), ('"choices":', '"chnices":'), ('"seed":', '"seeb":'), ('"worker":', '"wnrker":'),
    ('"from_epoch":', '"from_epnch":'), ('"record":', '"rebord":'), ('"state":1', '"state":3'),
    ('"seeds":', '"segds":'), ('"study_name":"grid"', '"study_name":"crid"'), ('"}\n', '"=\n'),
])  # fmt: skip
def test_a_damaged_key_of_a_journal_is_refused_and_no_case_runs_again(old, new, tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"))
    assert compare(settings, objective=train, about=ABOUT) == 0
    journal = tmp_path / "out" / JOURNAL
    text = journal.read_text()
    damaged = text.removesuffix(old) + new if text.endswith(old) else text.replace(old, new, 1)
    journal.write_text(damaged)
    assert new in damaged
    with pytest.raises(OptionError, match=r"cannot be read|with a journal of the study|its last line is damaged"):
        compare(settings, objective=train, about=ABOUT)
    assert journal.read_text() == damaged


@pytest.mark.parametrize("name", ["table.csv", "table.md", "report.html", "curves.svg", "results.json"])
def test_a_folder_with_files_of_something_else_is_left_as_it_is(name, tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_text("mine")
    settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"))
    with pytest.raises(OptionError, match="`output` needs a folder for the study 'grid' alone"):
        compare(settings, objective=train, about=ABOUT)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert (tmp_path / "out" / name).read_text() == "mine"


def test_a_database_of_something_else_is_left_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE mine (a)")
    connection.close()
    before = (tmp_path / "a.db").read_bytes()
    with pytest.raises(OptionError, match="it contains tables of another program, such as mine"):
        open_store(f"sqlite:///{tmp_path / 'a.db'}", tmp_path, "study")
    assert (tmp_path / "a.db").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.db"]


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC])
def test_a_stream_that_takes_nothing_does_not_end_a_comparison(code, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    class Broken(io.StringIO):
        write = refuse

    (tmp_path / "grid.yaml").write_text(GRID)
    monkeypatch.setattr(sys, "stdout", Broken())
    settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"))
    assert compare(settings, objective=train, about=ABOUT) == 0
    assert (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_folder_that_the_machine_cannot_make_ends_the_work_and_no_case(code, tmp_path, monkeypatch):
    from manifold_rnn.training.folder import open_folder

    study = open_study(tmp_path)
    real = type(tmp_path).mkdir

    def full(path, *args, **options):
        if "runs" in path.parts:
            raise OSError(code, os.strerror(code), str(path))
        return real(path, *args, **options)

    def objective(mapping, *, folder, **options):
        open_folder(folder)
        return train(mapping, folder=folder, **options)

    monkeypatch.setattr(type(tmp_path), "mkdir", full)
    with pytest.raises(OSError, match=os.strerror(code)):
        Worker(study, objective, tmp_path / "runs").work()
    assert not study.ends()


def test_a_file_in_the_place_of_the_folders_of_runs_is_refused_before_any(tmp_path):
    (tmp_path / "grid.yaml").write_text(GRID)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "runs").write_text("mine")
    settings = CompareSettings(str(tmp_path / "grid.yaml"), output=str(tmp_path / "out"))
    with pytest.raises(OptionError, match=r"needs a folder that can be written.*runs"):
        compare(settings, objective=train, about=ABOUT)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["runs"]
