"""The section ``pruning`` of a run: what it refuses, what it adds, and that another run is as before."""

import math

import pytest

pytest.importorskip("lightning")
import torch

from manifold_rnn.cli import main
from manifold_rnn.errors import OptionError, UnsupportedError
from manifold_rnn.nn import l0_penalty
from manifold_rnn.training import (
    OptimizerSettings,
    PruningSettings,
    SequenceModule,
    as_mapping,
    build_optimizer,
    evaluate,
    read_run,
    run,
)
from manifold_rnn.training.build import build_for_run
from manifold_rnn.training.checkpoint import read_checkpoint

TASK = {"name": "Copying", "delay": 3, "sizes": [60, 20, 20]}
BASE = {"task": TASK, "network": {"cell": "LSTM", "hidden_size": 6}, "epochs": 2, "batch_size": 20}


def settings(pruning, **changes):
    return read_run({**BASE, **changes, "pruning": pruning})


def test_it_is_off_by_default_and_adds_nothing():
    assert read_run(BASE).methods() == [] and build_for_run(read_run(BASE)).layer.unit_gates is None
    assert read_run(as_mapping(read_run(BASE))) == read_run(BASE)
    one = settings({"penalty": 1e-3, "minimum": 2})
    assert read_run(as_mapping(one)) == one and one.methods() == [PruningSettings(1e-3, minimum=2)]


def test_the_penalty_rises_over_the_warm_up_and_counts_in_full_in_validation():
    pruning = PruningSettings(penalty=0.1, warmup=0.5)
    one = settings({"penalty": 0.1, "warmup": 0.5})
    network = build_for_run(one)
    whole = 0.1 * l0_penalty(network)
    for progress, part in ((0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (1.0, 1.0)):
        torch.testing.assert_close(pruning.added_loss(network, one.task, progress), part * whole)
    torch.testing.assert_close(pruning.added_validation_loss(network, one.task), whole)
    torch.testing.assert_close(PruningSettings(0.1, warmup=0.0).added_loss(network, one.task, 0.0), whole)


@pytest.mark.parametrize("constraint", [None, "Orthogonal"])
@pytest.mark.parametrize("lr", [None, 0.5])
def test_gates_have_their_own_rate_and_no_decay(constraint, lr):
    network = {**BASE["network"], "constraint": constraint}
    one = settings({"penalty": 0.1, "lr": lr}, network=network)
    optimizer = OptimizerSettings(lr=0.01, constrained_lr=0.003 if constraint else None, weight_decay=0.1)
    module = SequenceModule(build_for_run(one), one.task, optimizer, methods=one.methods())
    built = build_optimizer(module.network, module.optimizer_settings)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in built.param_groups for p in group["params"]}
    gates = module.network.layer.unit_gates["l0"].log_alpha
    assert rates[id(gates)] == (lr or pytest.approx(0.1), 0.0)
    assert rates[id(module.network.readout.weight)] == (0.01, 0.1)
    if constraint:
        assert rates[id(module.network.layer.weight_hh_l0)][0] == 0.003


def test_a_run_closes_gates_down_to_the_floor_and_its_checkpoints_are_evaluated(tmp_path, capsys):
    one = settings({"penalty": 0.5, "warmup": 0.0, "minimum": 2, "lr": 0.5}, epochs=6)
    record = run(one, folder=tmp_path)
    weights = read_checkpoint(tmp_path / "last.ckpt")["state_dict"]
    network = build_for_run(one)
    network.load_state_dict({k.removeprefix("network."): v for k, v in weights.items()})
    assert len(network.layer.unit_gates["l0"].open()) == 2
    scores = evaluate(one, stage="test", checkpoint=tmp_path / "best.ckpt")
    assert scores["test_loss"] == record.test_loss
    expected = 0.5 * l0_penalty(network).item()
    assert record.history[-1]["val_loss"] > expected  # which it contains
    assert main(["inspect", str(tmp_path / "last.ckpt"), "--diagnostics", "[spectrum]"]) == 0
    assert "gates/open: 2\n" in capsys.readouterr().out
    with torch.no_grad():
        network.layer.unit_gates["l0"].log_alpha[0] = torch.nan
    assert math.isnan(one.pruning.numbers(network)["gates/open"])


def test_the_start_is_the_mean_of_the_gates_and_a_penalty_of_0_leaves_them_out():
    gates = build_for_run(settings({"penalty": 1e-3, "log_alpha": 3.0})).layer.unit_gates["l0"]
    assert (gates.log_alpha - 3.0).abs().max() < 1
    swept = settings({"penalty": 0, "lr": 0.1, "warmup": 0.1, "minimum": 9, "inputs": True, "log_alpha": 3.0})
    assert swept.methods() == [] and build_for_run(swept).layer.unit_gates is None


def test_the_log_has_the_number_of_open_units(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(settings({"penalty": 1e-3}), folder=tmp_path)
    log = EventAccumulator(str(tmp_path / "logs"))
    log.Reload()
    assert [event.value for event in log.Scalars("gates/open")] == [6, 6]


def test_zoo_networks_of_the_elman_cell_are_pruned_too():
    one = settings({"penalty": 1e-3}, network={"zoo": "exprnn", "hidden_size": 6})
    assert build_for_run(one).layer.unit_gates is not None


BAD = {
    "a negative penalty": ({"penalty": -1.0}, {}, "`pruning.penalty` needs a number of at least 0. Got -1.0"),
    "an infinite penalty": ({"penalty": float("inf")}, {}, "`pruning.penalty`"),
    "a text": ({"penalty": "much"}, {}, "`pruning.penalty` needs a number"),
    "a long warm-up": ({"penalty": 1e-3, "warmup": 1.5}, {}, "`pruning.warmup` needs a fraction from 0 to 1"),
    "no floor": ({"penalty": 1e-3, "minimum": 0}, {}, "`pruning.minimum` needs an integer of at least 1"),
    "a rate of 0": ({"penalty": 1e-3, "lr": 0.0}, {}, "`pruning.lr` needs a positive number"),
    "an unknown key": ({"penalti": 1e-3}, {}, "Did you mean `pruning.penalty`?"),
    "a floor above the units": ({"penalty": 1e-3, "minimum": 7}, {}, "`pruning.minimum` needs at most the 6"),
    "a start out of range": (
        {"penalty": 1e-3, "log_alpha": 9.0},
        {},
        "`pruning.log_alpha` needs a number from -4.6 to 4.6",
    ),
    "two rates": (
        {"penalty": 1e-3, "lr": 0.1},
        {"optimizer": {"groups": {"log_alpha": {"lr": 0.2}}}},
        "`pruning.lr` needs an optimizer without a group",
    ),
    "a readout of the real part": ({"penalty": 1e-3}, {"network": {"zoo": "eurnn", "hidden_size": 6}}, "real part"),
    **{
        name: ({"penalty": 1e-3}, {"network": {"zoo": name, "hidden_size": 6}}, "trained initial state")
        for name in ("urnn", "scurnn", "full_urnn", "ornn")
    },
    "another cell": ({"penalty": 1e-3}, {"network": {"cell": "LEM", "hidden_size": 6}}, "LEM"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_named_before_anything_is_written(name, tmp_path):
    pruning, changes, text = BAD[name]
    with pytest.raises((OptionError, UnsupportedError)) as caught:
        run(settings(pruning, **changes), folder=tmp_path / "out")
    assert text in str(caught.value) and len(str(caught.value)) <= 400
    assert not (tmp_path / "out").exists()


def test_the_command_answers_with_one_line(tmp_path, capsys):
    flags = ["--task", "Digits", "--network.cell", "LSTM", "--output", str(tmp_path / "out")]
    assert main(["fit", *flags, "--pruning.penalti", "1e-3"]) == 2
    assert "Did you mean `--pruning.penalty`?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_digits_are_read_with_half_of_the_units(seed, tmp_path):
    one = read_run(
        {
            "task": {"name": "Digits", "by": "rows"},
            "network": {"cell": "LSTM", "hidden_size": 64},
            "optimizer": {"lr": 3e-3},
            "pruning": {"penalty": 2e-4, "lr": 2e-2, "inputs": True},
            "epochs": 80,
            "batch_size": 64,
            "seed": seed,
        }
    )
    record = run(one, folder=tmp_path / "run")
    assert main(["prune", str(tmp_path / "run" / "best.ckpt"), "--output", str(tmp_path / "pruned")]) == 0
    settings = read_run(tmp_path / "pruned" / "run.yaml")
    scores = evaluate(settings, stage="test", checkpoint=tmp_path / "pruned" / "best.ckpt")
    assert scores["test_metric"] == pytest.approx(record.test_metric, abs=1e-6)
    assert scores["test_metric"] >= 0.95 and settings.network.hidden_size <= 40
