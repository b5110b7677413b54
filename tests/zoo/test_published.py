"""The facts of each published network: counts, gradients, rates."""

import copy

import pytest
import torch
from support.seeds import seeded
from support.zoo_cases import WIDE, signs
from torch import nn

import manifold_rnn as mr
from manifold_rnn.linalg import unpack_skew
from manifold_rnn.nn import init
from manifold_rnn.zoo import dtriv, enrnn, exprnn, full_urnn, scornn, scurnn

COORDINATES = "constraints.weight_hh_l0.coordinates"
PIXELS, SPEECH, COPYING = (1, 10), (129, 129), (10, 9)  # inputs and outputs of the published tasks


def free(network):
    return network.layer.get_parameter(COORDINATES)


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


@pytest.mark.parametrize("build", [scornn, exprnn, dtriv])
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


@pytest.mark.parametrize("negatives", [-1, 9])
def test_a_number_of_negatives_out_of_range_is_named(negatives):
    with pytest.raises(mr.errors.OptionError, match=str(negatives)):
        scornn(1, 8, 10, negatives=negatives)


@pytest.mark.parametrize(
    ("task", "n", "scaled", "full"),
    [
        (PIXELS, 116, 16482, 16366),
        (PIXELS, 250, 69010, None),
        (PIXELS, 512, None, 274954),
        (SPEECH, 128, 83073, 82945),
        (SPEECH, 192, 136833, 136641),
        (SPEECH, 258, 200853, None),
        (SPEECH, 256, None, 198529),
        (COPYING, 130, 22369, None),
        (COPYING, 128, None, 21641),
        ((2, 1), 116, 14617, None),
    ],
)
def test_published_parameter_counts_of_unitary_networks(task, n, scaled, full):
    for build, count in ((scurnn, scaled), (full_urnn, full)):
        if count is not None:
            assert mr.degrees_of_freedom(build(task[0], n, task[1])) == count


@pytest.mark.parametrize(("task", "n", "short", "count"), [(COPYING, 192, 20, 22395), ((2, 1), 160, 64, 15441)])
def test_published_parameter_counts_of_enrnn(task, n, short, count):
    assert mr.degrees_of_freedom(enrnn(task[0], n, task[1], short_size=short)) == count


def reals(p):
    return torch.view_as_real(p) if p.is_complex() else p


def slopes(network, p):
    """Central differences of the loss in every real number of a parameter."""
    flat, found = reals(p.detach()).view(-1), []
    for i in range(len(flat)):
        ends = []
        for h in (1e-5, -1e-5):
            flat[i] += h
            ends.append(loss(network).detach())
            flat[i] -= h
        found.append((ends[0] - ends[1]) / 2e-5)
    return torch.stack(found).view_as(reals(p))


@pytest.mark.parametrize("build", [scurnn, enrnn, full_urnn, dtriv])
def test_gradients_of_every_parameter_equal_finite_differences(build):
    network = build(2, 5, 3, dtype=WIDE, view="trivialized", generator=seeded())
    with torch.no_grad():
        for p in network.parameters():
            reals(p).add_(torch.randn(reals(p).shape, dtype=WIDE, generator=seeded(5)), alpha=0.2)
    loss(network).backward()
    for name, p in network.named_parameters():
        found = slopes(network, p)
        torch.testing.assert_close(reals(p.grad), found, atol=1e-7, rtol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_scurnn_gradients_equal_the_published_formulas():
    network = scurnn(2, 5, 3, dtype=WIDE, generator=seeded())
    with torch.no_grad():
        free(network).add_(torch.randn(25, dtype=WIDE, generator=seeded(3)), alpha=0.3)
    entry = network.layer.constraints["weight_hh_l0"]
    A = -0.5 * unpack_skew(free(network).detach(), torch.complex128)
    theta, eye = entry.phases.detach(), torch.eye(5, dtype=torch.complex128)
    D = torch.diag(torch.polar(torch.ones_like(theta), theta))
    Z = torch.linalg.solve(eye + A, eye - A)
    (W, G) = dense_gradient(network)
    torch.testing.assert_close(W, Z @ D, atol=1e-14, rtol=0)
    wirtinger = G.conj() / 2  # torch has dL/dRe + i dL/dIm
    C = torch.linalg.solve((eye + A).T, wirtinger @ (D + W.T))
    published = C.T - C.conj()
    turned = 2 * (1j * (wirtinger.T @ Z).diagonal() * D.diagonal()).real
    loss(network).backward()
    ours = unpack_skew(free(network).grad, torch.complex128)  # the gradient in our A = -2 of theirs
    torch.testing.assert_close(-2 * ours, published, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(published, -published.mH, atol=1e-13, rtol=0)
    torch.testing.assert_close(entry.phases.grad, turned, atol=1e-12, rtol=1e-12)


def test_a_plain_riemannian_step_of_twice_the_rate_is_the_step_of_full_urnn():
    network = full_urnn(2, 5, 3, dtype=WIDE, generator=seeded())
    loss(network).backward()
    W = network.layer.weight_hh_l0.detach().clone()
    G, eye, lr = network.layer.weight_hh_l0.grad, torch.eye(5, dtype=torch.complex128), 1e-3
    S = G @ W.mH - W @ G.mH
    expected = torch.linalg.solve(eye + lr / 2 * S, (eye - lr / 2 * S) @ W)
    before = loss(network).item()
    mr.optim.RiemannianSGD([network.layer.weight_hh_l0], lr=2 * lr).step()
    torch.testing.assert_close(network.layer.weight_hh_l0.detach(), expected, atol=1e-12, rtol=0)
    predicted = -lr / 2 * S.abs().square().sum().item()
    assert loss(network).item() - before == pytest.approx(predicted, rel=0.05)


def test_enrnn_keeps_its_radius_once_it_has_left_the_disc():
    network = enrnn(2, 8, 3, short_size=4, dtype=WIDE, generator=seeded())
    bottom = network.layer.constraints["weight_hh_l0"].members.bottom
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    with torch.no_grad():
        bottom.coordinates.mul_(0).add_(2 * torch.eye(4))
    loss(network).backward()
    optimizer.step()
    assert bottom.active
    with torch.no_grad():
        bottom.coordinates.sub_(1.9 * torch.eye(4))
    M = network.layer.weight_hh_l0.detach()[4:, 4:]
    torch.testing.assert_close(torch.linalg.eigvals(M).abs().max(), torch.ones((), dtype=WIDE))
    again = enrnn(2, 8, 3, short_size=4, dtype=WIDE)
    again.load_state_dict(network.state_dict())
    torch.testing.assert_close(loss(again), loss(network), atol=0, rtol=0)


@pytest.mark.parametrize(("short", "n"), [(0, 4), (4, 4), (-1, 4)])
def test_enrnn_refuses_an_empty_memory(short, n):
    with pytest.raises(mr.errors.OptionError, match="short_size"):
        enrnn(1, n, 2, short_size=short)


def test_static_dtriv_at_the_identity_is_exprnn_and_a_rebase_changes_nothing():
    base = exprnn(2, 5, 3, dtype=WIDE, generator=seeded())
    moving = dtriv(2, 5, 3, dtype=WIDE, generator=seeded(), angles=lambda A, generator: A.zero_())
    moving.load_state_dict(base.state_dict())
    torch.testing.assert_close(loss(moving), loss(base), atol=0, rtol=0)
    with torch.no_grad():
        free(moving).add_(0.1)
    before = moving.layer.weight_hh_l0.detach().clone()
    moving.layer.constraints["weight_hh_l0"].rebase()
    torch.testing.assert_close(moving.layer.weight_hh_l0.detach(), before, atol=1e-14, rtol=0)
    assert not free(moving).any()


@pytest.mark.parametrize("every", [1, 3, None])
def test_dtriv_moves_its_base_on_time(every):
    network = dtriv(2, 5, 3, rebase_every=every, dtype=WIDE, generator=seeded())
    base = network.layer.constraints["weight_hh_l0"].base.clone()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for step in range(1, 5):
        optimizer.zero_grad()
        loss(network).backward()
        optimizer.step()
        assert free(network).any().item() == (every is None or step % every > 0)
    assert torch.equal(base, network.layer.constraints["weight_hh_l0"].base) == (every is None)
