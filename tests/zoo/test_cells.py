"""The facts of the networks of differential equations, of momentum, of an energy, and of the linear unit."""

import math

import pytest
import torch
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn import zoo
from manifold_rnn.errors import OptionError
from manifold_rnn.linalg import spectral_radius

WIDE = torch.float64
NAMES = ["antisymmetric", "cornn", "lem", "lipschitz", "lru", "momentum", "sbo"]
VARIANTS = {
    "antisymmetric": [{}, {"gated": True}, {"method": "exp"}, {"method": "cayley", "gated": True}],
    "cornn": [{}],
    "lem": [{}],
    "lipschitz": [{}, {"gated": True}, {"beta": 1.0}],
    "lru": [{}, {"r_min": 0.9, "r_max": 0.999}],
    "momentum": [
        {"host": host, "kind": kind}
        for host in ("lstm", "dtriv")
        for kind in ("momentum", "adam", "rmsprop", "restart")
    ],
    "sbo": [{}, {"method": "sgd"}, {"method": "nesterov"}, {"rank": 0}, {"rank": 2}],
}
CASES = [(name, options) for name in NAMES for options in VARIANTS[name]]
COMPLEX = ["antisymmetric", "cornn", "lem", "lipschitz", "lru", "sbo"]
PIXELS, SPEECH = (1, 10), (129, 129)


def entry(network):
    return network.layer.constraints["weight_hh_l0"]


@pytest.mark.parametrize(
    ("name", "task", "n", "options", "count"),
    [
        ("antisymmetric", PIXELS, 128, {}, 9674),
        ("antisymmetric", PIXELS, 128, {"gated": True}, 9930),
        ("antisymmetric", (3, 10), 256, {}, 36234),
        ("antisymmetric", (3, 10), 256, {"gated": True}, 37258),
        ("lipschitz", PIXELS, 128, {}, 34314),
        ("cornn", PIXELS, 256, {}, 134154),
        ("lem", PIXELS, 128, {}, 68362),
        ("sbo", PIXELS, 128, {}, 14347),
        ("sbo", PIXELS, 128, {"method": "sgd"}, 14346),
        ("sbo", PIXELS, 128, {"rank": 0}, 1548),
        ("momentum", PIXELS, 128, {}, 68362),
        ("momentum", PIXELS, 256, {}, 267786),
        ("momentum", SPEECH, 84, {}, 83205),
        ("momentum", SPEECH, 120, {}, 136089),
        ("momentum", SPEECH, 158, {}, 203159),
        ("momentum", PIXELS, 170, {"host": "dtriv"}, 16415),
        ("momentum", PIXELS, 360, {"host": "dtriv"}, 68950),
        ("momentum", PIXELS, 512, {"host": "dtriv"}, 136970),
        ("momentum", SPEECH, 224, {"host": "dtriv"}, 83121),
        ("momentum", SPEECH, 322, {"host": "dtriv"}, 135208),
        ("lru", (3, 2), 7, {}, 3 * 7 + 2 * 7 * 3 + 2 * (2 * 7 + 3) + 2),
    ],
)
def test_published_parameter_counts(name, task, n, options, count):
    assert mr.degrees_of_freedom(getattr(zoo, name)(task[0], n, task[1], **options)) == count


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_every_variant_learns_and_reads_its_generator(name, options):
    build = getattr(zoo, name)
    network, again = (build(2, 8, 3, generator=seeded(), **options) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), again.parameters(), strict=True))
    optimizer = torch.optim.Adam(network.parameter_groups(1e-2))
    x, target = torch.randn(4, 9, 2, generator=seeded(1)), torch.arange(4) % 3
    losses = []
    for _ in range(11):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), target)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def loss(network, x):
    return network(x).sin().sum()


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_gradients_of_every_parameter_equal_finite_differences(name, options):
    network = getattr(zoo, name)(2, 4, 3, dtype=WIDE, generator=seeded(), **options)
    x = torch.randn(3, 5, 2, dtype=WIDE, generator=seeded(1))
    loss(network, x).backward()
    for key, p in network.named_parameters():
        flat, grad = (torch.view_as_real(t) if t.is_complex() else t for t in (p.detach(), p.grad))
        flat, grad, found = flat.view(-1), grad.reshape(-1), []
        for i in range(len(flat)):
            ends = []
            for h in (1e-6, -2e-6):
                flat[i] += h
                ends.append(loss(network, x).detach())
            flat[i] += 1e-6
            found.append((ends[0] - ends[1]) / 2e-6)
        if found:
            torch.testing.assert_close(grad, torch.stack(found), atol=1e-7, rtol=1e-6, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("name", COMPLEX)
def test_a_complex_network_runs_and_reads_out_real_numbers(name):
    network = getattr(zoo, name)(2, 8, 3, dtype=torch.complex64, generator=seeded())
    y = network(torch.randn(4, 9, 2))
    y.square().sum().backward()
    assert y.dtype == torch.float32 and network.layer.weight_hh_l0.is_complex()


# antisymmetric


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("spread", [2.0, 10.0])
def test_exact_and_cayley_steps_are_inside_the_circle_and_an_euler_step_is_flagged(seed, spread):
    for method, stable in (("exp", True), ("cayley", True), ("euler", False)):
        network = zoo.antisymmetric(1, 32, 2, method=method, dtype=WIDE, generator=seeded(seed))
        with torch.no_grad():
            entry(network).coordinates.mul_(spread)
        growth = network.layer.cell.growth(network.layer.weight_hh_l0.detach())
        assert (growth < 1) == stable == entry(network).stable()
        torch.testing.assert_close(growth, entry(network).radius(), atol=1e-9, rtol=1e-9)


def test_an_antisymmetric_weight_is_skew_but_for_its_damping():
    W = zoo.antisymmetric(1, 32, 2, damping=0.15, dtype=WIDE, generator=seeded()).layer.weight_hh_l0.detach()
    K = W + 0.15 * torch.eye(32, dtype=WIDE)
    torch.testing.assert_close(K, -K.T, atol=1e-14, rtol=0)
    assert K.triu(1).square().sum() / (32 * 31 / 2) * 32 == pytest.approx(1, abs=0.2)
    assert torch.linalg.eigvals(K).imag.max().item() == pytest.approx(2, abs=0.5)


@pytest.mark.parametrize("method", ["euler", "exp"])
def test_a_small_step_of_either_method_is_the_same_network(method):
    networks = [
        zoo.antisymmetric(2, 6, 3, method=m, step_size=1e-4, dtype=WIDE, generator=seeded()) for m in ("cayley", method)
    ]
    x = 1e3 * torch.randn(2, 5, 2, dtype=WIDE, generator=seeded(1))
    torch.testing.assert_close(networks[0](x), networks[1](x), atol=1e-6, rtol=0)


# Lipschitz


def test_lipschitz_starts_as_published_without_stability():
    network = zoo.lipschitz(1, 128, 10, dtype=WIDE, generator=seeded())
    matrices = [*entry(network).members["0_1"].matrix.detach()]
    for B in matrices:
        assert B.std().item() == pytest.approx(0.1 / 128, rel=0.05)
    A, W = network.layer.weight_hh_l0.detach().split(128)
    eye = torch.eye(128, dtype=WIDE)
    for B, M in zip(matrices, (A, W), strict=True):
        torch.testing.assert_close(M, 0.75 * (B - B.T) + 0.25 * (B + B.T) - 0.001 * eye, atol=1e-15, rtol=0)
    assert 0.0005 < torch.linalg.eigvals(A).real.max() < 0.0025
    calm = zoo.lipschitz(1, 128, 10, beta=1.0, dtype=WIDE, generator=seeded()).layer.weight_hh_l0.detach()[:128]
    torch.testing.assert_close(
        torch.linalg.eigvals(calm).real, torch.full((128,), -0.001, dtype=WIDE), atol=1e-12, rtol=0
    )


# oscillators, long memory


@pytest.mark.parametrize(
    ("time_step", "stiffness", "damping"),
    [(0.076, 0.4, 8.0), (0.042, 2.7, 4.7), (0.034, 1.3, 12.7), (0.1, 0.2, 6.4), (0.054, 4.9, 4.8), (0.06, 66.0, 15.0)],
)
def test_every_published_setting_of_cornn_is_stable(time_step, stiffness, damping):
    assert zoo.cornn(1, 4, 2, time_step=time_step, stiffness=stiffness, damping=damping).layer.cell.stable


def test_cornn_starts_as_one_linear_map():
    network = zoo.cornn(3, 64, 10, generator=seeded())
    bound = 131**-0.5
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"):
        assert 0.9 * bound < network.layer.get_parameter(name).abs().max() <= bound


def test_lem_starts_as_published():
    network = zoo.lem(3, 64, 50, generator=seeded())
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        assert 0.9 / 8 < network.layer.get_parameter(name).abs().max() <= 1 / 8
    assert network.readout.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.05)


# the linear unit


def test_lru_starts_on_its_ring_with_scales_that_fit():
    network = zoo.lru(4, 500, 3, r_min=0.9, r_max=0.999, max_phase=0.3, dtype=WIDE, generator=seeded())
    eigenvalues = network.layer.weight_hh_l0.detach().diagonal()
    assert eigenvalues.abs().min() >= 0.9 and eigenvalues.abs().max() <= 0.999
    assert eigenvalues.angle().min() >= 0 and 0.29 < eigenvalues.angle().max() <= 0.3
    gamma = network.layer.log_gamma_l0.detach().exp()
    torch.testing.assert_close(gamma, (1 - eigenvalues.abs() ** 2).sqrt(), atol=1e-12, rtol=0)
    B, V = network.layer.weight_ih_l0.detach(), network.readout.weight.detach()
    assert B.real.std().item() == pytest.approx(8**-0.5, rel=0.05) == B.imag.std().item()
    assert V[:, :1000].std().item() == pytest.approx(500**-0.5, rel=0.05)
    assert not network.readout.bias.any()


def test_lru_is_its_recurrence():
    network = zoo.lru(2, 5, 3, dtype=WIDE, generator=seeded())
    layer, V = network.layer, network.readout.weight
    C, D = torch.complex(V[:, :5], -V[:, 5:10]), V[:, 10:]
    x, h = torch.randn(1, 7, 2, dtype=WIDE, generator=seeded(1)), torch.zeros(5, dtype=torch.complex128)
    nu, theta = entry(network).log_rate, entry(network).phase
    for x_t, o_t in zip(x[0], network(x, every_step=True)[0], strict=True):
        h = torch.exp(-nu.exp() + 1j * theta) * h + layer.log_gamma_l0.exp() * (layer.weight_ih_l0 @ x_t.to(h.dtype))
        torch.testing.assert_close(o_t, (C @ h).real + D @ x_t, atol=1e-13, rtol=0)
    torch.testing.assert_close(network(x)[0], o_t, atol=1e-13, rtol=0)


def test_lru_stays_inside_the_circle_however_it_is_trained():
    network = zoo.lru(1, 16, 2, r_min=0.999, generator=seeded())
    optimizer = torch.optim.SGD(network.parameters(), lr=100.0)
    for _ in range(5):
        optimizer.zero_grad()
        network(torch.ones(2, 30, 1)).square().sum().neg().clamp(min=-1e4).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
    assert network.layer.weight_hh_l0.abs().max() <= 1
    assert spectral_radius(network.layer.weight_hh_l0.detach()) <= 1 + 1e-6


def test_lru_rates_are_half_for_what_is_recurrent():
    network = zoo.lru(1, 4, 2)
    *recurrent, others = network.parameter_groups(1e-2)
    assert [g["lr"] for g in recurrent] == [5e-3, 5e-3] and others["lr"] == 1e-2
    assert [len(g["params"]) for g in recurrent] == [2, 1]


# momentum


def test_a_momentum_lstm_starts_as_published():
    network = zoo.momentum(3, 6, 2, forget_bias=-4.0, generator=seeded())
    layer = network.layer
    assert torch.equal(layer.weight_hh_l0, torch.eye(24, 6))
    for bias in (layer.bias_ih_l0, layer.bias_hh_l0):
        assert torch.equal(bias, torch.tensor([0.0, -4.0, 0.0, 0.0]).repeat_interleave(6))
    V = layer.weight_ih_l0
    torch.testing.assert_close(V.T @ V, torch.eye(3))


def test_a_momentum_network_without_momentum_is_the_network_inside():
    network = zoo.momentum(2, 6, 3, host="dtriv", momentum=0.0, scale=1.0, generator=seeded())
    inside = zoo.dtriv(2, 6, 3)
    inside.load_state_dict(network.state_dict())
    network.layer.backend = inside.layer.backend = "reference"
    x = torch.randn(4, 9, 2)
    assert torch.equal(network(x), inside(x))


def test_a_momentum_network_moves_the_base_of_its_rotation():
    network = zoo.momentum(2, 6, 3, host="dtriv", rebase_every=1, generator=seeded())
    before = entry(network).base.clone()
    optimizer = torch.optim.Adam(network.parameter_groups(1e-2))
    network(torch.randn(4, 9, 2)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, entry(network).base) and mr.linalg.defect(network.layer.weight_hh_l0) < 1e-5


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("momentum", {"host": "gru"}, "host"),
        ("momentum", {"kind": "nag"}, "kind"),
        ("antisymmetric", {"method": "heun"}, "method"),
        ("sbo", {"rank": -1}, "rank"),
        ("lru", {"r_min": 2.0}, "r_min"),
        ("cornn", {"time_step": 0.0}, "time_step"),
    ],
)
def test_a_wrong_option_is_named(name, options, match):
    with pytest.raises(OptionError, match=match):
        getattr(zoo, name)(1, 4, 2, **options)


# the constraint of SBO


def test_low_rank_takes_what_it_reaches_and_refuses_the_rest(dtype):
    n = 6
    left, right = (
        torch.randn(n, 2, dtype=dtype, generator=seeded()),
        torch.randn(2, n, dtype=dtype, generator=seeded(1)),
    )
    W = torch.eye(n, dtype=dtype) + left @ right
    module = mr.IdentityPlusLowRank(2).trivialize(W)
    torch.testing.assert_close(
        module(), W, atol=1e-4 if dtype.itemsize < 8 or dtype == torch.complex64 else 1e-12, rtol=0
    )
    with pytest.raises(mr.errors.OffManifoldError, match="IdentityPlusLowRank"):
        module.assign(W + torch.randn(n, n, dtype=dtype, generator=seeded(2)))
    module.assign(torch.eye(n, dtype=dtype))
    torch.testing.assert_close(module(), torch.eye(n, dtype=dtype))


def test_low_rank_is_the_nearest_to_a_weight(generator):
    W = torch.randn(3, 5, 5, dtype=WIDE, generator=generator)
    found = mr.IdentityPlusLowRank(2).trivialize(W)()
    S = torch.linalg.svdvals(W - torch.eye(5, dtype=WIDE))
    torch.testing.assert_close(torch.linalg.matrix_norm(found - W), S[:, 2:].norm(dim=-1), atol=1e-12, rtol=0)
    everything = mr.IdentityPlusLowRank(9, train_scale=True).trivialize(W)
    torch.testing.assert_close(everything(), W, atol=1e-12, rtol=0)
    scale = mr.IdentityPlusLowRank(0, train_scale=True).trivialize(W)
    mean = W.diagonal(dim1=-2, dim2=-1).mean(-1)
    torch.testing.assert_close(scale(), mean[:, None, None] * torch.eye(5, dtype=WIDE), atol=1e-14, rtol=0)


def test_low_rank_is_saved_and_converted():
    network, other = (zoo.sbo(1, 6, 2, rank=rank, generator=seeded(i)) for i, rank in enumerate((0, 0)))
    other.load_state_dict(network.state_dict())
    assert torch.equal(other.layer.weight_hh_l0, network.layer.weight_hh_l0)
    assert network.double().layer.weight_hh_l0.dtype == WIDE
