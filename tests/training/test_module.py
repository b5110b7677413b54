"""The optimizer, the schedule, the module and the data of a run, alone and in a trainer of one's own."""

import copy

import pytest

pytest.importorskip("lightning")
import lightning
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import NonFiniteError, OptionError
from manifold_rnn.tasks import Digits
from manifold_rnn.training import (
    NetworkSettings,
    OptimizerSettings,
    ScheduleSettings,
    SequenceData,
    SequenceModule,
    build_network,
    build_optimizer,
)
from manifold_rnn.training.optimizers import build_schedule


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_only_weights_on_a_manifold_need_a_riemannian_optimizer(view):
    network = mr.constrain(nn.Linear(3, 3), "weight", mr.Orthogonal(), view=view)
    optimizer = build_optimizer(network, OptimizerSettings(lr=0.1))
    assert isinstance(optimizer, mr.optim.RiemannianAdam) == (view == "update")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, network.parameters()))


def test_the_networks_own_groups_are_used():
    network = mr.zoo.lem(1, 2, 10)
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
    settings = OptimizerSettings("Adam", lr=0.5, constrained="RMSprop", constrained_lr=0.125)
    optimizer = build_optimizer(network, settings)
    names = {id(p): name for name, p in network.named_parameters()}
    held = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sorted(held) == sorted(names.values())
    for key, rate in held.items():
        assert rate == (0.125 if any(part in key for part in ZOO[name]) else 0.5)


@pytest.mark.parametrize("network", [{"cell": "LSTM"}, {"zoo": "lem"}], ids=["a cell", "a published network"])
def test_a_free_recurrent_matrix_is_no_constrained_weight(network):
    built = build_network(NetworkSettings(hidden_size=4, **network), 1, 10)
    settings = OptimizerSettings("Adam", lr=0.5, constrained="SGD", constrained_lr=7, weight_decay=0.1)
    optimizer = build_optimizer(built, settings)
    assert isinstance(optimizer, torch.optim.Adam)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5}
    assert "zoo" in network or {group["weight_decay"] for group in optimizer.param_groups} == {0.1}


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_one_constrained_gate_makes_a_recurrent_matrix_constrained(view):
    values = {"cell": "LSTM", "hidden_size": 4, "constraint": "Orthogonal", "gates": ["g"], "view": view}
    network = build_network(NetworkSettings(**values), 1, 10)
    groups = build_optimizer(network, OptimizerSettings(lr=0.5, constrained_lr=0.125, weight_decay=0.1)).param_groups
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.125, 0.0), (0.5, 0.1)]


def test_weights_have_the_optimizer_and_the_rate_of_their_names_group():
    groups = {"phases": {"name": "Adagrad", "lr": 0.25}, "readout": {"lr": 0.0625}, "bias": {"name": "SGD"}}
    settings = OptimizerSettings("Adam", lr=0.5, constrained="RMSprop", constrained_lr=0.125, groups=groups)
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
    with pytest.raises(OptionError, match=r"groups\.phase_s` matches no weight\. Weights: layer\.weight_ih"):
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

    settings = OptimizerSettings("Adam", lr=0.01, constrained="RMSprop", constrained_lr=0.001)
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
@pytest.mark.parametrize("name", ["Adam", "SGD", "RMSprop", "Adagrad", "Landing"])
def test_every_optimizer_moves_every_network_and_stays_on_its_manifold(name, view):
    network = build_network(NetworkSettings(cell="LSTM", hidden_size=4, constraint="Orthogonal", view=view), 1, 10)
    before = network.layer.weight_hh_l0.detach().clone()
    optimizer = build_optimizer(network, OptimizerSettings(name, lr=0.1))
    network(torch.ones(2, 5, 1)).square().sum().backward()
    optimizer.step()
    W = network.layer.weight_hh_l0.detach()
    assert not torch.allclose(W, before)
    assert mr.linalg.defect(W.view(4, 4, 4)).max() < (0.5 if name == "Landing" else 1e-5)


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_options_reach_the_optimizers_that_have_them(view):
    network = build_network(NetworkSettings(cell="Elman", hidden_size=4, constraint="Orthogonal", view=view), 1, 10)
    options = {"betas": [0.5, 0.75], "alpha": 0.25, "initial_accumulator_value": 1.0}
    settings = OptimizerSettings("Adam", constrained="RMSprop", options=options)
    recurrent, others = build_optimizer(network, settings).parts
    assert isinstance(recurrent, mr.optim.RiemannianRMSprop)  # torch's has no initial accumulator
    assert (recurrent.defaults["alpha"], recurrent.defaults["initial_accumulator_value"]) == (0.25, 1.0)
    assert others.defaults["betas"] == (0.5, 0.75) and "alpha" not in others.defaults
    with pytest.raises(OptionError, match=r"`optimizer.options` of Adam cannot be \{'betas': \(2\.0, 0\.0\)\}"):
        build_optimizer(network, OptimizerSettings("Adam", options={"betas": [2, 0]}))


class NotFinite(nn.Module):
    """Has the loss NaN."""

    def __init__(self):
        super().__init__()
        self.readout = nn.Linear(1, 10)
        nn.init.constant_(self.readout.bias, torch.nan)

    def forward(self, inputs):
        return self.readout(inputs[:, -1])


@pytest.fixture
def trainer(tmp_path):
    options = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}

    def make(**changes):
        return lightning.Trainer(default_root_dir=tmp_path, **{"max_epochs": 1, "logger": False, **options, **changes})

    return make


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_loss_that_is_not_finite_stops_the_training(trainer):
    with pytest.raises(NonFiniteError, match="epoch 1"):
        trainer().fit(SequenceModule(NotFinite(), Digits()), datamodule=SequenceData(Digits(), 512))


@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_the_schedule_spans_the_steps_of_the_trainer(trainer):
    module = SequenceModule(mr.zoo.scornn(1, 4, 10), Digits(), OptimizerSettings(lr=0.5), ScheduleSettings("cosine"))
    own = trainer(max_epochs=2)
    own.fit(module, datamodule=SequenceData(Digits(), 256))
    assert own.optimizers[0].param_groups[-1]["lr"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(OptionError, match="neither max_epochs nor max_steps"):
        trainer(max_epochs=-1).fit(SequenceModule(mr.zoo.scornn(1, 4, 10), Digits()), datamodule=SequenceData(Digits()))


@pytest.mark.parametrize("save_after", [3, 5, 7], ids=["inside an epoch", "at its last batch", "in the next"])
@pytest.mark.filterwarnings("ignore")  # Lightning's advice
def test_a_trainer_of_ones_own_resumes_to_the_last_bit(save_after, trainer, tmp_path):
    def fit(path=None, **options):
        torch.manual_seed(0)
        module = SequenceModule(mr.zoo.scornn(1, 4, 10), Digits(), schedule=ScheduleSettings("cosine"))
        own = trainer(max_epochs=3, **options)
        own.fit(module, datamodule=SequenceData(Digits(), 256), ckpt_path=path, weights_only=True)
        return module.state_dict()

    saving = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path, "saved", every_n_train_steps=save_after, save_top_k=-1
    )
    expected = fit(callbacks=[saving], limit_val_batches=0)
    first = sorted(tmp_path.glob("saved*.ckpt"), key=lambda path: path.stat().st_mtime_ns)[0]
    resumed = fit(first, limit_val_batches=0)
    for key, value in expected.items():
        assert torch.equal(resumed[key], value), key


def order(epoch=0, batch=0, **options):
    loader = SequenceData(Digits(), 64, **options).train_dataloader()
    loader.load_state_dict({"epoch": epoch, "batch": batch})
    loader.sampler.set_epoch(epoch)
    return torch.cat([digits for _, digits in loader])


def test_the_order_is_a_function_of_seed_and_epoch():
    assert torch.equal(order(seed=3, epoch=2), order(seed=3, epoch=2))
    assert not torch.equal(order(seed=3, epoch=2), order(seed=3, epoch=1))
    assert not torch.equal(order(seed=3, epoch=2), order(seed=4, epoch=2))
    assert len(order(seed=3).unique()) == 10 and len(order(seed=3)) == len(Digits().splits().train)


def test_a_loader_resumes_its_epoch_at_any_batch_and_the_next_at_its_first():
    loader = SequenceData(Digits(), 64).train_dataloader()
    loader.load_state_dict({"epoch": 1, "batch": 3})
    loader.sampler.set_epoch(1)
    assert torch.equal(torch.cat([digits for _, digits in loader]), order(epoch=1)[3 * 64 :])
    loader.sampler.set_epoch(2)
    batches = iter(loader)
    next(batches), next(batches)
    assert loader.state_dict() == {"epoch": 2, "batch": 2}
    assert len(list(batches)) == len(loader) - 2 and len(list(loader)) == len(loader)


class Process:
    """A trainer, as far as the data ask for one."""

    def __init__(self, rank, world):
        self.global_rank, self.world_size = rank, world


def test_processes_share_each_batch_in_equal_parts():
    def share(rank):
        data = SequenceData(Digits(), 64)
        data.trainer = Process(rank, 2)
        return torch.cat([digits for _, digits in data.train_dataloader()])

    whole, shares = order()[: 64 * 19], [share(rank) for rank in range(2)]  # of batches of 128
    assert len(shares[0]) == len(shares[1])
    for k in range(9):
        both = torch.cat([part[64 * k : 64 * (k + 1)] for part in shares])
        assert torch.equal(both, whole[128 * k : 128 * (k + 1)])


def test_an_empty_batch_size_is_refused():
    with pytest.raises(OptionError, match="Got batch size 0"):
        SequenceData(Digits(), 0)
