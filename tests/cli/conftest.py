import io
from contextlib import redirect_stdout

import pytest
from support.checkpoint_cases import TASKS, TEXT

from manifold_rnn.cli import main


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """The checkpoint of one epoch of a task."""
    folder, known = tmp_path_factory.mktemp("runs"), {}
    (folder / "text.txt").write_text(TEXT)

    def checkpoint(name):
        if name not in known:
            flags = [str(folder / "text.txt") if flag == "TEXT" else flag for flag in TASKS[name][0]]
            with redirect_stdout(io.StringIO()):
                limits = ["--epochs", "1", "--max_steps", "2", "--batch_size", "64"]
                assert main(["fit", *flags, *limits, "--output", str(folder / name)]) == 0
            known[name] = folder / name / "best.ckpt"
        return str(known[name])

    return checkpoint
