"""The energy, the stability and the spectrum that cells promise."""

import math

import pytest
import torch
from support.cell_cases import energy_slope, make
from support.seeds import seeded

import manifold_rnn as mr
from manifold_rnn.errors import NonFiniteError
from manifold_rnn.nn.cells import LRU, SBO, CoRNN, Euler, Quadratic
from manifold_rnn.nn.cells.lru import log_gamma_of

# the energy


@pytest.mark.parametrize("target", [1.0, 0.4])
def test_sbo_has_the_gradient_of_its_energy(target, wide):
    cell = SBO("sgd", target=target)
    W, u, h = (torch.randn(*shape, dtype=wide, generator=seeded(k)) for k, shape in enumerate([(6, 6), (6,), (6,)]))
    results = cell.gradient(u[None], h[None], W)[0]
    torch.testing.assert_close(results, energy_slope(cell, W, u, h), atol=1e-13, rtol=0)


def test_an_sbo_step_stretches_nothing_while_its_size_is_small_enough():
    for seed in range(20):
        W, u, h = (
            torch.randn(*shape, dtype=torch.float64, generator=seeded(seed)) for shape in [(6, 6), (1, 6), (1, 6)]
        )
        D = torch.diag((h @ W.mT + u)[0] > 0).double()
        K = torch.eye(6, dtype=torch.float64) - D @ W
        cell = SBO("sgd", 2 / torch.linalg.matrix_norm(K, 2).item() ** 2)
        J = torch.autograd.functional.jacobian(lambda h, c=cell, u=u, W=W: c.step(u, (h,), W)[0][0], h)[:, 0]
        torch.testing.assert_close(J, torch.eye(6, dtype=torch.float64) - cell.step_size * K.T @ K)
        assert torch.linalg.matrix_norm(J, 2) < 1 + 1e-12


# stability


@pytest.mark.parametrize("norm", [0.1, 1.0, 7.0])
def test_quadratic_states_are_bounded_up_to_the_largest_input_and_not_beyond(norm, wide):
    n, T = 5, 2000
    manifold = mr.Unitary() if wide.is_complex else mr.Orthogonal()
    for seed in range(5):
        W = norm * manifold.random(n, n, dtype=wide, generator=seeded(seed))
        u = torch.randn(T, 1, n, dtype=wide, generator=seeded(10 + seed))
        u = Quadratic.largest_input / norm * u / torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        h = torch.zeros(1, n, dtype=wide)
        for t in range(T):
            worst = torch.linalg.solve(W / norm, h[0]).conj() if t % 2 else h[0]  # also inputs that follow the state
            size = torch.linalg.vector_norm(worst)
            v = Quadratic.largest_input / norm * worst[None] / size if t % 3 and size > 0 else u[t]
            h = Quadratic().step(v, (h,), W)[0]
            assert torch.linalg.vector_norm(h) <= 1 / (4 * norm**2) * (1 + 1e-12)
    h, one = torch.zeros(1, 1, dtype=wide), torch.full((1, 1), norm, dtype=wide)
    for _ in range(200):
        h = Quadratic().step(1.01 * Quadratic.largest_input / one, (h,), one)[0]
    assert not h.isfinite().all()


@pytest.mark.parametrize("every_step", [True, False])
def test_a_layer_names_states_that_overflow(every_step, wide):
    layer = mr.nn.Layer(Quadratic(), 2, 4, num_layers=2, bidirectional=True, dtype=wide)
    x = torch.randn(30, 3, 2, dtype=wide, generator=seeded(0))
    with pytest.raises(NonFiniteError, match=r"Quadratic(.|\n)*W_ih x \+ b has norms of at most 0.25"):
        layer(30 * x, every_step=every_step)
    assert layer(1e-2 * x)[0].isfinite().all()


@pytest.mark.parametrize("time_step", [0.02, 0.042, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("stiffness", [0.0, 0.4, 2.7, 66.0, 700.0])
def test_cornn_is_stable_where_its_eigenvalues_are_inside(time_step, stiffness):
    for damping in (0.0, 0.01, 1.3, 4.7, 15.0, 40.0, 120.0):
        M = [
            [1 - time_step**2 * stiffness, time_step * (1 - time_step * damping)],
            [-time_step * stiffness, 1 - time_step * damping],
        ]
        radius = torch.linalg.eigvals(torch.tensor(M, dtype=torch.float64)).abs().max().item()
        if abs(radius - 1) > 1e-9:
            assert CoRNN(time_step, stiffness, damping).stable == (radius < 1)


def test_the_linear_part_of_cornn_is_that_matrix():
    cell = CoRNN(0.1, 0.2, 6.4).bind({})
    start = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    y, (y, z) = cell.step(torch.zeros(2, 1), tuple(start.T[:, :, None]), torch.zeros(2, 1, dtype=torch.float64))
    M = torch.cat([y, z], 1).T
    expected = torch.tensor([[1 - 0.01 * 0.2, 0.1 * (1 - 0.64)], [-0.02, 1 - 0.64]], dtype=torch.float64)
    torch.testing.assert_close(M, expected, atol=1e-15, rtol=0)


@pytest.mark.parametrize(("step_size", "damping", "grown"), [(0.01, 0.01, 1.0002), (0.1, 0.15, 1.014)])
def test_being_antisymmetric_alone_keeps_no_euler_step_stable(step_size, damping, grown):
    frequency, cell = 2.40, Euler(step_size)
    assert frequency**2 > 2 * damping / step_size - damping**2
    K = torch.tensor([[0.0, frequency], [-frequency, 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    assert cell.growth(K - damping * eye).item() == pytest.approx(grown, abs=5e-4)
    calm = 0.99 * math.sqrt(2 * damping / step_size - damping**2) / frequency
    assert cell.growth(calm * K - damping * eye) < 1


# the linear unit


def test_lru_moduli_and_scales_are_finite_wherever_the_rate_is():
    nu = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    modulus, log_gamma = (-nu.exp()).exp(), log_gamma_of(nu)
    assert (modulus >= 0).all() and (modulus < 1).all()
    assert log_gamma.isfinite().all() and (log_gamma <= 0).all()
    (modulus + log_gamma).sum().backward()
    assert nu.grad.isfinite().all()
    torch.testing.assert_close(log_gamma_of(nu[200]), 0.5 * (1 - modulus[200] ** 2).log(), atol=1e-15, rtol=0)
    assert log_gamma_of(torch.tensor(-17.5)).isfinite()


@pytest.mark.parametrize(("r_min", "r_max", "max_phase"), [(0.0, 1.0, 6.28), (0.9, 0.999, 0.3)])
def test_lru_starts_uniformly_by_area_on_its_ring(r_min, r_max, max_phase):
    nu, theta = LRU(r_min, r_max, max_phase).ring(torch.empty(20000, dtype=torch.float64), generator=seeded())
    area = (-2 * nu.exp()).exp()
    assert area.min() >= r_min**2 - 1e-12 and area.max() <= r_max**2 + 1e-12
    assert abs((area < (r_min**2 + r_max**2) / 2).double().mean() - 0.5) < 0.02
    assert theta.min() >= 0 and theta.max() <= max_phase and abs(theta.mean() / max_phase - 0.5) < 0.02


def test_lru_states_keep_the_size_of_their_inputs():
    layer = make(LRU(0.5, 0.99), m=64, n=256, dtype=torch.complex64)
    h = layer(torch.randn(2500, 2, 64, generator=seeded()))[1]
    assert h.abs().square().mean().item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_lru_starts_inside_and_diagonal(dtype):
    W = make(LRU(0.5, 0.9), n=50, dtype=dtype).weight_hh_l0.detach()
    assert torch.equal(W, W.diagonal().diag()) and W.diagonal().abs().min() >= 0.5 - 1e-12
    assert W.diagonal().abs().max() <= 0.9 + 1e-12 and W.diagonal().real.min() < 0
