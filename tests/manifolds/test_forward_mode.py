"""Every map in forward mode, against differences and reverse mode; traces of weights hold for other numbers."""

import pytest
import torch
from support.constraint_cases import constrained, supported
from support.manifold_cases import PAIRS, ids
from support.selection import sample, slow_but
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp
from torch.fx.experimental.proxy_tensor import make_fx

MAPS = {"retr": "xu", "retr_free": "xc", "egrad2coordinates": "xg", "projx": "o", "polish": "o", "proju": "xg"}
ROWS = [(case, r, name) for case, r in PAIRS for name in MAPS if case.retractions != ("own",)]
ORDERS = {"fr": (jacfwd, jacrev), "rf": (jacrev, jacfwd), "ff": (jacfwd, jacfwd)}
WEIGHTS = supported(torch.float64)


def inputs(case, m, name, generator):
    x = case.point((), generator)
    u = 0.4 * m.proju(x, torch.randn(x.shape, dtype=x.dtype, generator=generator))
    g = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    given = {"x": x, "u": u, "g": g, "c": m.to_coordinates(x, u), "o": x + 0.05 * g}
    return [given[key] for key in MAPS[name]]


def scalar(y):
    return (torch.view_as_real(y) if y.is_complex() else y).pow(3).sum()


@pytest.mark.parametrize(("case", "retraction", "name"), sample(ROWS, 2), ids=ids)
def test_a_derivative_in_forward_mode_is_the_limit_of_differences(case, retraction, name, generator):
    m = case.make(retraction)
    x, f = inputs(case, m, name, generator), getattr(m, name)
    t = [torch.randn(a.shape, dtype=a.dtype, generator=generator) for a in x]
    for g in (f, grad(lambda *a: scalar(f(*a)), argnums=len(x) - 1)):  # and forward over reverse
        _, slope = jvp(g, tuple(x), tuple(t))
        ahead, behind = (g(*(a + h * b for a, b in zip(x, t, strict=True))) for h in (1e-6, -1e-6))
        torch.testing.assert_close(slope, (ahead - behind) / 2e-6, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [1e2, 1e6])
@pytest.mark.parametrize("name", ["retr", "expmap"])
@pytest.mark.parametrize(("case", "retraction"), [(c, r) for c, r in PAIRS if c.make(r).is_orthonormal], ids=ids)
def test_a_long_step_has_the_same_derivative_in_both_modes(case, retraction, name, size, generator):
    m = case.make(retraction)
    x = case.point((), generator)
    u = size * m.proju(x, torch.randn(x.shape, dtype=x.dtype, generator=generator))
    t = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for _ in "xu"]
    y, slope = jvp(getattr(m, name), (x, u), tuple(t))
    same, pull = vjp(getattr(m, name), x, u)
    pulled = pull(slope)
    torch.testing.assert_close(y, same, atol=1e-12, rtol=0)
    reverse = sum((g.conj() * d).real.sum() for g, d in zip(pulled, t, strict=True))
    torch.testing.assert_close(reverse, slope.abs().square().sum(), atol=0, rtol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("case", "retraction"),
    [(c, r) for c, r in PAIRS if c.name in ("Orthogonal", "Stiefel") and c.shape[-1] < 5],
    ids=ids,
)
def test_second_derivatives_agree_in_every_order(case, retraction, order, generator):
    m = case.make(retraction)
    x, c = inputs(case, m, "retr_free", generator)
    outer, inner = ORDERS[order]
    f = lambda c: scalar(m.retr_free(x, c))  # noqa: E731
    torch.testing.assert_close(outer(inner(f))(c), jacrev(jacrev(f))(c), atol=1e-8, rtol=1e-8)


def loss_of(layer):
    def loss(parameters):
        return scalar(functional_call(layer, parameters, (torch.ones(2, layer.in_features, dtype=torch.float64),)))

    return loss, {name: p.detach().clone() for name, p in layer.named_parameters()}


@pytest.mark.parametrize(("name", "view", "dtype"), WEIGHTS)
def test_weights_of_both_views_have_forward_derivatives(name, view, dtype):
    loss, p = loss_of(constrained(name, view, dtype))
    t = {key: torch.randn_like(value) for key, value in p.items()}
    slope = sum((g * t[key]).sum() for key, g in grad(loss)(p).items())
    torch.testing.assert_close(jvp(loss, (p,), (t,))[1], slope, atol=1e-9, rtol=1e-9)
    if name in ("Orthogonal", "UnitDisc", "Rotations"):
        torch.testing.assert_close(hessian(loss)(p), jacrev(jacrev(loss))(p), atol=1e-7, rtol=1e-7)


def traces():
    """A third of them by default; that of a spectral radius has 58 squarings and takes seconds."""
    rows = [(*row, every) for row in WEIGHTS for every in (None, 1) if row[1] == "trivialized"]
    slow = ("UnitDisc", "SpectralScaled", "StickyDisc", "triangle", "enrnn")
    quick = [row for row in rows if not row[0].startswith(slow)][::3]
    return slow_but(quick, rows)


@pytest.mark.parametrize("case", traces(), ids=str)
def test_a_graph_of_a_weight_holds_for_other_numbers(case):
    name, view, dtype, every = case
    try:
        layer = constrained(name, view, dtype, rebase_every=every)
        if layer is None:
            return
    except TypeError:
        return
    loss, p = loss_of(layer)
    for f in (loss, grad(loss)):
        graph = make_fx(f)(p)
        for scale in (0.0, 2.0):
            other = {key: value + scale * torch.ones_like(value) for key, value in p.items()}
            torch.testing.assert_close(graph(other), f(other), atol=1e-8, rtol=1e-8)
