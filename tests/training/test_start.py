"""The section `start` of a run: weights from the training set, once, and resumed to the last bit."""

import dataclasses

import pytest

pytest.importorskip("lightning")
import torch
from support.run_cases import answer, require_equal, require_same_end, train

import manifold_rnn as mr
from manifold_rnn.cli import main
from manifold_rnn.errors import OptionError, UnsupportedError
from manifold_rnn.training import StartSettings, as_mapping, evaluate, read_run
from manifold_rnn.training.build import build_for_run
from manifold_rnn.training.checkpoint import read_checkpoint

SYSTEM = {"name": "QuadraticSystem", "sizes": [8_000, 500, 500]}
VALUES = {
    "task": SYSTEM,
    "network": {"cell": "Quadratic", "hidden_size": 4},
    "start": {"name": "moments", "directions": 3},
    "optimizer": {"lr": 0.001},
    "batch_size": 1_000,
    "epochs": 2,
}


def test_a_quadratic_network_starts_solved():
    settings = read_run(VALUES)
    network = build_for_run(settings)
    inputs, targets = settings.task.splits().train.tensors
    settings.start.start(network, inputs, targets)
    test_inputs, test_targets = settings.task.splits().test.tensors
    with torch.no_grad():
        assert settings.task.metric(network(test_inputs), test_targets) > 0.98
    assert not network.readout.weight[:, 3:].any()


@pytest.mark.parametrize("gain", [0.5, 1.0])
def test_the_readout_follows_the_gain(gain):
    settings = read_run({**VALUES, "start": {"name": "moments", "directions": 3, "gain": gain}})
    network = build_for_run(settings)
    inputs, targets = settings.task.splits().train.tensors
    settings.start.start(network, inputs, targets)
    fit = mr.moments.fit(*mr.moments.two_steps(inputs, targets), 3)
    torch.testing.assert_close(network(inputs), fit.predict(inputs[:, 0], inputs[:, 1]), atol=1e-3, rtol=1e-3)


def test_a_bias_of_the_quadratic_cell_starts_at_zero():
    settings = read_run({**VALUES, "network": {"cell": "Quadratic", "hidden_size": 4, "options": {"bias": True}}})
    network = build_for_run(settings)
    inputs, targets = settings.task.splits().train.tensors
    settings.start.start(network, inputs, targets)
    with torch.no_grad():
        rest = network(inputs) - targets
    assert float(rest.var(0).sum()) < 0.02 * float(targets.var(0).sum())
    assert not network.layer.bias_l0[:3].any()


def test_two_directions_are_refused_before_anything_changes():
    inputs, targets = read_run(VALUES).task.splits().train.tensors
    layer = mr.nn.Layer(mr.nn.cells.Quadratic(), 4, 4, batch_first=True, bidirectional=True)
    with pytest.raises(UnsupportedError, match="one direction"):
        StartSettings("moments", directions=3).start(mr.zoo.Network(layer, 3), inputs, targets)


def test_advice_names_the_keys_of_the_run():
    network = build_for_run(read_run(VALUES))
    inputs, targets = read_run(VALUES).task.splits().train.tensors
    with pytest.raises(UnsupportedError, match=r"`start\.strict: false`") as caught:
        StartSettings("moments", directions=3).start(network, inputs.exp(), targets)
    assert "strict=False" not in str(caught.value) and "scores of their density" not in str(caught.value)
    with pytest.raises(OptionError, match=r"a smaller `start\.directions`"):
        StartSettings("moments", directions=4).start(network, inputs, targets)


@pytest.mark.parametrize("network", [{"zoo": "scornn", "hidden_size": 6}, {"cell": "GRU", "hidden_size": 6}], ids=str)
def test_any_network_starts_with_the_directions(network):
    settings = read_run({**VALUES, "network": network})
    built = build_for_run(settings)
    before = built.readout.weight.clone()
    inputs, targets = settings.task.splits().train.tensors
    settings.start.start(built, inputs, targets)
    fit = mr.moments.fit(*mr.moments.two_steps(inputs, targets), 3)
    assert torch.equal(built.layer.weight_ih_l0[:3], fit.A) and torch.equal(built.readout.weight, before)


def test_a_run_with_a_start_resumes_to_the_last_bit(tmp_path):
    whole = train(VALUES, tmp_path / "whole")
    assert whole.test_metric > 0.98
    for stop_after in (0, 3, 8):
        folder = tmp_path / str(stop_after)
        assert train(VALUES, folder, stop_after).stopped
        resumed = train(VALUES, folder, resume=True)
        require_same_end(tmp_path / "whole", folder)
        assert resumed.test_metric == whole.test_metric
    scores = evaluate(read_run(VALUES), stage="test", checkpoint=tmp_path / "whole" / "best.ckpt")
    assert scores["test_metric"] == pytest.approx(whole.test_metric)


def test_the_order_of_the_batches_does_not_depend_on_the_start(tmp_path):
    """The start draws no random number that training would draw."""
    seen = []

    def keep(module, loss):
        seen[-1].append(torch.get_rng_state())
        return loss

    for start in ({"name": "moments", "directions": 3}, {"name": None}):
        seen.append([])
        train({**VALUES, "start": start, "epochs": 1}, tmp_path / str(start["name"]), during=keep)
    require_equal(*seen)


def test_the_command_line_has_its_flags_and_writes_it_into_the_settings(tmp_path, capsys):
    flags = ["--task", "QuadraticSystem", "--task.sizes", "[4000,100,100]", "--network.cell", "Quadratic"]
    flags += ["--network.hidden_size", "3", "--start.name", "moments", "--start.directions", "2", "--epochs", "1"]
    assert main(["fit", *flags, "--output", str(tmp_path / "run")]) == 0
    settings = read_run(tmp_path / "run" / "run.yaml")
    assert settings.start == StartSettings("moments", directions=2)
    assert read_run(as_mapping(settings)) == settings
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 125
    capsys.readouterr()
    run, best = (str(tmp_path / "run" / name) for name in ("run.yaml", "best.ckpt"))
    assert main(["inspect", best]) == 0 and main(["test", "--config", run, "--checkpoint", best]) == 0
    wrong = ["fit", *flags, "--output", tmp_path / "wrong"]
    assert "one of moments" in answer([*wrong, "--start.name", "momnts"], capsys)
    assert "at most `task.input_size`" in answer([*wrong, "--start.directions", "9"], capsys)


REFUSED = {
    "an unknown start": ({"name": "momnts"}, "one of moments"),
    "a misspelt key": ({"nme": "moments"}, "Did you mean `start.name`"),
    "a key that is missing": ({"directions": 2}, "`start.directions` needs `start.name`"),
    "no direction": ({"name": "moments", "directions": 0}, "from 1"),
    "more directions than inputs": ({"name": "moments", "directions": 5}, "task.input_size`, which is 4"),
    "more directions than units": ({"name": "moments", "directions": 4}, "network.hidden_size`, which is 3"),
    "an unknown density": ({"name": "moments", "inputs": "uniform"}, "one of gaussian, standard"),
    "no gain": ({"name": "moments", "gain": 0.0}, "`start.gain` needs a positive number"),
    "a text for a truth value": ({"name": "moments", "strict": "perhaps"}, "true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_wrong_setting_is_refused_by_its_key(name):
    start, message = REFUSED[name]
    with pytest.raises(OptionError, match=message) as caught:
        read_run({**VALUES, "network": {"cell": "Quadratic", "hidden_size": 3}, "start": start})
    assert len(str(caught.value)) <= 400


def test_a_task_that_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    values = {**VALUES, "task": {"name": "Digits", "by": "rows"}, "start": {"name": "moments"}}
    with pytest.raises(UnsupportedError, match="inputs='gaussian' assumes"):
        train(values, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").iterdir() if path.name != ".lock"]
    copying = {**values, "task": {"name": "Copying", "delay": 3, "sizes": [100, 20, 20]}}
    with pytest.raises(mr.errors.DtypeError, match="Symbols"):
        train(copying, tmp_path / "copying")


def loss_after(task, x, y, steps, rate, start=None):
    """Of the quadratic network after steps of Adam, on new sequences without noise."""
    torch.manual_seed(task.seed)
    network = build_for_run(read_run({**VALUES, "network": {"cell": "Quadratic", "hidden_size": 3}}))
    if start is not None:
        start.start(network, x, y)
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(steps):
        part = torch.randint(len(x), (1_000,))
        optimizer.zero_grad()
        task.loss(network(x[part]), y[part]).backward()
        optimizer.step()
    clean = dataclasses.replace(task, noise=0.0)
    with torch.no_grad():
        new, targets = clean.sample(20_000, generator=torch.Generator().manual_seed(77))
        return float(task.loss(network(new), targets))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_200_steps_from_moments_beat_2000_from_random_weights(seed):
    task = mr.tasks.QuadraticSystem(seed=seed, sizes=(200_000, 10, 10))
    x, y = task.splits().train.tensors
    refined = loss_after(task, x, y, 200, 1e-4, StartSettings("moments", directions=3))
    assert refined < min(loss_after(task, x, y, 2_000, rate) for rate in (1e-3, 3e-3, 1e-2, 3e-2))
