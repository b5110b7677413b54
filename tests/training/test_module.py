import copy

import pytest

pytest.importorskip("lightning")
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.constraints.registry import Registry
from manifold_rnn.errors import NonFiniteError, OptionError
from manifold_rnn.tasks import Digits
from manifold_rnn.training import (
    LSTMClassifier,
    NetworkSettings,
    OptimizerSettings,
    ScheduleSettings,
    SequenceData,
    SequenceModule,
    build_network,
    build_optimizer,
    build_schedule,
    read_run,
)
from manifold_rnn.training.building import constrains
from manifold_rnn.training.trainer import quiet_trainer


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_only_weights_on_a_manifold_need_a_riemannian_optimizer(view):
    network = mr.constrain(nn.Linear(3, 3), "weight", mr.Orthogonal(), view=view)
    optimizer = build_optimizer(network, OptimizerSettings(lr=0.1))
    assert isinstance(optimizer, mr.optim.RiemannianAdam) == (view == "update")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, network.parameters()))


def test_the_networks_own_groups_are_used():
    network = LSTMClassifier(1, 2, 10)
    network.parameter_groups = lambda lr: [{"params": list(network.parameters()), "lr": lr / 10}]
    assert build_optimizer(network, OptimizerSettings(lr=0.1)).param_groups[0]["lr"] == pytest.approx(0.01)


def rates(settings, steps, per_epoch=10):
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    schedule, seen = build_schedule(optimizer, settings, steps, per_epoch), []
    for _ in range(steps + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("steps", [2, 10, 400])
def test_a_warm_cosine_rises_once_to_its_peak_then_falls_to_zero(steps):
    *seen, end = rates(ScheduleSettings("cosine", warmup=0.1), steps)
    peak = seen.index(max(seen))
    assert max(seen) == 1 and min(seen) > 0
    assert seen[: peak + 1] == sorted(seen[: peak + 1])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert end == pytest.approx(0, abs=1e-12)


def test_steps_and_constants_are_what_they_are_called():
    assert rates(ScheduleSettings("constant"), 5) == [1] * 6
    assert rates(ScheduleSettings("constant", warmup=0.5), 4) == [0.5, 1, 1, 1, 1]
    seen = rates(ScheduleSettings("step", every=2, factor=0.5), 40, per_epoch=5)
    assert seen[::5][:8] == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125])


ZOO = {"scurnn": ["coordinates"], "enrnn": ["top.coordinates"], "exprnn": ["coordinates"], "eurnn": ["weight_hh"]}


@pytest.mark.parametrize("name", ZOO)
def test_the_constrained_rate_is_for_the_weights_that_the_network_sets_apart(name):
    network = getattr(mr.zoo, name)(1, 8, 10)
    settings = OptimizerSettings("adam", lr=0.5, constrained="rmsprop", constrained_lr=0.125)
    optimizer = build_optimizer(network, settings)
    names = {id(p): name for name, p in network.named_parameters()}
    held = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sorted(held) == sorted(names.values())
    for key, rate in held.items():
        assert rate == (0.125 if any(part in key for part in ZOO[name]) else 0.5)


@pytest.mark.parametrize("network", [{"cell": "lstm"}, {"zoo": "lem"}], ids=["a cell", "a network of the zoo"])
def test_a_free_recurrent_matrix_is_no_constrained_weight(network):
    built = build_network(NetworkSettings(hidden_size=4, **network), 1, 10)
    settings = OptimizerSettings("adam", lr=0.5, constrained="sgd", constrained_lr=7, weight_decay=0.1)
    optimizer = build_optimizer(built, settings)
    assert isinstance(optimizer, torch.optim.Adam)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert "zoo" in network or {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_one_constrained_gate_makes_a_recurrent_matrix_constrained(view):
    values = {"cell": "lstm", "hidden_size": 4, "constraint": "orthogonal", "gates": ["g"], "view": view}
    network = build_network(NetworkSettings(**values), 1, 10)
    groups = build_optimizer(network, OptimizerSettings(lr=0.5, constrained_lr=0.125, weight_decay=0.1)).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.125, 0.0), (0.5, 0.1)]


@pytest.mark.parametrize("name", mr.zoo.available())
def test_networks_of_the_zoo_without_constraint_are_known(name):
    options = [{}, {"host": "lstm"}, {"host": "dtriv"}] if name == "momentum" else [{}]
    for own in options:
        settings = NetworkSettings(zoo=name, hidden_size=8, options=own)
        network = build_network(settings, 1, 10)
        assert constrains(settings) == any(isinstance(module, Registry) for module in network.modules())


def test_weights_have_the_optimizer_and_the_rate_of_their_names_group():
    groups = {"phases": {"name": "adagrad", "lr": 0.25}, "readout": {"lr": 0.0625}, "bias": {"name": "sgd"}}
    settings = OptimizerSettings("adam", lr=0.5, constrained="rmsprop", constrained_lr=0.125, groups=groups)
    network = mr.zoo.scurnn(1, 8, 10)
    optimizer = build_optimizer(network, settings)
    names = {id(p): name for name, p in network.named_parameters()}
    held = {
        names[id(p)]: (type(part).__name__, group["lr"])
        for part in optimizer.parts
        for group in part.param_groups
        for p in group["params"]
    }
    assert held == {
        "layer.weight_ih_l0": ("Adam", 0.5),
        "layer.initial_state_l0": ("Adam", 0.5),
        "layer.constraints.weight_hh_l0.coordinates": ("RMSprop", 0.125),
        "layer.constraints.weight_hh_l0.phases": ("Adagrad", 0.25),
        "layer.bias_l0": ("SGD", 0.5),
        "readout.weight": ("Adam", 0.0625),
        "readout.bias": ("Adam", 0.0625),
    }
    with pytest.raises(OptionError, match=r"groups\.phase_s is in no weight's name\. Weights: layer\.weight_ih"):
        build_optimizer(network, OptimizerSettings(groups={"phase_s": {"lr": 0.1}}))


def test_two_optimizers_step_as_they_would_alone_and_remember():
    def network():
        torch.manual_seed(0)
        return mr.zoo.dtriv(1, 6, 10, rebase_every=2)

    def trained(network, step, steps):
        for _ in range(steps):
            network.zero_grad()
            network(torch.linspace(0, 1, 24).view(3, 8, 1)).square().sum().backward()
            step()
        return network.state_dict()

    settings = OptimizerSettings("adam", lr=0.01, constrained="rmsprop", constrained_lr=0.001)
    both, apart = network(), network()
    optimizer = build_optimizer(both, settings)
    first, rest = apart.parameter_groups(0.01)
    alone = torch.optim.RMSprop(first["params"], lr=0.001), torch.optim.Adam(rest["params"], lr=0.01)
    got = trained(both, optimizer.step, 3)
    wanted = trained(apart, lambda: [part.step() for part in alone], 3)
    for key in wanted:
        assert torch.equal(got[key], wanted[key]), key
    again = network()
    again.load_state_dict(got)
    resumed = build_optimizer(again, settings)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    left, right = trained(both, optimizer.step, 3), trained(again, resumed.step, 3)
    assert all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "adagrad"])
def test_every_optimizer_moves_every_network_and_stays_on_its_manifold(name, view):
    values = {"cell": "lstm", "hidden_size": 4, "constraint": "orthogonal", "view": view}
    settings = read_run({"task": {"name": "digits"}, "network": values}).network
    network = build_network(settings, 1, 10)
    before = network.layer.weight_hh_l0.detach().clone()
    optimizer = build_optimizer(network, OptimizerSettings(name, lr=0.1, initial_accumulator=None))
    network(torch.ones(2, 5, 1)).square().sum().backward()
    optimizer.step()
    W = network.layer.weight_hh_l0.detach()
    assert not torch.allclose(W, before)
    assert mr.linalg.defect(W.view(4, 4, 4)).max() < 1e-5


def test_a_loss_that_is_not_finite_stops_the_training():
    network = LSTMClassifier(1, 2, 10)
    nn.init.constant_(network.readout.bias, torch.nan)
    with quiet_trainer(1) as trainer, pytest.raises(NonFiniteError, match="epoch 1"):
        trainer.fit(SequenceModule(network, Digits()), datamodule=SequenceData(Digits()))


def test_the_trainer_says_and_writes_nothing(tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    network, data = LSTMClassifier(1, 2, 10), SequenceData(Digits(), 512)
    with quiet_trainer(1) as trainer:
        trainer.fit(SequenceModule(network, Digits()), datamodule=data)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert not list(recwarn)


def order(**options):
    return torch.cat([digits for _, digits in SequenceData(Digits(), 64, **options).train_dataloader()])


def test_the_order_is_a_function_of_seed_and_epoch():
    assert torch.equal(order(seed=3, epoch=2), order(seed=3, epoch=2))
    assert not torch.equal(order(seed=3, epoch=2), order(seed=3, epoch=1))
    assert not torch.equal(order(seed=3, epoch=2), order(seed=4, epoch=2))
    assert len(order(seed=3).unique()) == 10 and len(order(seed=3)) == len(Digits().splits().train)


def test_an_epoch_can_begin_anywhere_and_end_early():
    assert torch.equal(order(epoch=1, batch=3), order(epoch=1)[3 * 64 :])
    batches = SequenceData(Digits(), 64).batches
    assert torch.equal(order(epoch=1, max_steps=batches + 2), order(epoch=1)[: 2 * 64])
    data = SequenceData(Digits(), 64, max_steps=batches + 2)
    assert (data.epochs_of(9), data.steps_of(9), data.steps_of(1)) == (2, batches + 2, batches)


def test_processes_share_each_batch_in_equal_parts():
    whole = order(epoch=1)[: 64 * 19]
    shares = [order(epoch=1, rank=rank, world=2) for rank in range(2)]  # of batches of 128
    assert len(shares[0]) == len(shares[1])
    for k in range(9):
        both = torch.cat([share[64 * k : 64 * (k + 1)] for share in shares])
        assert torch.equal(both, whole[128 * k : 128 * (k + 1)])


def test_an_empty_batch_size_is_refused():
    with pytest.raises(OptionError, match="Got batch size 0"):
        SequenceData(Digits(), 0)
