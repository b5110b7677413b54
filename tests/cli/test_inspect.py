"""``manifold-rnn inspect``: which diagnostics it runs, on tasks of every kind, and the page that it writes."""

import errno
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.checkpoint_cases import TASKS, TEXT

pytest.importorskip("lightning")
from manifold_rnn.cli import inspect as command
from manifold_rnn.cli import main
from manifold_rnn.errors import NonFiniteError
from manifold_rnn.training import choices

FEW = ["--sequences", "5"]
QUICK = {
    "inspect": ["--diagnostics", "[spectrum]"],
    "coverage": ["--cases", "5", "--rounds", "1", "--generations", "0", "--seeds", "3"],
}


def refused(arguments, capsys):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("manifold-rnn: error: ") and len(err) <= 450
    return err


@pytest.mark.parametrize("name", TASKS)
def test_a_report_has_a_section_for_each_diagnostic_and_loads_nothing(name, runs, tmp_path, capsys):
    path = tmp_path / "pages" / "out.html"
    assert main(["inspect", runs(name), *FEW, "--report", str(path)]) == 0
    out, page = capsys.readouterr().out, path.read_text()
    assert f"Written to {path}" in out and [p.name for p in path.parent.iterdir()] == ["out.html"]
    headings = re.findall("<h2>(.*?)</h2>", page)
    known = [diagnostic.replace("_", " ").capitalize() for diagnostic in choices.diagnostics()]
    assert [h for h in known if h not in headings] in ([], ["Defects"])  # a network without constraint has none
    assert not re.search(r"(src|href)=[\"']?(?!data:|#)[\w/]", page)
    assert "$" not in page  # pictures have no mathematics
    HTMLParser().feed(page)
    applied = [d for d in choices.diagnostics() if f"\n{d}: " not in out]
    assert page.count("<svg") >= len(applied) - 1 and "gradient_flow" in applied


def test_without_a_report_the_quick_diagnostics_are_printed_and_nothing_is_written(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", runs("digits")]) == 0
    out = capsys.readouterr().out
    assert "defect of layer.weight_hh_l0" in out and "spectrum" in out and "gradient flow" not in out
    assert not list(tmp_path.iterdir())
    assert main(["inspect", runs("digits"), "--diagnostics", "[gradient_flow]", *FEW]) == 0
    out = capsys.readouterr().out
    assert "gradient flow" in out and "mean of 5 sequences" in out and "spectrum" not in out


def test_every_diagnostic_that_can_describe_a_checkpoint_is_known_and_the_quick_ones_are_among_them():
    known = choices.diagnostics()
    assert (
        "spectrum" in command._quick()
        and "pseudospectrum" not in command._quick()
        and {"gradient_flow", "memory", "robustness", "pseudospectrum"} <= set(known)
    )
    assert choices.needs_data(known["gradient_flow"]) and not choices.needs_data(known["spectrum"])


def test_a_diagnostic_that_does_not_apply_is_named_on_the_page(runs, tmp_path, monkeypatch, capsys):
    def broken(network):
        raise NonFiniteError("Needs <finite> weights.\nExpected others.")

    both = {"broken": broken, "spectrum": choices.diagnostics()["spectrum"]}
    monkeypatch.setattr(choices, "diagnostics", lambda: both)
    path = tmp_path / "out.html"
    assert main(["inspect", runs("digits"), *FEW, "--report", str(path)]) == 0
    assert "broken: Needs <finite> weights. Expected others." in capsys.readouterr().out
    page = path.read_text()
    assert (
        re.search("<h2>Broken</h2>.*Needs &lt;finite&gt; weights", page)
        and page.count("<svg") == 1
        and "spectral radius" in page
    )


def test_bad_flags_are_answered_with_one_line(runs, tmp_path, capsys):
    checkpoint = runs("digits")
    assert "the folder" in refused(["inspect", checkpoint, "--report", tmp_path], capsys)
    assert "`report`" in refused(["inspect", checkpoint, "--report", ""], capsys)
    assert "at least 1" in refused(["inspect", checkpoint, "--sequences", "0"], capsys)
    assert "Did you mean `spectrum`?" in refused(["inspect", checkpoint, "--diagnostics", "[spectrun]"], capsys)
    (tmp_path / "file").write_text("")
    assert "can be written" in refused(["inspect", checkpoint, "--report", tmp_path / "file" / "a.html"], capsys)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("command", ["inspect", "coverage"])
def test_a_report_replaces_no_other_file(command, runs, tmp_path, capsys):
    checkpoint, link, pipe = Path(runs("digits")), tmp_path / "link", tmp_path / "pipe"
    (tmp_path / "page").write_text("<!DOCTYPE html>")
    link.symlink_to(tmp_path / "page")
    os.mkfifo(pipe)
    before = checkpoint.read_bytes()
    for path in (checkpoint, link, pipe, Path("/dev/null"), Path("/dev/stdout")):
        expected = "`report` needs a new file or an earlier report"
        assert expected in refused([command, checkpoint, "--report", path], capsys)
    assert checkpoint.read_bytes() == before and pipe.is_fifo() and link.is_symlink()
    for old in ("", "<!DOCTYPE html><html>old"):
        (tmp_path / "page").write_text(old)
        assert main([command, str(checkpoint), *QUICK[command], "--report", str(tmp_path / "page")]) == 0
        assert (tmp_path / "page").read_text().startswith("<!DOCTYPE html>\n")


@pytest.mark.parametrize("command", ["inspect", "coverage"])
@pytest.mark.parametrize("stream", [None, errno.EPIPE, errno.ENOSPC], ids=["closed", "pipe", "full"])
def test_a_report_is_written_whether_or_not_its_lines_are_read(stream, command, runs, tmp_path, monkeypatch):
    def write(text):
        raise OSError(stream, os.strerror(stream))

    broken = io.StringIO()
    broken.write = write
    monkeypatch.setattr(sys, "stdout", None if stream is None else broken)
    assert main([command, runs("digits"), *QUICK[command], "--report", str(tmp_path / "a.html")]) == 0
    assert (tmp_path / "a.html").exists()
    without = main([command, runs("digits"), *QUICK[command]])
    assert without == (0 if stream == errno.EPIPE else 2)


def test_other_data_than_that_of_the_run_is_refused_where_data_are_needed(runs, capsys):
    checkpoint = Path(runs("text"))
    path = checkpoint.parents[1] / "text.txt"
    path.write_text(TEXT.replace("question", "noitseuq"))
    try:
        assert main(["inspect", str(checkpoint)]) == 0
        assert "data" in refused(["inspect", checkpoint, "--diagnostics", "[gradient_flow]"], capsys)
    finally:
        path.write_text(TEXT)


def test_it_imports_no_library_that_it_does_not_need(runs):
    code = (
        "import sys; from manifold_rnn.cli import main; main(sys.argv[1:]);"
        "print([name for name in ('lightning', 'matplotlib', 'optuna', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "inspect", runs("digits")], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("[]\n"), done.stdout[-200:]
