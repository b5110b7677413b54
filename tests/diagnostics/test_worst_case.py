"""The perturbation that moves an eigenvalue: where it arrives, how long it is, and that none shorter is enough."""

import math

import pytest
import torch
from support.seeds import seeded

import manifold_rnn as mr
from manifold_rnn.diagnostics import worst_perturbation
from manifold_rnn.diagnostics.real_pairs import sizes_of
from manifold_rnn.diagnostics.worst_case import _angles, _at, _moving
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError

REAL, COMPLEX = torch.float64, torch.complex128
ARRIVES = 1e-8  # of the issue
N = 12


def chain(n):
    return torch.diag(torch.ones(n - 1, dtype=REAL), 1)


def matrices():
    g = seeded(0)
    return {
        "random": torch.randn(N, N, dtype=REAL, generator=g) / 5,
        "complex": torch.randn(N, N, dtype=COMPLEX, generator=g) / 5,
        "orthogonal": torch.linalg.qr(torch.randn(N, N, dtype=REAL, generator=g))[0],
        "unitary": torch.linalg.qr(torch.randn(N, N, dtype=COMPLEX, generator=g))[0],
        "chain": chain(N),
        "identity": torch.eye(N, dtype=REAL),
        "zero": torch.zeros(N, N, dtype=REAL),
        "triangle": torch.tensor([[0.5, 4.0], [0.0, -0.5]], dtype=REAL),
        "one": torch.full((1, 1), 0.25, dtype=REAL),
        "large": 1e6 * torch.randn(4, 4, dtype=REAL, generator=g),
    }


MATRICES = matrices()


def distance(W, z):
    return float((torch.linalg.eigvals(W) - z).abs().min())


def smallest(W, z):
    eye = torch.eye(len(W), dtype=COMPLEX)
    return float(torch.linalg.svdvals(z * eye - W)[-1])


@pytest.mark.parametrize("name", MATRICES)
def test_the_eigenvalue_arrives_at_the_worst_point_of_the_circle(name):
    W = MATRICES[name]
    E, z, size = worst_perturbation(W)
    assert abs(abs(z) - 1) < 1e-14 and E.dtype == W.dtype
    assert distance(W + E, z) < ARRIVES * max(1, float(W.abs().max()))
    assert size >= smallest(W, z) * (1 - 1e-9) - 1e-12
    assert abs(size - float(torch.linalg.matrix_norm(E, 2))) < 1e-12 * max(1, size)


@pytest.mark.parametrize("name", MATRICES)
def test_what_lower_bounds_leave_out_is_not_smaller(name):
    """Against the sizes at all angles and at all steps of the golden section, each computed."""
    W = MATRICES[name]

    def size(angle):
        return float(sizes_of(_moving(W, torch.tensor([_at(1.0, float(angle))], dtype=COMPLEX)))[0])

    angles = _angles(W)
    sizes = torch.tensor([size(angle) for angle in angles], dtype=REAL)
    k, least, golden = int(sizes.argmin()), float(sizes.min()), 0.5 * (5**0.5 - 1)
    below, above = float(angles[max(k - 1, 0)]), float(angles[min(k + 1, len(angles) - 1)])
    for _ in range(20 if len(angles) > 2 else 0):
        left, right = above - golden * (above - below), below + golden * (above - below)
        values = size(left), size(right)
        below, above = (below, right) if values[0] < values[1] else (left, above)
        least = min(least, *values)
    assert worst_perturbation(W).size <= least * (1 + 1e-9) + 1e-14 * max(1, float(W.abs().max()))


@pytest.mark.parametrize("name", [name for name in MATRICES if name != "one"])
@pytest.mark.parametrize("z", [0.6 + 0.9j, 1.1, -2.0, 0.1j])
def test_the_eigenvalue_arrives_at_a_chosen_point(name, z):
    W = MATRICES[name]
    scale = max(1, float(W.abs().max()))
    z = z * scale  # nearer to the axis, relative to the matrix, a pair of eigenvalues is nearly defective
    E, reached, size = worst_perturbation(W, z)
    assert reached == z and distance(W + E, z) < ARRIVES * scale
    if W.is_complex() or not complex(z).imag:
        assert size == pytest.approx(smallest(W, z), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", MATRICES)
def test_of_a_norm_the_largest_spectral_radius_is_returned(name):
    W, eps = MATRICES[name], 0.3
    E, z, size = worst_perturbation(W, eps=eps)
    assert size == pytest.approx(eps, rel=1e-9) and E.dtype == W.dtype
    assert distance(W + E, z) < ARRIVES * max(1, float(W.abs().max()))
    assert float(torch.linalg.eigvals(W + E).abs().max()) <= abs(z) * (1 + 1e-9)
    draws = torch.randn(40, *W.shape, dtype=W.dtype, generator=seeded(1))
    others = W + draws * (eps / torch.linalg.matrix_norm(draws, 2))[:, None, None]
    assert float(torch.linalg.eigvals(others).abs().max()) <= abs(z) * (1 + 1e-9)


@pytest.mark.parametrize("name", ["complex", "unitary"])
def test_the_largest_radius_lies_on_the_pseudospectrum(name):
    W = MATRICES[name]
    _, z, _ = worst_perturbation(W, eps=0.3)
    assert smallest(W, z) == pytest.approx(0.3, rel=1e-6)
    angles = torch.linspace(0, 2 * math.pi, 200, dtype=REAL)
    farther = (abs(z) + 1e-3) * torch.polar(torch.ones_like(angles), angles)
    assert min(smallest(W, point) for point in farther.tolist()) > 0.3


@pytest.mark.parametrize("name", ["orthogonal", "unitary", "identity", "zero"])
def test_a_normal_matrix_moves_by_the_norm(name):
    W = MATRICES[name]
    radius = float(mr.linalg.spectral_radius(W))
    assert abs(worst_perturbation(W, eps=0.3).z) == pytest.approx(radius + 0.3, rel=1e-9)
    if radius:
        assert worst_perturbation(W).size < 1e-7  # an eigenvalue lies on the circle


@pytest.mark.parametrize("n", [5, 20, 60])
def test_a_chain_closed_to_a_ring_by_eps_has_the_radius_of_its_root(n):
    """One entry ``eps`` in the corner gives the eigenvalues ``eps ** (1/n)``; the worst case is at least as far."""
    _, z, _ = worst_perturbation(chain(n), eps=1e-2)
    assert abs(z) >= 1e-2 ** (1 / n) * (1 - 1e-12)
    assert abs(z) <= 1 + 1e-2


def test_with_both_the_direction_is_that_of_the_point_and_the_norm_is_eps():
    W = MATRICES["random"]
    alone, both = worst_perturbation(W, 1.2j), worst_perturbation(W, 1.2j, eps=0.05)
    torch.testing.assert_close(both.E, alone.E * (0.05 / alone.size))
    assert both.z == 1.2j and both.size == pytest.approx(0.05)


def test_a_network_stands_for_its_recurrent_matrix_in_double_precision():
    network = mr.zoo.scornn(1, 6, 2)
    E, z, _ = worst_perturbation(network, eps=0.3)
    W = network.layer.weight_hh_l0.detach().double()
    assert E.dtype == REAL and distance(W + E, z) < ARRIVES and abs(z) == pytest.approx(1.3, rel=1e-5)


def test_the_source_is_left_alone_and_results_repeat():
    W = MATRICES["random"].clone()
    state = torch.get_rng_state()
    first, second = worst_perturbation(W, eps=0.2), worst_perturbation(W, eps=0.2)
    assert torch.equal(first.E, second.E) and torch.equal(W, MATRICES["random"])
    assert torch.equal(state, torch.get_rng_state())


BAD = {
    "not square": (lambda: worst_perturbation(torch.ones(2, 3)), ShapeError, "square"),
    "empty": (lambda: worst_perturbation(torch.ones(0, 0)), ShapeError, "at least 1"),
    "a batch": (lambda: worst_perturbation(torch.ones(2, 3, 3)), ShapeError, "one square"),
    "NaN": (lambda: worst_perturbation(torch.full((2, 2), math.nan)), NonFiniteError, "4 entries"),
    "no matrix": (lambda: worst_perturbation(torch.nn.Linear(2, 2)), OptionError, "recurrent"),
    "eps": (lambda: worst_perturbation(torch.eye(2), eps=0.0), OptionError, "positive"),
    "infinite eps": (lambda: worst_perturbation(torch.eye(2), eps=math.inf), OptionError, "inf"),
    "z": (lambda: worst_perturbation(torch.eye(2), math.nan), OptionError, "finite"),
    "z that is no number": (lambda: worst_perturbation(torch.eye(2), "1"), OptionError, "'1'"),
    "a complex z for size 1": (lambda: worst_perturbation(torch.eye(1), 1j), OptionError, "size 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


def least_real_size(W, z):
    """Largest over a scale of the second smallest singular value of the real form of ``zI - W``, from a fine grid."""
    scale = torch.logspace(-10, 0, 3000, dtype=REAL)[:, None, None]
    M = (z * torch.eye(len(W), dtype=COMPLEX) - W).expand(len(scale), -1, -1)
    rows = [torch.cat([M.real, -scale * M.imag], -1), torch.cat([M.imag / scale, M.real], -1)]
    return float(torch.linalg.svdvals(torch.cat(rows, -2))[:, -2].max())


@pytest.mark.parametrize("z", [1 + 1e-4j, 1 + 1e-8j, 0.3 + 0.5j])
@pytest.mark.parametrize("name", ["pair", "random", "orthogonal", "triangle", "identity"])
def test_no_real_perturbation_is_smaller_near_the_axis_or_far_from_it(name, z):
    W = torch.diag(torch.tensor([0.5, 0.4], dtype=REAL)) if name == "pair" else MATRICES[name]
    E, _, size = worst_perturbation(W, z)
    bound = least_real_size(W, z)
    assert bound * (1 - 1e-9) - 1e-12 <= size <= bound * 1.01 + 1e-9
    assert distance(W + E, z) < 2 * ARRIVES * max(1, float(torch.linalg.matrix_norm(W)))


@pytest.mark.parametrize("name", ["random", "complex", "orthogonal"])
def test_huge_matrices_do_not_overflow(name):
    W = MATRICES[name] * 1e307
    for z in (1e307, 1e307j, None):
        E, z, size = worst_perturbation(W, z)
        assert E.isfinite().all() and 0 < size < math.inf
        assert distance((W + E) / 1e307, z / 1e307) < ARRIVES


def test_an_eigenvalue_needs_no_perturbation():
    E, z, size = worst_perturbation(torch.diag(torch.tensor([1.0, 2.0, 3.0])), 2.0, eps=0.1)
    assert z == 2 and size == 0 and not E.any()
