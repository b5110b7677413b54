"""The facts of each published network: counts, spectra, gradients, rates."""

import copy
import math

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.linalg import unpack_skew
from manifold_rnn.nn import init
from manifold_rnn.zoo import exprnn, scornn

WIDE = torch.float64
COORDINATES = "constraints.weight_hh_l0.coordinates"
PIXELS, SPEECH, COPYING = (1, 10), (129, 129), (10, 9)  # inputs and outputs of the published tasks


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def free(network):
    return network.layer.get_parameter(COORDINATES)


def signs(n, negatives):
    return torch.cat([torch.ones(n - negatives, dtype=WIDE), -torch.ones(negatives, dtype=WIDE)])


def paper_A(network, negatives=None):
    """``A`` as the paper has it: expRNN's is ours, scoRNN's is behind a similarity and a factor."""
    A = unpack_skew(free(network).detach())
    if negatives is None:
        return A
    d = signs(len(A), negatives)
    return -0.5 * d[:, None] * A * d


def descend(network, factor):
    """Take the paper's step of gradient descent, rate 1e-3, in our coordinates."""
    with torch.no_grad():
        free(network).sub_(free(network).grad, alpha=1e-3 * factor)


def loss(network):
    x = torch.randn(3, 6, 2, dtype=WIDE, generator=seeded(1))
    return network(x).sin().sum()


def dense_gradient(network):
    dense = copy.deepcopy(network)
    mr.release(dense.layer, "weight_hh_l0")
    loss(dense).backward()
    W = dense.layer.weight_hh_l0
    return W.detach(), W.grad


@pytest.fixture
def networks():
    """A scoRNN and an expRNN away from special points, states away from the kinks."""
    options = {"dtype": WIDE, "generator": seeded()}
    sco, exp = scornn(2, 5, 3, negatives=2, **options), exprnn(2, 5, 3, angles=init.haar_, **options)
    for network in (sco, exp):
        nn.init.normal_(network.layer.weight_ih_l0, generator=seeded(2))
        nn.init.constant_(network.layer.bias_l0, 0.05)
        with torch.no_grad():
            free(network).add_(torch.randn(10, dtype=WIDE, generator=seeded(3)), alpha=0.3)
    return sco, exp


@pytest.mark.parametrize("build", [scornn, exprnn])
@pytest.mark.parametrize(
    ("task", "n", "count"),
    [
        (PIXELS, 170, 16415),
        (PIXELS, 360, 68950),
        (PIXELS, 512, 136970),
        (SPEECH, 224, 83121),
        (SPEECH, 322, 135208),
        (SPEECH, 425, 200304),
        (COPYING, 190, 21764),
    ],
)
def test_published_parameter_counts(build, task, n, count):
    inputs, outputs = task
    assert mr.degrees_of_freedom(build(inputs, n, outputs)) == count


def test_scornn_gradient_equals_the_published_formula(networks):
    network, _ = networks
    (W, G), A = dense_gradient(network), paper_A(network, negatives=2)
    D, eye = signs(5, 2).diag(), torch.eye(5, dtype=WIDE)
    torch.testing.assert_close(torch.linalg.solve(eye + A, eye - A) @ D, W, atol=1e-14, rtol=0)
    V = torch.linalg.solve((eye + A).T, G @ (D + W.T))
    published = V.T - V
    loss(network).backward()
    ours = unpack_skew(free(network).grad)  # dL/dc; a_ij moves c by -2 sqrt2 d_i d_j, and unpacking divides by sqrt2
    torch.testing.assert_close(-4 * D @ ours @ D, published, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(published, -published.T, atol=1e-13, rtol=0)
    descend(network, factor=8)
    torch.testing.assert_close(paper_A(network, negatives=2), A - 1e-3 * published, atol=1e-14, rtol=0)


def test_exprnn_gradient_equals_the_published_formula(networks):
    _, network = networks
    (W, G), A = dense_gradient(network), paper_A(network)
    torch.testing.assert_close(torch.matrix_exp(A), W, atol=1e-13, rtol=0)
    block = torch.cat([torch.cat([A.T, G], 1), torch.cat([torch.zeros_like(A), A.T], 1)])
    K = torch.matrix_exp(block)[:5, 5:]
    loss(network).backward()
    torch.testing.assert_close(2 * unpack_skew(free(network).grad), K - K.T, atol=1e-12, rtol=1e-12)
    descend(network, factor=2)
    torch.testing.assert_close(paper_A(network), A - 1e-3 * (K - K.T), atol=1e-14, rtol=0)


@pytest.mark.parametrize("which", [0, 1], ids=["scornn", "exprnn"])
def test_gradients_equal_finite_differences(networks, which):
    network = networks[which]
    loss(network).backward()
    c = free(network)
    with torch.no_grad():
        for i in range(len(c)):
            steps = []
            for h in (1e-5, -1e-5):
                c[i] += h
                steps.append(loss(network))
                c[i] -= h
            slope = (steps[0] - steps[1]) / 2e-5
            torch.testing.assert_close(slope, c.grad[i], atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("n", [6, 7])
@pytest.mark.parametrize("negatives", [0, 1, 3, 6])
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_scornn_starts_in_its_component_with_the_published_spectrum(n, negatives, view):
    network = scornn(1, n, 10, negatives=negatives, view=view, dtype=WIDE, generator=seeded())
    W = network.layer.weight_hh_l0.detach()
    torch.testing.assert_close(torch.det(W), torch.tensor((-1.0) ** negatives, dtype=WIDE), atol=1e-12, rtol=0)
    A, eye = init.cayley_(torch.empty(n, n, dtype=WIDE), generator=seeded()), torch.eye(n, dtype=WIDE)
    Z = torch.linalg.solve(eye + A, eye - A)
    torch.testing.assert_close(W, Z * signs(n, negatives), atol=1e-12, rtol=0)
    t = 2 * torch.atan(A.diagonal(1)[::2])
    angles = torch.cat([t, -t, t.new_zeros(n % 2)]).sort().values
    torch.testing.assert_close(torch.linalg.eigvals(Z).angle().sort().values, angles, atol=1e-12, rtol=0)


@pytest.mark.parametrize("fill", [init.cayley_, init.henaff_, init.normal_diagonal_])
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_exprnn_starts_as_the_exponential_of_its_initialiser(fill, view):
    network = exprnn(1, 7, 10, angles=fill, view=view, dtype=WIDE, generator=seeded())
    W = network.layer.weight_hh_l0.detach()
    A = fill(torch.empty(7, 7, dtype=WIDE), generator=seeded())
    torch.testing.assert_close(W, torch.matrix_exp(A), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.det(W), torch.ones((), dtype=WIDE), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("build", "negatives"), [(scornn, 2), (exprnn, None)])
def test_a_step_of_the_groups_rate_moves_the_papers_matrix_by_a_tenth_of_the_rate(build, negatives):
    options = {} if negatives is None else {"negatives": negatives}
    network = build(2, 5, 3, dtype=WIDE, generator=seeded(), **options)
    nn.init.normal_(network.layer.weight_ih_l0, generator=seeded(2))
    before = paper_A(network, negatives)
    optimizer = torch.optim.Adam(network.parameter_groups(1e-3), eps=0)  # its first step is the sign of the gradient
    loss(network).backward()
    optimizer.step()
    step = (paper_A(network, negatives) - before).abs()
    torch.testing.assert_close(step, 1e-4 * (1 - torch.eye(5, dtype=WIDE)), atol=1e-15, rtol=0)


def test_scornn_starts_as_published():
    network = scornn(3, 8, 10)
    assert network.layer.weight_ih_l0.abs().max() <= 0.01
    assert not network.layer.bias_l0.any()
    assert not network.readout.bias.any()
    assert network.readout.weight.abs().max() <= math.sqrt(6 / 18)
    assert torch.det(network.layer.weight_hh_l0).round() == 1  # n // 2 = 4 negatives


def test_exprnn_starts_as_published():
    network = exprnn(2, 500, 10)
    W = network.layer.weight_ih_l0
    assert abs(W.std() - 1) < 0.1  # sqrt(2 / inputs)
    assert 0 < network.layer.bias_l0.abs().max() <= 0.01


@pytest.mark.parametrize("negatives", [-1, 9])
def test_a_number_of_negatives_out_of_range_is_named(negatives):
    with pytest.raises(mr.errors.OptionError, match=str(negatives)):
        scornn(1, 8, 10, negatives=negatives)
