"""A recorded point times a map of a skew matrix, compiled and not, against the two factors that torch derives."""

import contextlib

import pytest
import torch
from support import naive
from support.tolerances import atol
from torch.fx.experimental.proxy_tensor import make_fx

from manifold_rnn import errors, linalg, manifolds
from manifold_rnn._kernels import loading, translations
from manifold_rnn.linalg import translation

KINDS = ["cayley", "expm"]
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]
REAL = DTYPES[:2]
SIZES = [2, 3, 15, 16, 17, 33, 64, 128, 130]
NORMS = [0.0, 1e-8, 1e-3, 0.1, 0.5, 1.0, 1.9, 3.0, 40.0]  # of the matrix


def case(n, norm, dtype, generator):
    """A point, coordinates of a matrix of that spectral norm, and a gradient."""
    x = linalg.qr(torch.randn(n, n, dtype=dtype, generator=generator))[0]
    A = naive.random_skew(n, dtype, 1.0, generator) if n > 1 or dtype.is_complex else torch.zeros(n, n, dtype=dtype)
    c = linalg.pack_skew(norm * A).requires_grad_()
    return x, c, torch.randn(n, n, dtype=dtype, generator=generator)


def reference(kind, x, c):
    """By torch's solver or exponential, in double precision."""
    A = linalg.unpack_skew(c, x.dtype)
    return x @ (naive.cayley(A) if kind == "cayley" else naive.exp(A))


def coordinates(kind, x, c):
    return getattr(translation, f"{kind}_coordinates")(x, c)


def gradients(value, inputs, g, **options):
    return torch.autograd.grad(value, inputs, g, **options)


def assert_equals_reference(kind, n, dtype, generator, norms=NORMS):
    for norm in norms:
        x, c, g = case(n, norm, dtype, generator)
        wide = naive.wide(x), c.detach().double().requires_grad_()
        for gradient in (g, g.mT, g[:1, :1].expand(n, n)):
            W = coordinates(kind, x, c)
            (got,) = gradients(W, c, gradient)
            expected = reference(kind, *wide)
            (exact,) = gradients(expected, wide[1], naive.wide(gradient))
            room = atol(dtype) * (1 + norm)  # rounding the coordinates rotates the weight
            assert (naive.wide(W) - expected).abs().max() <= room, norm
            assert torch.linalg.vector_norm(got - exact) <= room * torch.linalg.matrix_norm(naive.wide(gradient)), norm


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_those_of_the_definition(kind, dtype, n, generator):
    assert_equals_reference(kind, n, dtype, generator)


@pytest.mark.parametrize("variant", ["avx512", "avx2", "baseline"])
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_every_library_of_this_processor_gives_the_same(kind, dtype, variant, monkeypatch, generator):
    if variant not in loading.runnable_variants() or loading.library() is None:
        pytest.skip(f"this processor or installation has no {variant}")
    monkeypatch.setattr(loading, "runnable_variants", lambda: (variant,))
    assert_equals_reference(kind, 45, dtype, generator, [0.01, 0.4, 1.2])


@pytest.mark.parametrize("shape", [(7, 7), (2, 5, 5)])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_both_factors_have_their_gradients(kind, dtype, shape, generator):
    x = torch.randn(shape, dtype=dtype, generator=generator).requires_grad_()
    for norm in (0.0, 0.01, 1.0, 5.0):
        A = (norm * linalg.skew(torch.randn(shape, dtype=dtype, generator=generator))).requires_grad_()
        g = torch.randn(shape, dtype=dtype, generator=generator)
        got = gradients(getattr(translation, f"{kind}_times")(x, A), (x, A), g)
        wide = [naive.wide(t.detach()).requires_grad_() for t in (x, A)]
        W = wide[0] @ (naive.cayley(wide[1]) if kind == "cayley" else naive.exp(wide[1]))
        exact = gradients(W, wide, naive.wide(g))
        scale = 20 * (1 + norm) * float(torch.linalg.vector_norm(g)) * float(torch.linalg.vector_norm(x.detach()))
        assert (got[0] - exact[0]).abs().max() <= atol(dtype) * scale
        assert (linalg.skew(got[1]) - linalg.skew(exact[1])).abs().max() <= atol(dtype) * scale


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_second_derivatives_and_many_gradients_at_once_are_those_of_the_definition(kind, dtype, generator):
    x, c, g = case(4, 0.7, dtype, generator)
    assert torch.autograd.gradgradcheck(lambda c: coordinates(kind, x, c), c)
    A = linalg.unpack_skew(c.detach(), dtype).requires_grad_()
    assert torch.autograd.gradgradcheck(lambda A: getattr(translation, f"{kind}_times")(x, linalg.skew(A)), A)
    W = coordinates(kind, x, c)
    rows = torch.stack([g, g.mT, 2 * g])
    (together,) = gradients(W, c, rows, is_grads_batched=True, retain_graph=True)
    alone = torch.stack([gradients(W, c, row, retain_graph=True)[0] for row in rows])
    assert (together - alone).abs().max() <= atol(dtype) * 10


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_and_forward_mode_see_the_same_function(kind, generator):
    x, c, _ = case(5, 0.4, torch.float64, generator)
    c = c.detach()

    def weight(c):
        return coordinates(kind, x, c)

    jacobian = torch.autograd.functional.jacobian(weight, c)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert (transform(weight)(c) - jacobian).abs().max() <= atol(torch.float64) * 10
    batch = torch.stack([c, 2 * c])
    assert torch.allclose(torch.func.vmap(weight)(batch), torch.stack([weight(c), weight(2 * c)]), atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_a_result_may_be_written_into_and_the_point_may_not(kind, generator):
    x, c, g = case(6, 0.4, torch.float32, generator)
    (expected,) = gradients(2 * coordinates(kind, x, c), c, g)
    assert torch.equal(gradients(coordinates(kind, x, c).mul_(2), c, g)[0], expected)
    W = coordinates(kind, x, c)
    x.mul_(2)
    with pytest.raises(RuntimeError, match="inplace"):
        gradients(W, c, g)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_finite_is_not_hidden(kind, generator):
    x, c, _ = case(6, 0.4, torch.float32, generator)
    for value in (torch.nan, torch.inf):
        with torch.no_grad():
            c[3] = value
        with contextlib.suppress(errors.NonFiniteError):
            assert not coordinates(kind, x, c).isfinite().all()


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_memory_that_holds_a_negative_or_a_transpose_is_read_as_such(kind, dtype, generator):
    x, c, g = case(2, 0.5, dtype, generator)
    (expected,) = gradients(coordinates(kind, x, c), c, g)
    negative = torch.complex(torch.zeros_like(c), -c.detach()).conj().requires_grad_().imag
    assert negative.is_neg() and negative.is_contiguous()
    assert torch.equal(coordinates(kind, x, negative), coordinates(kind, x, c))
    assert torch.equal(gradients(coordinates(kind, x, negative), negative, g)[0], expected)
    x, c, g = case(9, 0.5, dtype, generator)
    (expected,) = gradients(coordinates(kind, x, c), c, g)

    def columns(t):
        return t.mT.contiguous().mT if t.ndim == 2 else torch.stack([t, t], -1)[:, 0]

    with torch.autograd.graph.saved_tensors_hooks(columns, lambda t: t):
        W = coordinates(kind, columns(x), columns(c))
    assert torch.equal(gradients(W, c, columns(g))[0], expected)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.bfloat16(), lambda t: t):  # and forgets to widen
        W = coordinates(kind, x, c)
    assert torch.allclose(gradients(W, c, g)[0], expected, atol=0.1)


@pytest.mark.parametrize("n", [6, 70])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_of_the_backward_pass_and_a_sparse_gradient_see_the_same_function(kind, n, generator):
    x, c, g = case(n, 0.7, torch.float64, generator)
    W = coordinates(kind, x, c)

    def backward(g):
        return gradients(W, c, g, retain_graph=True)[0]

    for other in (2 * g, g.mT):
        assert (make_fx(backward)(g)(other) - backward(other)).abs().max() <= atol(g.dtype) * 10
    eye = torch.eye(n, dtype=g.dtype)
    assert (backward(eye.to_sparse()) - backward(eye)).abs().max() <= atol(g.dtype) * 10


@pytest.mark.parametrize("shape", [(5, 7), (9, 7), (8, 8), (7,)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_point_of_another_shape_is_refused(kind, shape):
    with pytest.raises(errors.ShapeError):
        coordinates(kind, torch.ones(shape), torch.zeros(21, requires_grad=True))


@pytest.mark.parametrize("kind", KINDS)
def test_one_row_has_no_coordinates_and_an_empty_gradient(kind):
    x, c = -torch.ones(2, 1, 1), torch.zeros(2, 0, requires_grad=True)
    W = coordinates(kind, x, c)
    assert torch.equal(W, x) and gradients(W.sum(), c, None)[0].shape == (2, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_what_earlier_calls_left_in_memory_changes_nothing(kind, generator):
    if loading.library() is None:
        pytest.skip("the package was installed without compiled kernels")
    for n in (2, 15, 16, 17, 33, 65):
        for norm in (1e-3, 0.5, 1.9, 2.9):
            x, c, g = case(n, norm, torch.float32, generator)
            results = []
            for value in (0.0, torch.nan):
                translations._memory(n, torch.float32).fill_(value)
                W = coordinates(kind, x, c)
                translations._memory(n, torch.float32).fill_(value)
                results.append((W.detach(), *gradients(W, c, g)))
            assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), (n, norm)


@pytest.mark.parametrize("kind", KINDS)
def test_two_weights_in_turn_do_not_share_memory(kind, generator):
    cases = [case(n, 0.5, torch.float32, generator) for n in (24, 40, 24)]
    results = [coordinates(kind, x, c) for x, c, _ in cases]
    for W, (x, c, g) in zip(results, cases, strict=True):
        (got,) = gradients(W, c, g)
        (alone,) = gradients(coordinates(kind, x, c), c, g)
        assert torch.equal(got, alone) and torch.equal(W, coordinates(kind, x, c))


@pytest.mark.parametrize("n", [1, 8, 128, 200])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_is_the_same_whether_somebody_records_or_not(kind, dtype, n, generator):
    for norm in NORMS:
        x, c, _ = case(n, norm, dtype, generator)
        with torch.no_grad():
            W = coordinates(kind, x, c)
        assert torch.equal(W, coordinates(kind, x, c)), norm


@pytest.mark.parametrize("norm", [1e-6, 1e-3, 0.3, 2.0, 10.0])
@pytest.mark.parametrize("dtype", DTYPES[2:], ids=str)
@pytest.mark.parametrize("retraction", ["cayley", "exp"])
def test_so_is_one_whose_coordinates_are_its_own(retraction, dtype, norm, generator):
    group = manifolds.SpecialUnitary(retraction)
    for shape in ((3, 3), (2, 5, 5), (70, 70)):
        x = group.random(shape, dtype=dtype, generator=generator)
        u = torch.randn(group.coordinate_shape(shape), dtype=dtype.to_real(), generator=generator)
        c = (norm / torch.linalg.vector_norm(u) * u).requires_grad_()
        with torch.no_grad():
            W = group.retr_coordinates(x, c)
        assert torch.equal(W, group.retr_coordinates(x, c)), shape
