"""Data-parallel training of complex networks: replicas stay equal to the last bit."""

import os
import socket

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

import manifold_rnn as mr
from manifold_rnn.errors import UnsupportedError

if not distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)

STEPS, WORLD = 50, 2
NETWORKS = ["full_urnn", "scurnn", "urnn"]


def build(name):
    torch.manual_seed(0)
    return getattr(mr.zoo, name)(2, 8, 3)


def optimizer_of(network):
    riemannian = any(hasattr(p, "manifold") for p in network.parameters())
    return (mr.optim.RiemannianAdam if riemannian else torch.optim.Adam)(network.parameters(), lr=0.01)


def batches(steps):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        yield torch.randn(8, 5, 2, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def train(network, steps, rank=0, world=1):
    inner = network.module if isinstance(network, DistributedDataParallel) else network
    optimizer = optimizer_of(inner)
    for x, target in batches(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[rank::world]), target[rank::world]).backward()
        optimizer.step()
    return {name: value.detach().clone() for name, value in inner.state_dict().items()}


def worker(rank, name, steps, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=WORLD)
    state = train(DistributedDataParallel(build(name)), steps, rank, WORLD)
    torch.save(state, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()
    # torch's reducer keeps gloo's threads alive after that, and one that lets go of a tensor while the interpreter is
    # being taken down aborts the process. The result is written: leave without taking anything down.
    os._exit(0)


def replicas(name, steps, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(worker, (name, steps, port, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.mark.parametrize("steps", [STEPS, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", NETWORKS)
def test_two_processes_give_equal_replicas_and_the_result_of_one(name, steps, tmp_path):
    first, second = replicas(name, steps, tmp_path)
    for key in first:
        assert torch.equal(first[key], second[key]), key
    if steps == STEPS:  # rounding grows with training
        alone = train(build(name), STEPS)  # with the doubled batch
        for key in first:
            torch.testing.assert_close(alone[key], first[key], atol=1e-3, rtol=1e-3)


def test_the_sum_of_halves_is_the_whole(tmp_path):
    """One step by hand: what the processes average is the gradient of the doubled batch."""
    network, (x, target) = build("full_urnn"), next(batches(1))
    parameters = list(network.parameters())
    whole = torch.autograd.grad(nn.functional.cross_entropy(network(x), target), parameters)
    halves = [
        torch.autograd.grad(nn.functional.cross_entropy(network(x[k::2]), target[k::2]), parameters) for k in range(2)
    ]
    for a, b, c in zip(whole, *halves, strict=True):
        torch.testing.assert_close(a, (b + c) / 2)


@pytest.fixture
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.device_mesh.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


@pytest.mark.parametrize("sharded", ["module", "rest"])
def test_a_base_that_moves_with_sharded_coordinates_is_refused_before_the_step(alone, sharded):
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    mr.constrain(module[0], "weight", mr.Orthogonal(), view="trivialized", rebase_every=1)
    entry = module[0].constraints["weight"]
    fsdp.fully_shard(module[0] if sharded == "module" else module[1], mesh=alone)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    module(torch.randn(5, 4)).sum().backward()
    before = [p.detach().clone() for p in module.parameters()]
    if sharded == "rest":
        optimizer.step()
        assert entry.steps == 1
        return
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="rebase_every"):
            optimizer.step()
    assert entry.steps == 0 and all(map(torch.equal, module.parameters(), before))
