"""What SECURITY.md promises: no file that is read can run code."""

import ast

import pytest

pytest.importorskip("lightning")
from support import ROOT

from manifold_rnn.errors import OptionError
from manifold_rnn.training import read_run
from manifold_rnn.training.checkpoint import read_checkpoint, write_checkpoint

SOURCES = sorted((ROOT / "manifold_rnn").rglob("*.py"))
MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


class Command:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_reads_what_may_run(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not {name.partition(".")[0] for name in names} & MODULES, ast.unparse(node)
        if isinstance(node, ast.Call):
            name, options = ast.unparse(node.func), {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert name not in ("eval", "exec", "yaml.load", "yaml.unsafe_load", "yaml.full_load"), name
            assert name != "torch.load" or options.get("weights_only") == "True", ast.unparse(node)
            assert name not in ("numpy.load", "np.load") or options.get("allow_pickle", "False") == "False"


def test_a_checkpoint_runs_nothing(tmp_path):
    path, trace = tmp_path / "last.ckpt", tmp_path / "trace"
    write_checkpoint(path, {"manifold_rnn": {"format": 2}, "other": Command(trace)})
    with pytest.raises(OptionError):
        read_checkpoint(path)
    assert not trace.exists()


def test_settings_run_nothing(tmp_path):
    path, trace = tmp_path / "run.yaml", tmp_path / "trace"
    path.write_text(f"task: !!python/object/apply:builtins.open [{trace}, w]\n")
    with pytest.raises(OptionError):
        read_run(path)
    assert not trace.exists()
