"""Laws of every retraction; a new one is tested by being exported."""

import dataclasses
import pickle

import pytest
import scipy.linalg
import torch
from support import naive
from support.tolerances import atol

from manifold_rnn import Orthogonal, Unitary, errors, linalg, retractions

NOT_RETRACTIONS = {"Retraction", "get", "names"}
NAMES = sorted(set(retractions.__all__) - NOT_RETRACTIONS)
SHAPES = [(1, 1), (5, 5), (0, 4, 4), (2, 3, 4, 4)]
INVERSE_SLACK = 1e3  # an inverse is worse conditioned than the map


@pytest.fixture(params=NAMES)
def retraction(request):
    return getattr(retractions, request.param)()


@pytest.fixture(params=SHAPES, ids=str)
def A(request, dtype, generator):
    A = linalg.skew(torch.randn(request.param, dtype=dtype, generator=generator))
    return A * 0.8 / torch.linalg.matrix_norm(A, 2).clamp(min=0.8)[..., None, None]


@pytest.fixture
def x(A, generator):
    return linalg.qr(torch.randn(A.shape, dtype=A.dtype, generator=generator))[0]


@pytest.fixture
def close(dtype):
    return lambda a, b, slack=1: torch.testing.assert_close(a, b, atol=slack * atol(dtype), rtol=slack * atol(dtype))


def test_every_exported_class_can_be_named():
    assert {type(retractions.get(name)).__name__ for name in retractions.names()} == set(NAMES)


def test_is_a_value(retraction):
    again = type(retraction)()
    assert again == retraction and hash(again) == hash(retraction) and retractions.get(retraction.name) == retraction
    assert pickle.loads(pickle.dumps(retraction)) == retraction
    assert sum(retraction == retractions.get(name) for name in retractions.names()) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        retraction.name = "other"


def test_maps_the_algebra_to_the_group_and_zero_to_the_identity(retraction, A, close):
    W, eye = retraction.group_map(A), naive.eye(A).expand_as(A)
    assert W.shape == A.shape and W.dtype == A.dtype
    close(W.mH @ W, eye)
    close(retraction.group_map(0 * A), eye)


def test_agrees_with_the_definition_in_double(retraction, A, close):
    expected = naive.group_map(retraction.name, naive.wide(A)).to(A.dtype) if A.numel() else A
    close(retraction.group_map(A), expected)


def test_ignores_the_part_of_the_argument_that_is_not_tangent(retraction, A, x, close):
    H = torch.randn_like(A)
    close(retraction.group_map(A + H + H.mH), retraction.group_map(A))
    close(retraction.retract(x, x @ (A + H + H.mH)), retraction.retract(x, x @ A))


@pytest.mark.parametrize("norm", [1e-8, 1e-4, 1e-2, 0.1, 0.5, 2.0, 20.0])
def test_what_nobody_records_is_what_is_recorded(retraction, A, x, norm, close):
    u = x @ (norm * A)
    recorded = retraction.translate(x, norm * A), retraction.retract(x, u), retraction.group_map(norm * A)
    with torch.no_grad():  # where optimizers take shorter ways
        close((retraction.translate(x, norm * A), retraction.retract(x, u), retraction.group_map(norm * A)), recorded)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)  # double is the reference
@pytest.mark.parametrize("n", [2, 24, 96])
@pytest.mark.parametrize("length", [1e-9, 1e-5, 3e-4, 1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 0.06, 0.1, 0.2, 0.4])
def test_what_a_series_leaves_out_is_no_more_than_rounding(retraction, n, length, dtype, generator):
    A = linalg.skew(torch.randn(1, n, n, dtype=dtype, generator=generator))
    A = A * (length * n**0.5 / torch.linalg.matrix_norm(A))
    x = linalg.qr(torch.randn(1, n, n, dtype=dtype, generator=generator))[0]
    with torch.no_grad():
        y = retraction.translate(x, A)
    expected = naive.wide(x) @ naive.group_map(retraction.name, naive.wide(A))
    error = torch.linalg.matrix_norm(naive.wide(y) - expected)
    slack = 1.0 if retraction.self_correcting else 0.0  # the others keep the defect of x
    rounding = linalg.defect(naive.wide(x)) * slack + 4 * torch.finfo(dtype).eps * n**0.5
    assert error <= rounding


def test_is_left_invariant(retraction, A, x, close):
    close(retraction.retract(x, x @ A), x @ retraction.group_map(A))
    close(retraction.translate(x, A), x @ retraction.group_map(A))


def test_inverse_undoes_it(retraction, A, x, close):
    close(retraction.inverse_group_map(retraction.group_map(A)), A, INVERSE_SLACK)
    close(retraction.inverse(x, retraction.retract(x, x @ A)), x @ A, INVERSE_SLACK)


def test_a_self_correcting_retraction_leaves_less_drift_than_it_found(retraction, generator):
    x = linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator))[0] * (1 + 1e-6)
    y = retraction.retract(x, 0.1 * x @ linalg.skew(torch.randn(6, 6, dtype=torch.float64, generator=generator)))
    assert (linalg.defect(y) < 1e-12) == retraction.self_correcting


@pytest.mark.parametrize("group", [Orthogonal(), Unitary()], ids=lambda g: g.name)
def test_claims_an_order_on_groups_and_refuses_to_guess_elsewhere(retraction, group):
    assert retraction.order(group) in (1, 2)
    with pytest.raises(errors.UnsupportedError, match="check_retraction"):
        retraction.order(object())


@pytest.mark.parametrize("norm", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("double", [torch.float64, torch.complex128], ids=str)
def test_exponential_equals_scipy(double, norm, generator):
    A = naive.random_skew(6, double, norm, generator)
    expected = torch.from_numpy(scipy.linalg.expm(A.numpy()))
    torch.testing.assert_close(retractions.Exponential().group_map(A), expected, atol=1e-13, rtol=0)


def test_a_tangent_that_is_not_finite_is_refused(retraction, dtype, generator):
    for bad in (torch.nan, torch.inf, -torch.inf):
        for _ in range(10):
            x = linalg.qr(torch.randn(4, 4, dtype=dtype, generator=generator))[0]
            u = x @ linalg.skew(torch.randn(4, 4, dtype=dtype, generator=generator))
            index = tuple(torch.randint(4, (2,), generator=generator))
            with pytest.raises(errors.NonFiniteError):
                retraction.retract(x, u.index_put(index, torch.tensor(bad, dtype=dtype)))
            with pytest.raises(errors.NonFiniteError):
                retraction.inverse(x, x.index_put(index, torch.tensor(bad, dtype=dtype)))


OUT_OF_REACH = {
    "Cayley": [-1.0],
    "Exponential": [-1.0],
    "Polar": [-1.0, -0.3],
    "QR": [-1.0, -0.3],
}


@pytest.mark.parametrize("name", NAMES)
def test_inverse_refuses_what_the_map_does_not_reach(name, dtype):
    for cosine in OUT_OF_REACH[name]:
        Q = torch.eye(4, dtype=dtype)
        sine = (1 - cosine**2) ** 0.5
        Q[:2, :2] = torch.tensor([[cosine, -sine], [sine, cosine]], dtype=dtype)
        with pytest.raises(errors.OffManifoldError):
            getattr(retractions, name)().inverse_group_map(torch.stack([torch.eye(4, dtype=dtype), Q]))


TALL = {
    "Cayley": lambda x, u: naive.cayley(_generator(x, u)) @ x,
    "Exponential": lambda x, u: naive.group_map("exp", _generator(x, u)) @ x,
    "Polar": lambda x, u: naive.polar(x + u),
    "QR": lambda x, u: naive.qr(x + u)[0],
}


def _generator(x, u):
    """The n x n skew-Hermitian ``Omega`` with ``Omega x = u``."""
    Pu = u - 0.5 * x @ (x.mH @ u)
    return Pu @ x.mH - x @ Pu.mH


@pytest.fixture(params=[(3, 1), (2, 6, 3), (0, 4, 2)], ids=str)
def frame(request, dtype, generator):
    x = linalg.qr(torch.randn(request.param, dtype=dtype, generator=generator))[0]
    u = 0.3 * torch.randn(request.param, dtype=dtype, generator=generator)
    return x, u - x @ (0.5 * (x.mH @ u + u.mH @ x))


def test_tall_points_move_as_defined(retraction, frame, close):
    x, u = frame
    y = retraction.retract(x, u)
    close(y, TALL[type(retraction).__name__](x, u))
    close(y.mH @ y, naive.eye(x.mH @ x).expand_as(x.mH @ x))
    close(retraction.retract(x, 0 * u), x)


def test_tall_inverse_undoes_it_or_is_refused_by_name(retraction, frame, close):
    x, u = frame
    if retraction.name == "exp":
        with pytest.raises(errors.UnsupportedError, match="Cayley"):
            retraction.inverse(x, x)
    else:
        close(retraction.inverse(x, retraction.retract(x, u)), u, INVERSE_SLACK)


def test_tall_gradients_of_both_orders(retraction, generator):
    for dtype in (torch.float64, torch.complex128):
        x = linalg.qr(torch.randn(4, 2, dtype=dtype, generator=generator))[0]
        u = torch.randn(4, 2, dtype=dtype, generator=generator).requires_grad_()
        assert torch.autograd.gradcheck(lambda u, x=x: retraction.retract(x, u), u)
        assert torch.autograd.gradgradcheck(lambda u, x=x: retraction.retract(x, u), u)


@pytest.mark.parametrize("norm", [0.01, 0.5, 5.0, 1e2, 1e4])
@pytest.mark.parametrize("size", [(8, 8), (128, 128), (32, 8), (256, 16)], ids=str)
@pytest.mark.parametrize("single", [torch.float32, torch.complex64], ids=str)
def test_steps_of_any_length_agree_with_the_definition_in_double(retraction, single, size, norm, generator):
    x = linalg.qr(torch.randn(size, dtype=single, generator=generator))[0]
    u = torch.randn(size, dtype=single, generator=generator)
    u = u - x @ (0.5 * (x.mH @ u + u.mH @ x))
    u = u * (norm / torch.linalg.matrix_norm(u, 2))
    y = naive.wide(retraction.retract(x, u))
    point, vector = naive.polar(naive.wide(x)), naive.wide(u)  # the point that x is but for its rounding
    if size[0] == size[1]:
        expected = point @ naive.group_map(retraction.name, linalg.skew(point.mH @ vector))
    else:
        vector = vector - point @ (0.5 * (point.mH @ vector + vector.mH @ point))
        expected = TALL[type(retraction).__name__](point, vector)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=0)
    assert linalg.defect(y) <= 1e-5 * max(1, size[0] / 128)
