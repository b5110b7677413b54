"""Laws of every function of linalg; a new one is tested by being exported, once it has a row in `ARGUMENT`."""

import contextlib

import numpy as np
import pytest
import torch
from support import naive
from support.selection import slow_but
from support.tolerances import atol

from manifold_rnn import errors, linalg
from manifold_rnn.linalg import product


def _skew(shape, dtype, generator):
    return linalg.skew(torch.randn(shape, dtype=dtype, generator=generator))


def _matrix(shape, dtype, generator):
    return torch.eye(shape[-1], dtype=dtype) + 0.3 * torch.randn(shape, dtype=dtype, generator=generator)


def _tall(shape, dtype, generator):
    return torch.cat([_matrix(shape, dtype, generator), _matrix(shape, dtype, generator)], -2)


def _unitary(shape, dtype, generator):
    return linalg.expm_skew(0.5 * _skew(shape, dtype, generator))


def _coordinates(shape, dtype, generator):
    return linalg.pack_skew(_skew(shape, dtype.to_real(), generator))


ARGUMENT = {
    "cayley": _skew,
    "cayley_series": _skew,
    "cayley_series_defect": None,  # of an angle, tested beside the series
    "cholesky_qr": _tall,
    "clip_singular_values": _tall,
    "defect": _tall,
    "expm_skew": _skew,
    "fixed_iterations": None,  # a context, tested below
    "logm_unitary": _unitary,
    "msign": _tall,
    "pack_skew": _skew,
    "polar": _tall,
    "polish": _tall,
    "qr": _tall,
    "skew": _matrix,
    "spectral_condition": _matrix,
    "spectral_radius": _matrix,
    "unpack_skew": _coordinates,
}
FUNCTIONS = [name for name in linalg.__all__ if ARGUMENT.get(name)]
SHAPES = [(1, 1), (5, 5), (0, 4, 4), (2, 3, 4, 4)]


def call(name, x):
    """All outputs of the function as one tuple."""
    y = getattr(linalg, name)(x)
    return y if isinstance(y, tuple) else (y,)


def scalar(name, x):
    return sum((torch.view_as_real(y) if y.is_complex() else y).sin().sum() for y in call(name, x))


def test_every_exported_name_has_a_row():
    assert set(ARGUMENT) == set(linalg.__all__)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_batch_is_its_matrices_one_by_one(name, shape, dtype, generator):
    x = ARGUMENT[name](shape, dtype, generator)
    together = call(name, x)
    batch = shape[:-2]
    assert all(y.shape[: len(batch)] == batch and y.dtype in (x.dtype, x.dtype.to_real()) for y in together)
    for index in np.ndindex(*batch):
        for y, alone in zip(together, call(name, x[index]), strict=True):
            torch.testing.assert_close(y[index], alone, atol=atol(dtype), rtol=atol(dtype))


@pytest.mark.parametrize("double", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_both_orders(name, double, generator):
    x = ARGUMENT[name]((2, 3, 3), double, generator).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: call(name, x), x)
    assert torch.autograd.gradgradcheck(lambda x: call(name, x), x)


@pytest.mark.parametrize("double", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vmap_of_the_map_and_of_its_gradient(name, double, generator):
    x = ARGUMENT[name]((3, 4, 4), double, generator)
    torch.testing.assert_close(torch.func.vmap(lambda x: call(name, x))(x), call(name, x))
    torch.testing.assert_close(torch.func.vmap(lambda x: call(name, x), in_dims=1)(x.movedim(0, 1)), call(name, x))
    each = torch.stack([torch.func.grad(lambda x: scalar(name, x))(matrix) for matrix in x])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda x: scalar(name, x)))(x), each)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
@pytest.mark.parametrize("name", slow_but({"cayley", "expm_skew", "polar", "qr"}, FUNCTIONS))
def test_compiles_in_one_graph(name, generator):
    x = ARGUMENT[name]((2, 4, 4), torch.float64, generator).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: scalar(name, x), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), scalar(name, x))
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(scalar(name, x), x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiles_with_the_default_backend(name, generator):
    x = ARGUMENT[name]((2, 4, 4), torch.float64, generator).requires_grad_()
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: scalar(name, x), fullgraph=True)
    torch.testing.assert_close(compiled(x), scalar(name, x))
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x), torch.autograd.grad(scalar(name, x), x))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_reading_no_number_from_the_device_changes_nothing(name, dtype, generator):
    x = ARGUMENT[name]((2, 4, 4), dtype, generator).requires_grad_()
    usual = [*call(name, x), *torch.autograd.grad(scalar(name, x), x)]
    with linalg.fixed_iterations():
        fixed = [*call(name, x), *torch.autograd.grad(scalar(name, x), x)]
    torch.testing.assert_close(fixed, usual, atol=10 * atol(dtype), rtol=10 * atol(dtype))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("single", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_autocast_changes_nothing(name, single, half, generator):
    x = ARGUMENT[name]((2, 4, 4), single, generator).requires_grad_()
    with torch.autocast("cpu", dtype=half):
        got, loss = [*call(name, x)], scalar(name, x)
    got += torch.autograd.grad(loss, x)
    expected = [*call(name, x), *torch.autograd.grad(scalar(name, x), x)]
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("name", ["cayley", "cholesky_qr", "expm_skew", "polar", "qr"])
def test_autocast_around_the_backward_pass_changes_no_adjoint(name, generator):
    x = ARGUMENT[name]((2, 4, 4), torch.float32, generator).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = torch.autograd.grad(scalar(name, x), x)
    assert torch.equal(got[0], torch.autograd.grad(scalar(name, x), x)[0])


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_half_precision_argument_is_computed_in_single_and_rounded_once(name, half, generator):
    x = ARGUMENT[name]((2, 4, 4), torch.float32, generator).to(half)
    for y, single in zip(call(name, x), call(name, x.float()), strict=True):
        assert torch.equal(y, single.to(half))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_keywords_and_their_refusals(name, generator):
    x = ARGUMENT[name]((4, 4), torch.float64, generator)
    f = getattr(linalg, name)
    keyword = f.__wrapped__.__code__.co_varnames[0]
    torch.testing.assert_close(f(**{keyword: x}), f(x))
    with pytest.raises(errors.DtypeError):
        f(x.long())
    with pytest.raises(errors.DtypeError, match="list"):
        f(x.tolist())
    with pytest.raises(errors.ShapeError):
        f(x.flatten()[:2] if name == "unpack_skew" else x[0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "pack_skew"])  # which reads off-diagonals only
def test_a_number_that_is_not_finite_is_never_hidden(name, bad, generator):
    for _ in range(20):
        x = ARGUMENT[name]((4, 4), torch.float32, generator).flatten()
        x[torch.randint(len(x), (), generator=generator)] = bad
        x = x if name == "unpack_skew" else x.unflatten(0, (-1, 4))
        for fixed in (contextlib.nullcontext(), linalg.fixed_iterations()):
            with fixed, contextlib.suppress(errors.NonFiniteError):
                assert not all(bool(y.isfinite().all()) for y in call(name, x))


@pytest.mark.parametrize("norm", [1e-2, 0.5, 5.0, 1e2, 1e4])
@pytest.mark.parametrize("single", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("name", naive.MAPS)
@pytest.mark.parametrize(("n", "spread"), [(3, False), (32, False), (32, True), (129, True)])
def test_single_precision_is_as_good_as_its_rounding_at_every_norm(name, single, norm, n, spread, generator):
    A = naive.random_skew(n, single, norm, generator, spread=spread)
    W = naive.wide(MAP[name](A))
    assert (W - naive.group_map(name, naive.wide(A))).abs().max() <= 1e-5
    assert linalg.defect(W) <= 1e-5 * max(1, n / 128)


MAP = {
    "cayley": linalg.cayley,
    "exp": linalg.expm_skew,
    "polar": lambda A: linalg.polar(naive.eye(A) + A),
    "qr": lambda A: linalg.cholesky_qr(naive.eye(A) + A)[0],
}
PAIRS = {
    "cayley": (lambda A: linalg.cayley(A), lambda A: naive.cayley(linalg.skew(A)), _skew),
    "expm_skew": (lambda A: linalg.expm_skew(A), lambda A: naive.exp(linalg.skew(A)), _skew),
    "logm_unitary": (lambda A: linalg.logm_unitary(linalg.expm_skew(A)), linalg.skew, _skew),
    "polar": (linalg.polar, naive.polar, _tall),
    "qr": (linalg.qr, naive.qr, _tall),
    "cholesky_qr": (linalg.cholesky_qr, naive.qr, _tall),
}


@pytest.mark.parametrize("double", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("scale", [0.01, 0.3])
@pytest.mark.parametrize("name", PAIRS)
def test_equals_the_naive_definition_in_value_and_gradient(name, scale, double, generator):
    fast, plain, argument = PAIRS[name]
    x = (scale * argument((2, 5, 5), double, generator)).requires_grad_()
    results = []
    for f in (fast, plain):
        y = f(x)
        y = y if isinstance(y, tuple) else (y,)
        weights = [torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(1)) for v in y]
        loss = sum((w.conj() * v).real.sum() for w, v in zip(weights, y, strict=True))
        results.append([*y, *torch.autograd.grad(loss, x)])
    torch.testing.assert_close(results[0], results[1], atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("batch", [(), (1,), (2,)], ids=str)
@pytest.mark.parametrize("n", [8, 200])  # the larger one goes to oneDNN where there is a call of it
def test_products_are_those_of_torch(n, batch, generator):
    C, X, Y = torch.randn(3, *batch, n, n, generator=generator)
    with torch.no_grad():
        for left, right in ((X, Y), (X.mT, Y), (X, Y.mT), (X.mT.contiguous().mT, Y)):
            expected = (left.double() @ right.double()).float()
            torch.testing.assert_close(product.multiply(left, right), expected, atol=1e-4, rtol=0)
            for beta, alpha in ((1, 1), (1.5, -0.5)):
                got = product.multiply_add(C, left, right, beta=beta, alpha=alpha)
                torch.testing.assert_close(got, beta * C + alpha * expected, atol=1e-4, rtol=0)
    X.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(product.multiply(X, Y).sum(), X)[0], torch.ones_like(X) @ Y.mT)


@pytest.mark.parametrize("transform", [torch.func.jacfwd, torch.func.jacrev, torch.func.vmap], ids=lambda f: f.__name__)
def test_what_was_first_computed_inside_a_transform_is_used_outside(transform, wide):
    n = 17 + 2 * wide.is_complex + (transform is torch.func.jacfwd) * 4 + (transform is torch.func.vmap) * 8
    size = n * n if wide.is_complex else n * (n - 1) // 2
    c = torch.zeros(3, size, dtype=torch.float64)

    def there_and_back(c):
        return linalg.pack_skew(linalg.unpack_skew(c, wide))

    transform(there_and_back)(c[:1] if transform is not torch.func.vmap else c)  # of this size for the first time
    assert torch.autograd.gradcheck(there_and_back, c[0].requires_grad_(), fast_mode=True)
    torch.testing.assert_close(
        torch.func.jacfwd(lambda t: there_and_back(c + t).sum())(torch.zeros(())),
        c.new_tensor(3.0 * size).to(torch.float32),
        check_dtype=False,
    )


@pytest.mark.parametrize("wide", [torch.float64, torch.complex128], ids=str)
@pytest.mark.parametrize("name", ["expm_skew", "cayley", "polar", "logm_unitary"])
def test_what_pulls_back_after_a_transform_has_ended_has_derivatives(name, wide, generator):
    x = ARGUMENT[name]((3, 3), wide, generator).requires_grad_()
    f = getattr(linalg, name)
    g = torch.randn(f(x).shape, dtype=wide, generator=generator, requires_grad=True)
    second = [
        torch.autograd.grad(pulled.abs().square().sum(), (x, g))
        for pulled in (torch.func.vjp(f, x)[1](g)[0], torch.autograd.grad(f(x), x, g, create_graph=True)[0])
    ]
    torch.testing.assert_close(*second, atol=1e-10, rtol=1e-10)
