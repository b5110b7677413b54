"""``manifold-rnn prune``: the smaller network is written, read again by every command, and gives the same answers."""

import json
import shutil

import pytest

pytest.importorskip("lightning")
import torch

from manifold_rnn.cli import main
from manifold_rnn.cli.trained import trained_network
from manifold_rnn.nn import open_units
from manifold_rnn.training.checkpoint import read_checkpoint, write_checkpoint

FLAGS = ["--task", "Copying", "--task.delay", "3", "--task.sizes", "[60,20,20]", "--epochs", "2"]
RUNS = {
    "LSTM": ["--network.cell", "LSTM", "--network.num_layers", "2", "--pruning.inputs", "true"],
    "GRU without bias": ["--network.cell", "GRU", "--network.options", "{bias: false}"],
    "orthogonal, trivialized": [
        *("--network.cell", "Elman", "--network.constraint", "Orthogonal", "--network.view", "trivialized"),
        *("--network.nonlinearity", "modrelu", "--optimizer.constrained_lr", "1e-3"),
    ],
    "unitary": ["--network.cell", "Elman", "--network.constraint", "Unitary", "--network.nonlinearity", "modrelu"],
    "double": ["--network.zoo", "exprnn", "--precision", "float64"],
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint of a short run, half of whose gates are closed."""
    known = {}

    def checkpoint(name):
        if name not in known:
            folder = tmp_path_factory.mktemp("run") / "run"
            sizes = ["--network.hidden_size", "8", "--pruning.penalty", "1e-4", "--output", str(folder)]
            assert main(["fit", *FLAGS, *RUNS[name], *sizes]) == 0
            content = read_checkpoint(folder / "best.ckpt")
            for key, value in content["state_dict"].items():
                if "inputs" in key:
                    value[1:3] = -4.0
                elif "log_alpha" in key:
                    value[: 5 if "l0" in key else 3] = -4.0
            write_checkpoint(folder / "best.ckpt", content)
            known[name] = folder / "best.ckpt"
        return known[name]

    return checkpoint


def scores(folder, capsys, checkpoint=None):
    capsys.readouterr()
    more = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    assert main(["test", "--config", f"{folder}/run.yaml", "--output", str(folder), *more]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("name", RUNS)
def test_the_smaller_network_answers_the_same_and_every_command_reads_it(name, trained, tmp_path, capsys):
    checkpoint, folder = trained(name), tmp_path / "pruned"
    assert main(["prune", str(checkpoint), "--output", str(folder)]) == 0
    out = capsys.readouterr().out
    assert (
        "times smaller" in out
        and "times faster than a dense network of 8 units" in out
        and f"Written to {folder}" in out
    )
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "run.yaml"]
    before, after = trained_network(checkpoint).network, trained_network(folder / "best.ckpt").network
    kept = max(len(units) for units in open_units(before.layer).values())
    assert after.layer.hidden_size == kept == (5 if "LSTM" in name else 3) and f"hidden units: 8 -> {kept}" in out
    assert after.layer.unit_gates is None
    if "LSTM" in name:
        assert "(open in each level: 3, 5)" in out and "of which 2 closed (1, 2)" in out
    old, new = scores(checkpoint.parent, capsys), scores(folder, capsys)
    assert new == pytest.approx(old, rel=1e-5)
    assert main(["inspect", str(folder / "best.ckpt"), "--diagnostics", "[spectrum]"]) == 0
    assert "2 of 2 epochs" in capsys.readouterr().out


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_folder_is_moved_and_is_no_run_to_resume(epochs, trained, tmp_path, capsys):
    folder, content = tmp_path / "pruned", read_checkpoint(trained("LSTM"))
    entry = content["manifold_rnn"]
    best_after = {**content, "manifold_rnn": {**entry, "history": entry["history"][:epochs]}}
    write_checkpoint(tmp_path / "best.ckpt", best_after)
    assert main(["prune", str(tmp_path / "best.ckpt"), "--output", str(folder)]) == 0
    capsys.readouterr()
    assert main(["inspect", str(folder / "best.ckpt"), "--diagnostics", "[spectrum]"]) == 0
    assert "Resume with" not in capsys.readouterr().out
    moved = tmp_path / "moved"
    shutil.move(folder, moved)
    scores(moved, capsys)
    assert main(["fit", "--config", f"{moved}/run.yaml", "--output", str(moved), "--resume"]) == 2
    assert "has no last.ckpt" in capsys.readouterr().err
    assert sorted(path.name for path in moved.iterdir() if path.name != ".lock") == ["best.ckpt", "run.yaml"]


def refused(arguments, capsys, status=2):
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == status
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith("manifold-rnn: error: ") and len(err) <= 450
    return err


def test_bad_arguments_are_answered_with_one_line(trained, tmp_path, capsys):
    checkpoint, folder = trained("LSTM"), tmp_path / "pruned"
    assert "`output` needs a new folder" in refused(["prune", checkpoint], capsys)
    assert "no.ckpt" in refused(["prune", "no.ckpt", "--output", folder], capsys)
    assert "Did you mean `--output`?" in refused(["prune", checkpoint, "--outptu", folder], capsys)
    assert "empty" in refused(["prune", checkpoint, "--output", checkpoint.parent], capsys)
    assert "empty" in refused(["prune", checkpoint, "--output", checkpoint], capsys)
    assert "checkpoint" in refused(["prune", "--output", folder], capsys)
    assert not folder.exists()


def test_a_run_without_gates_and_gates_that_are_not_finite_are_refused(trained, tmp_path, capsys):
    folder, plain = tmp_path / "pruned", tmp_path / "plain"
    assert main(["fit", *FLAGS, "--network.cell", "LSTM", "--network.hidden_size", "4", "--output", str(plain)]) == 0
    assert "`pruning.penalty`" in refused(["prune", plain / "best.ckpt", "--output", folder], capsys)
    content = read_checkpoint(trained("LSTM"))
    key = next(key for key in content["state_dict"] if "log_alpha" in key)
    content["state_dict"][key] = torch.full_like(content["state_dict"][key], torch.nan)
    write_checkpoint(tmp_path / "nan.ckpt", content)
    arguments = ["prune", tmp_path / "nan.ckpt", "--output", folder]
    assert "8 of 8 in l0 that are NaN" in refused(arguments, capsys, status=1)
    assert not folder.exists()
