"""The facts of the published networks with gates: counts, starts, gradients."""

import math

import pytest
import torch
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import OptionError
from manifold_rnn.zoo import goru, nru

WIDE = torch.float64
PIXELS, COPYING = (1, 10), (10, 9)  # inputs and outputs of the published tasks


def angles(network):
    (found,) = network.layer.get_submodule("constraints.weight_hh_l0.members.2").parameters()
    return found


@pytest.mark.parametrize(
    ("task", "n", "memory", "heads", "count"),
    [(PIXELS, 212, 256, 4, 165554), (PIXELS, 100, 81, 9, 42242), (COPYING, 64, 64, 4, 18769)],
)
def test_published_parameter_counts_of_nru(task, n, memory, heads, count):
    network = nru(task[0], n, task[1], memory_size=memory, heads=heads)
    assert mr.degrees_of_freedom(network) == count
    side = math.isqrt(heads * memory)
    drive = 2 * ((memory + n) * 2 * side + 2 * side)  # what the outer products save most of
    assert network.layer.weight_hm_l0[2 * heads :].numel() + network.layer.bias_hm_l0[2 * heads :].numel() == drive
    if n == 212:
        assert drive == 60032


@pytest.mark.parametrize(("task", "n"), [(PIXELS, 64), (COPYING, 128), ((2, 1), 8), ((2, 1), 1)])
def test_published_parameter_counts_of_goru(task, n):
    m, k = task
    rest = 3 * n * m + 2 * n * n + 3 * n + n * k + k
    assert mr.degrees_of_freedom(goru(m, n, k)) == rest + n * (n.bit_length() - 1) // 2
    assert mr.degrees_of_freedom(goru(m, n, k, layout="tunable", layers=2)) == rest + n - 1
    assert mr.degrees_of_freedom(goru(m, n, k, layout="tunable")) == rest + n * (n - 1) // 2


def test_goru_starts_as_published():
    network = goru(3, 64, 10, dtype=WIDE, generator=seeded())
    W, layer = network.layer.weight_hh_l0.detach(), network.layer
    Q = W[128:]
    assert mr.linalg.defect(Q) < 1e-12
    torch.testing.assert_close(torch.det(Q), torch.ones((), dtype=WIDE))
    assert 3 < angles(network).abs().max() <= math.pi and angles(network).numel() == 32 * 6
    for small in (W[:128], layer.weight_ih_l0):
        assert 0.0095 < small.abs().max() <= 0.01
    gates = layer.bias_ih_l0
    assert (gates[:64] == 2).all() and 0.9 * math.sqrt(3 / 64) < gates[64:].abs().max() <= math.sqrt(3 / 64)
    assert (layer.bias_l0 == 0.01).all() and (network.readout.bias == 0.01).all()
    assert 0.99 * math.sqrt(6 / 13) < network.readout.weight.abs().max() <= math.sqrt(6 / 13)


def test_goru_trains_its_angles_and_stays_orthogonal():
    network = goru(2, 8, 3, generator=seeded())
    before = angles(network).detach().clone()
    optimizer = torch.optim.Adam(network.parameter_groups(0.01), weight_decay=0.1)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0, 0.1]
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.randn(4, 9, 2)), torch.arange(4) % 3).backward()
        optimizer.step()
    assert (angles(network) - before).abs().min() > 0
    assert mr.linalg.defect(network.layer.weight_hh_l0[16:]) < 1e-5


@pytest.mark.parametrize("options", [{}, {"layout": "tunable"}, {"layout": "tunable", "layers": 3}], ids=str)
def test_goru_equals_its_recurrence_with_the_factors_in_the_place_of_the_matrix(options):
    network = goru(2, 8, 3, dtype=WIDE, generator=seeded(), **options)
    layer, x = network.layer, torch.randn(4, 6, 2, dtype=WIDE, generator=seeded(1))
    Q = layer.get_submodule("constraints.weight_hh_l0.members.2")
    (U_r, U_g, U_c), (W_r, W_g, _) = layer.weight_ih_l0.split(8), layer.weight_hh_l0.split(8)
    b_r, b_g = layer.bias_ih_l0.split(8)
    h = torch.zeros(4, 8, dtype=WIDE)
    for x_t in x.unbind(1):
        r = torch.sigmoid(h @ W_r.T + x_t @ U_r.T + b_r)
        g = torch.sigmoid(h @ W_g.T + x_t @ U_g.T + b_g)
        h = g * h + (1 - g) * mr.nn.mod_relu(r * Q.multiply(h)[0] + x_t @ U_c.T, layer.bias_l0)
    torch.testing.assert_close(network(x), network.readout(h), atol=1e-13, rtol=0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "power of 2"),
        ({"layout": "ftt"}, "layout"),
        ({"layers": 2}, "layers"),
        ({"layout": "tunable", "layers": 0}, "layers"),
    ],
)
def test_goru_refuses_layouts_that_do_not_fit(options, match):
    with pytest.raises(OptionError, match=match):
        goru(2, 12, 3, **options)


def test_nru_starts_as_published():
    network = nru(3, 64, 10, dtype=WIDE, generator=seeded())
    layer = network.layer
    for names, fan_in in ((("ih", "hh", "mh"), 3 + 64 + 64), (("hm",), 64 + 64)):
        for weight in (layer.get_parameter(f"weight_{name}_l0") for name in names):
            assert 0.95 / math.sqrt(fan_in) < weight.abs().max() <= 1 / math.sqrt(fan_in)
    assert layer.bias_ih_l0.any() and layer.bias_hm_l0.any() and not network.readout.bias.any()
    assert network.readout.weight.std().item() == pytest.approx(math.sqrt(2 / 74), rel=0.1)
    assert network.parameter_groups(1e-3)[0]["lr"] == 1e-3 and len(network.parameter_groups(1e-3)) == 1


@pytest.mark.parametrize("rectify", [False, True])
def test_nru_writes_along_directions_of_norm_one(rectify):
    network = nru(2, 8, 3, rectify=rectify, dtype=WIDE, generator=seeded())
    cell = network.layer.cell.bind(network.layer.weights("_l0"))
    _, directions = cell.heads_of(torch.randn(5, 8 + 64, dtype=WIDE, generator=seeded(1)))
    norms = directions.abs().pow(5).sum(-1).pow(0.2)
    assert directions.shape == (5, 2, 4, 64) and norms.any()
    torch.testing.assert_close(norms[norms > 0], torch.ones_like(norms[norms > 0]), atol=1e-14, rtol=0)
    assert rectify or (norms > 0).all()


@pytest.mark.parametrize("build", [goru, nru])
def test_gradients_of_every_parameter_equal_finite_differences(build):
    network = build(2, 4, 3, dtype=WIDE, generator=seeded(), **({"memory_size": 4, "heads": 4} if build is nru else {}))
    names, parameters = zip(*network.named_parameters(), strict=True)
    with torch.no_grad():
        for p in parameters:
            p.add_(torch.randn(p.shape, dtype=WIDE, generator=seeded(5)), alpha=0.3)
    x = torch.randn(3, 5, 2, dtype=WIDE, generator=seeded(1))

    def outputs(*parameters):
        return torch.func.functional_call(network, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, parameters)


@pytest.mark.parametrize("build", [goru, nru])
def test_learns_to_tell_the_first_symbol_of_a_sequence(build):
    network = build(3, 16, 2, generator=seeded())
    optimizer = torch.optim.Adam(network.parameter_groups(1e-2))
    generator, losses = seeded(1), []
    for _ in range(150):
        label = torch.randint(2, (32,), generator=generator)
        x = torch.zeros(32, 10, 3)
        x[torch.arange(32), 0, label] = 1
        x[:, 1:, 2] = 1
        loss = nn.functional.cross_entropy(network(x), label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
