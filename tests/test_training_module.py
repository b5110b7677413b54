import pytest

pytest.importorskip("lightning")
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import NonFiniteError, OptionError
from manifold_rnn.tasks import Digits
from manifold_rnn.training import LSTMClassifier, SequenceData, SequenceModule, build_optimizer
from manifold_rnn.training.fitting import quiet_trainer
from manifold_rnn.training.module import _warm_cosine


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_only_weights_on_a_manifold_need_a_riemannian_optimizer(view):
    network = mr.constrain(nn.Linear(3, 3), "weight", mr.Orthogonal(), view=view)
    optimizer = build_optimizer(network, 0.1)
    assert isinstance(optimizer, mr.optim.RiemannianAdam) == (view == "update")
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, network.parameters()))


def test_the_networks_own_groups_are_used():
    network = LSTMClassifier(1, 2, 10)
    network.parameter_groups = lambda lr: [{"params": list(network.parameters()), "lr": lr / 10}]
    assert build_optimizer(network, 0.1).param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("steps", [2, 10, 400])
def test_the_rate_rises_once_to_its_peak_then_falls_towards_zero(steps):
    rates = [_warm_cosine(step, steps) for step in range(steps)]
    peak = rates.index(max(rates))
    assert max(rates) == 1
    assert min(rates) > 0
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert _warm_cosine(steps, steps) == pytest.approx(0, abs=1e-12)


def test_a_loss_that_is_not_finite_stops_the_training():
    network = LSTMClassifier(1, 2, 10)
    nn.init.constant_(network.readout.bias, torch.nan)
    with quiet_trainer(1) as trainer, pytest.raises(NonFiniteError, match="epoch 1"):
        trainer.fit(SequenceModule(network, Digits(), 0.1), datamodule=SequenceData(Digits()))


def test_the_trainer_says_and_writes_nothing(tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    network, data = LSTMClassifier(1, 2, 10), SequenceData(Digits(), 512)
    with quiet_trainer(1) as trainer:
        trainer.fit(SequenceModule(network, Digits(), 0.1), datamodule=data)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert not list(recwarn)


def test_equal_seeds_shuffle_equally_and_every_epoch_differs():
    first, second = (SequenceData(Digits(), 64, seed=3).train_dataloader() for _ in range(2))
    epochs = [torch.cat([digits for _, digits in loader]) for loader in (first, first, second, second)]
    assert torch.equal(epochs[0], epochs[2])
    assert torch.equal(epochs[1], epochs[3])
    assert not torch.equal(epochs[0], epochs[1])


def test_an_empty_batch_size_is_refused():
    with pytest.raises(OptionError, match="Got batch size 0"):
        SequenceData(Digits(), 0)
