"""The facts of the published networks whose recurrent matrix is built from factors, or starts far from normal."""

import math

import pytest
import torch
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import init
from manifold_rnn.zoo import eurnn, nnrnn, nonnormal, ornn, urnn

WIDE = torch.float64
BUILDERS = [urnn, eurnn, ornn, nnrnn, nonnormal]
ORTHOGONAL = [urnn, eurnn, ornn]
PIXELS, COPYING = (1, 10), (10, 9)


def entry(network):
    return network.layer.constraints["weight_hh_l0"]


def count(build, task, n, **options):
    return mr.degrees_of_freedom(build(task[0], n, task[1], **options))


@pytest.mark.parametrize("n", [8, 128, 512])
def test_urnn_has_the_published_count(n):
    assert count(urnn, PIXELS, n) == 32 * n + 10
    assert count(urnn, COPYING, n) == 7 * n + 20 * n + n + 18 * n + 9 + 2 * n
    assert n != 512 or count(urnn, PIXELS, n) == 16394


@pytest.mark.parametrize(("n", "layers"), [(128, 2), (32, 32), (7, 3)])
def test_eurnn_has_the_published_count(n, layers):
    rest = 2 * n * 10 + n + n * 9 + 9
    assert count(eurnn, COPYING, n, layers=layers) == layers * (n - 1) + n + rest
    assert count(eurnn, COPYING, n, layers=layers, real=True) == layers * (n - 1) // 2 + rest - n * 10


@pytest.mark.parametrize("n", [8, 64])
def test_eurnn_has_the_published_count_in_the_fft_layout(n):
    log, rest = int(math.log2(n)), 2 * n + n + n * 10 + 10
    assert count(eurnn, PIXELS, n, layout="fft") == n * log + n + rest
    assert count(eurnn, PIXELS, n, layout="fft", real=True) == n * log // 2 + rest - n


@pytest.mark.parametrize(("n", "m"), [(256, 32), (20, 20), (20, 7)])
def test_ornn_has_the_published_count(n, m):
    assert count(ornn, PIXELS, n, reflections=m) == n * m - m * (m - 1) // 2 + n + n + n * 10 + 10 + n


@pytest.mark.parametrize(
    ("task", "n", "released"), [((1, 9), 128, 17801), (COPYING, 128, 18953), (PIXELS, 512, 268298)]
)
def test_nnrnn_has_the_published_counts(task, n, released):
    assert count(nnrnn, task, n, legacy_mask=True) == released
    assert count(nnrnn, task, n) == released - n // 2


@pytest.mark.parametrize("start", ["chain", "feedback_chain", "identity", "orthogonal"])
def test_nonnormal_has_no_constraint(start):
    assert count(nonnormal, PIXELS, 25, start=start) == 25**2 + 25 + 25 + 250 + 10


@pytest.mark.parametrize("build", ORTHOGONAL)
@pytest.mark.parametrize("n", [1, 2, 7, 32])
def test_starts_orthogonal(build, n):
    network = build(2, n, 3, generator=seeded(), dtype=WIDE)
    assert mr.linalg.defect(network.layer.weight_hh_l0.detach()) < 1e-12


@pytest.mark.parametrize(("build", "options"), [(urnn, {}), (eurnn, {"layers": 16}), (eurnn, {"layout": "fft"})])
def test_unitary_starts_have_eigenvalues_all_around_the_circle(build, options):
    network = build(1, 64, 3, generator=seeded(), dtype=WIDE, **options)
    values = torch.linalg.eigvals(network.layer.weight_hh_l0.detach())
    torch.testing.assert_close(values.abs(), torch.ones(64, dtype=WIDE), atol=1e-10, rtol=0)
    assert values.angle().std() > 1.4 and values.imag.min() < -0.9 and values.real.max() > 0.9


def test_urnn_starts_as_published():
    layer = urnn(3, 64, 10, dtype=WIDE, generator=seeded()).layer
    module, start = layer.constraints["weight_hh_l0"], torch.view_as_real(layer.initial_state_l0.detach())
    assert module.phases.abs().max() <= math.pi and module.phases.std() > 1.6
    assert 0.9 < torch.view_as_real(module.reflections.detach()).abs().max() / math.sqrt(6 / 130) <= 1
    assert start.abs().max() <= math.sqrt(3 / 128) and abs(start.square().sum() - 1) < 0.3
    assert torch.view_as_real(layer.weight_ih_l0.detach()).abs().max() <= math.sqrt(6 / (3 + 128))


@pytest.mark.parametrize("real", [False, True])
def test_eurnn_reads_only_real_parts(real):
    network = eurnn(2, 8, 3, real=real, generator=seeded(), dtype=WIDE)
    x = torch.randn(4, 5, 2, dtype=WIDE, generator=seeded(1))
    y, h_n = network.layer(x)
    assert y.is_complex() is not real and network.readout.weight.shape == (3, 8)
    expected = nn.functional.linear(h_n[-1].real, network.readout.weight, network.readout.bias)
    torch.testing.assert_close(network(x), expected)
    torch.testing.assert_close(network(x, every_step=True)[:, -1], expected)
    assert not network.layer.bias_l0.any() and (network.readout.bias == 0.01).all()


@pytest.mark.parametrize("m", [1, 4, 7])
def test_ornn_has_the_determinant_of_its_reflections(m):
    network = ornn(2, 8, 3, reflections=m, generator=seeded(), dtype=WIDE)
    det = torch.det(network.layer.weight_hh_l0.detach())
    torch.testing.assert_close(det, torch.tensor((-1.0) ** m, dtype=WIDE))


def test_ornn_is_its_recurrence():
    network = ornn(2, 6, 3, generator=seeded(), dtype=WIDE)
    layer, x = network.layer, torch.randn(1, 5, 2, dtype=WIDE, generator=seeded(1))
    h = layer.initial_state_l0
    assert h.any() and h.abs().max() <= math.sqrt(3 / 12)
    for t in range(5):
        z = layer.weight_hh_l0 @ h + layer.weight_ih_l0 @ x[0, t] + layer.bias_ih_l0
        h = torch.where(z < 0, 0.1 * z, z)
    torch.testing.assert_close(network(x)[0], network.readout(h))


@pytest.mark.parametrize("angles", [init.cayley_, init.henaff_])
@pytest.mark.parametrize("n", [8, 7])
def test_nnrnn_starts_orthogonal_with_its_angles(angles, n):
    network = nnrnn(2, n, 3, angles=angles, generator=seeded(), dtype=WIDE)
    W, module = network.layer.weight_hh_l0.detach(), entry(network)
    assert mr.linalg.defect(W) < 1e-12 and module.penalty() == 0 and not module.triangle.any()
    c, s = module.angles.detach().cos(), module.angles.detach().sin()
    torch.testing.assert_close(W.diagonal()[: n // 2 * 2 : 2], c, atol=1e-12, rtol=0)
    torch.testing.assert_close(W.diagonal(-1)[::2], s, atol=1e-12, rtol=0)
    assert module.frame.coordinates.any()


def test_nnrnn_keeps_its_promised_spectrum_while_it_trains():
    network = nnrnn(2, 8, 3, generator=seeded(), dtype=WIDE)
    train(network, 50)
    module = entry(network)
    W = network.layer.weight_hh_l0.detach()
    promised = torch.polar(module.moduli, module.angles).detach()
    found = torch.linalg.eigvals(W)
    assert (found[:, None] - promised).abs().amin(0).max() < 1e-8
    assert module.triangle.any() and 0 < module.penalty() < 1


def test_nnrnn_groups_its_frame_and_its_triangle():
    frame, triangle, others = nnrnn(2, 8, 3).parameter_groups(1e-3)
    assert [p.numel() for p in frame["params"]] == [28] and frame["lr"] == pytest.approx(1e-4 * math.sqrt(2))
    assert [p.numel() for p in triangle["params"]] == [24] and triangle["lr"] == others["lr"] == 1e-3


def test_a_pulse_runs_along_the_chain():
    network = nonnormal(1, 6, 3, gain=1.1)
    x = torch.zeros(1, 6, 1)
    x[0, 0] = 1
    y, _ = network.layer(x)
    torch.testing.assert_close(y[0], torch.diag(0.9 * 1.1 ** torch.arange(6.0)))


@pytest.mark.parametrize("start", ["identity", "orthogonal"])
def test_normal_starts_are_normal_with_a_dense_input_map(start):
    network = nonnormal(2, 400, 3, start=start, gain=0.96, generator=seeded(), dtype=WIDE)
    W, V = network.layer.weight_hh_l0.detach(), network.layer.weight_ih_l0.detach()
    torch.testing.assert_close(W @ W.T, 0.96**2 * torch.eye(400, dtype=WIDE), atol=1e-12, rtol=0)
    assert V.std().item() == pytest.approx(0.9 / 20, rel=0.1)


@pytest.mark.parametrize("build", [ornn, nonnormal])
def test_one_of_torchs_biases_is_not_trained(build):
    network = build(2, 8, 3)
    assert not network.layer.bias_hh_l0.requires_grad
    train(network, 2)
    assert not network.layer.bias_hh_l0.any() and network.layer.bias_ih_l0.any()


def train(network, steps, lr=0.01):
    optimizer = torch.optim.Adam(network.parameter_groups(lr))
    x = torch.randn(4, 9, 2, dtype=network.readout.weight.dtype, generator=seeded(1))
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), torch.arange(4) % 3)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("steps", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("build", ORTHOGONAL)
def test_steps_in_single_precision_leave_the_matrix_orthogonal(build, steps):
    network = build(2, 16, 3, generator=seeded())
    losses = train(network, steps, lr=1e-3)
    assert losses[-1] < losses[0]
    assert mr.linalg.defect(network.layer.weight_hh_l0.detach().to(torch.complex128)) < 1e-5


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("build", BUILDERS)
def test_ten_steps_reduce_the_loss(build, seed):
    losses = train(build(2, 8, 3, generator=seeded(seed)), 10)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("build", BUILDERS)
def test_gradients_of_every_parameter_equal_finite_differences(build):
    network = build(2, 5, 3, dtype=WIDE, generator=seeded())
    x = torch.randn(2, 4, 2, dtype=WIDE, generator=seeded(1))
    names, values = zip(*((k, p) for k, p in network.named_parameters() if p.requires_grad), strict=True)
    generator = seeded(2)
    values = tuple(
        (p.detach() + 0.1 * torch.randn(p.shape, dtype=p.dtype, generator=generator)).requires_grad_() for p in values
    )

    def out(*values):
        return torch.func.functional_call(network, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(out, values)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: eurnn(1, 6, 2, layout="fft"), "power of 2"),
        (lambda: eurnn(1, 6, 2, layout="ring"), "tunable"),
        (lambda: ornn(1, 6, 2, reflections=7), "from 1 to 6"),
        (lambda: nnrnn(1, 6, 2, retraction="caley"), "cayley"),
        (lambda: nonnormal(1, 6, 2, start="loop"), "'feedback_chain'"),
        (lambda: nonnormal(1, 6, 2, nonlinearity="tanh"), "'elu', 'relu'"),
    ],
)
def test_a_wrong_option_is_named(make, words):
    with pytest.raises(mr.errors.OptionError, match=words):
        make()
