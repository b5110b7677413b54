"""What surrounds a run: where it prints, the names of its folder and its files, and who else writes there."""

import errno
import io
import os
import subprocess
import sys

import pytest

pytest.importorskip("lightning")
import yaml
from support.run_cases import VALUES, fit, require_same_end, slow

from manifold_rnn.cli import main

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


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC])
@pytest.mark.parametrize("command", ["inspect", "test"])
def test_what_was_asked_for_and_cannot_be_printed_is_an_error_unless_nobody_reads(
    command, code, copied, monkeypatch, capsys
):
    arguments = {"inspect": ["inspect", copied / "best.ckpt"], "test": ["test", *fit(copied)[1:]]}[command]
    monkeypatch.setattr(sys, "stdout", Broken(code))
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
