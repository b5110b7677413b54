"""RiemannianMuon in a run's settings: for every published network, and beside Adam."""

import pytest

pytest.importorskip("lightning")
import torch
from support.run_cases import VALUES, train

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.training import OptimizerSettings, build_optimizer

ALONE = OptimizerSettings("RiemannianMuon", lr=0.01)
BESIDE_ADAM = OptimizerSettings("Adam", lr=1e-3, constrained="RiemannianMuon", constrained_lr=0.01)


@pytest.mark.parametrize("settings", [ALONE, BESIDE_ADAM], ids=["alone", "beside Adam"])
@pytest.mark.parametrize("name", mr.zoo.available())
def test_every_published_network_learns(name, settings):
    torch.manual_seed(0)
    network = getattr(mr.zoo, name)(3, 8, 2)
    before = [p.detach().clone() for p in network.parameters()]
    optimizer = build_optimizer(network, settings)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        loss = (network(torch.ones(4, 5, 3)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    trained = [p for p in network.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    moved = sum(not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert moved == len(trained)
    largest = mr.diagnostics.defects(network).largest
    assert largest is None or largest < 1e-5


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_a_run_trains_with_it_and_resumes(view, tmp_path):
    network = {"cell": "Elman", "hidden_size": 8, "constraint": "Orthogonal", "view": view}
    optimizer = {"name": "RiemannianMuon", "lr": 0.02, "options": {"nesterov": False}}
    values = {**VALUES, "network": network, "optimizer": optimizer}
    train(values, tmp_path / "run", stop_after=12)
    train(values, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "best.ckpt").exists()


def test_the_name_of_torch_leads_to_ours():
    with pytest.raises(OptionError, match="Did you mean `RiemannianMuon`"):
        OptimizerSettings("Muon")
