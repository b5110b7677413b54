"""``manifold-rnn coverage``: on tasks of every kind, what it writes, and that it leaves nothing half written."""

import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from support.checkpoint_cases import TASKS, TEXT

pytest.importorskip("lightning")
from manifold_rnn.cli import coverage as command
from manifold_rnn.cli import main

QUICK = ["--cases", "30", "--rounds", "1", "--generations", "1", "--offspring", "3", "--seeds", "12"]


@pytest.mark.parametrize("name", TASKS)
def test_every_task_has_a_table_a_record_and_a_page(name, runs, tmp_path, capsys):
    files = ["--output", str(tmp_path / "record"), "--report", str(tmp_path / "page" / "out.html")]
    assert main(["coverage", runs(name), *QUICK, *files]) == 0
    out = capsys.readouterr().out
    compared = TASKS[name][1]
    assert ("adversarial cases" in out) is compared and ("does not classify" in out) is not compared
    assert ("one long stream" in out) is (name == "text") and "testing: " in out
    record = json.loads((tmp_path / "record" / "coverage.json").read_text())
    assert record["format"] == 1 and record["settings"]["cases"] == 30 and record["seeds"] == min(12, record["seeds"])
    assert (record["adversarial"] is not None) is compared and record["cases"] >= 30 + record["seeds"]
    examples = torch.load(tmp_path / "record" / "examples.pt", weights_only=True)
    assert len(examples["inputs"]) == len(examples["test_sequences"]) == record["unique_seeds_broken"]
    assert sorted(path.name for path in (tmp_path / "record").iterdir()) == ["coverage.json", "examples.pt"]
    page = (tmp_path / "page" / "out.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and page.count("<svg") == 1 and "not defects" in page
    assert not re.search(r"(src|href)=[\"']?(?!data:|#)[\w/]", page)  # it loads nothing
    HTMLParser().feed(page)


def test_equal_seeds_give_equal_records_and_nothing_is_written_unless_asked_for(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checkpoint, records = runs("digits"), []
    for seed in ("1", "1", "2"):
        assert main(["coverage", checkpoint, *QUICK, "--seed", seed]) == 0
        records.append(capsys.readouterr().out)
    assert records[0] == records[1] != records[2] and not list(tmp_path.iterdir())


def test_flags_choose_what_is_measured(runs, tmp_path, capsys):
    flags = ["--signal", "forget", "--window", "[2, 5]", "--pieces", "2", "--symbols", "4", "--boundary", "0"]
    assert (
        main(["coverage", runs("adding"), *QUICK, *flags, "--change", "2", "--report", str(tmp_path / "a.html")]) == 0
    )
    out = capsys.readouterr().out
    assert "4 of 4" in out and "0 of 4" in out and "of 16  words" in out


def refused(arguments, capsys):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("manifold-rnn: error: ")
    return err


def test_what_does_not_fit_the_checkpoint_is_answered_with_one_line(runs, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "out"
    files = ["--output", str(folder)]
    assert "from 0 to 5" in refused(["coverage", runs("adding"), "--window", "[2, 9]", *files], capsys)
    assert "`pieces`" in refused(["coverage", runs("adding"), "--pieces", "9", *files], capsys)
    assert "needs an LSTM" in refused(["coverage", runs("digits"), "--signal", "forget", *files], capsys)
    assert "the folder" in refused(["coverage", runs("adding"), "--report", str(tmp_path)], capsys)
    assert not folder.exists()
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setattr(command, "campaign", None)
    for flag, place in (("output", "taken"), ("report", "taken/out.html")):
        arguments = ["coverage", runs("adding"), *QUICK, f"--{flag}", str(tmp_path / place)]
        assert f"`{flag}` needs a folder that can be written" in refused(arguments, capsys)
        assert not capsys.readouterr().out  # before anything is computed
    monkeypatch.undo()
    assert (tmp_path / "taken").read_text() == "mine"
    folder.mkdir()
    for name in ("coverage.json", "examples.pt"):
        (folder / name).write_text("mine")
        expected = f"`output` needs a new file or one of an earlier campaign. Got '{folder / name}'"
        assert expected in refused(["coverage", runs("adding"), *files], capsys)
        (folder / name).unlink()
    assert main(["coverage", runs("adding"), *QUICK, *files]) == main(["coverage", runs("adding"), *QUICK, *files]) == 0
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"no checkpoint")
    assert "damaged" in refused(["coverage", str(broken)], capsys)


def test_other_data_than_that_of_the_run_is_refused(runs, capsys):
    checkpoint = runs("text")
    path = Path(checkpoint).parents[1] / "text.txt"
    try:
        path.write_text(TEXT.replace("question", "noitseuq"))
        assert "a run on other data" in refused(["coverage", checkpoint], capsys)
    finally:
        path.write_text(TEXT)


@pytest.mark.parametrize("where", ["campaign", "save", "json", "page"])
def test_ctrl_c_ends_with_130_and_leaves_nothing_half_written(where, runs, tmp_path, monkeypatch, capsys):
    checkpoint = runs("adding")

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    target = {"campaign": "campaign", "save": "torch.save", "json": "write_json", "page": "write_page"}[where]
    owner = command.torch if target == "torch.save" else command
    monkeypatch.setattr(owner, target.removeprefix("torch."), interrupt)
    files = ["--output", str(tmp_path / "out"), "--report", str(tmp_path / "out" / "a.html")]
    assert main(["coverage", checkpoint, *QUICK, *files]) == 130
    assert "interrupted" in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "out").iterdir()}
    whole = {"campaign": set(), "save": set(), "json": {"examples.pt"}, "page": {"examples.pt", "coverage.json"}}
    assert left == whole[where]


def test_a_terminal_gets_a_progress_bar(runs, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    assert main(["coverage", runs("adding"), *QUICK]) == 0
    shown = stream.getvalue()
    assert "calibrating" in shown and "testing" in shown and "\x1b[" in shown and "test campaign" in shown
