"""Properties of every manifold with every retraction, at ordinary arguments and at the worst ones."""

import pytest
import torch
from hypothesis import strategies as st
from support.optimizer_cases import same
from support.properties import (
    GROUP_ROWS,
    LENGTHS,
    OURS,
    PATTERNS,
    ambient,
    assert_point,
    law,
    may_overflow,
    points,
    tolerance,
)
from support.tolerances import atol

from manifold_rnn import errors, linalg, manifolds

REFUSALS = (errors.NonFiniteError, errors.UnsupportedError, errors.OffManifoldError)


def refused_or(call, *args):
    """The result, or None where it is refused by a short message; arguments are left as they were in either case."""
    before = [a.clone() for a in args]
    message = ""
    try:
        result = call(*args)
    except REFUSALS as error:
        result, message = None, str(error)
    assert len(message) <= 400
    assert all(map(same, args, before))
    return result


def size(u):
    return float(u.abs().max()) if u.numel() else 0.0


@law(drawn=points(rows=OURS), length=LENGTHS, pattern=PATTERNS, recorded=st.booleans())
def test_every_map_along_any_finite_vector_ends_on_the_manifold_or_is_refused(drawn, length, pattern, recorded):
    m, x, g = drawn.manifold, drawn.x, ambient(drawn, pattern, length)
    c = m.to_coordinates(x, g)
    maps = {
        "retr": lambda: refused_or(m.retr, x, g),
        "expmap": lambda: refused_or(m.expmap, x, g),
        "retr_gradient": lambda: refused_or(lambda x, g: m.retr_gradient(x, g, -1.0), x, g),
        "retr_free": lambda: refused_or(m.retr_free, x, c),
    }
    for name, call in maps.items():
        with torch.set_grad_enabled(recorded):  # what nobody records takes shorter ways
            y = call()
        if y is None:
            steps = m.egrad2coordinates(x, g) if name == "retr_gradient" else c
            longest = float(torch.linalg.vector_norm(steps, dim=-1).max())
            assert size(g) > 1e10 or may_overflow(drawn, longest), name
        else:
            assert_point(drawn, y)


@law(drawn=points(rows=OURS), length=LENGTHS, pattern=PATTERNS)
def test_any_finite_matrix_is_projected_and_a_projection_stays_where_it_is(drawn, length, pattern):
    m, g = drawn.manifold, ambient(drawn, pattern, length)
    y = refused_or(m.projx, g)
    if y is None:
        assert size(g) > 1e30 or size(g) < 1e-35 or bool((g == 0).any())  # a zero vector has no direction
        return
    assert_point(drawn, y)
    torch.testing.assert_close(m.projx(y), y, atol=tolerance(y) * (1 + size(y)), rtol=0)


@law(drawn=points(), pattern=PATTERNS, exponent=PATTERNS.map(lambda p: len(p) - 8))
def test_gradients_are_tangent_and_transport_keeps_tangent_vectors_tangent(drawn, pattern, exponent):
    m, x, g = drawn.manifold, drawn.x, ambient(drawn, pattern, 10.0**exponent)
    u = m.egrad2rgrad(x, g)
    close = {"atol": 10 * tolerance(x) * 10.0**exponent, "rtol": 0}
    torch.testing.assert_close(m.proju(x, u), u, **close)
    v = m.proju(x, u)
    y = m.retr(x, 0.1 * m.proju(x, drawn.normal()))
    moved = m.transp(x, y, v)
    torch.testing.assert_close(m.proju(y, moved), moved, **close)
    if m.is_group:
        torch.testing.assert_close(m.norm(y, moved), m.norm(x, v), **close)


@law(drawn=points())
def test_a_step_of_zero_ends_where_it_began(drawn):
    m, x = drawn.manifold, drawn.x
    zero = torch.zeros_like(x)
    for y in (m.retr(x, zero), m.expmap(x, zero), m.retr_coordinates(x, m.to_coordinates(x, zero))):
        torch.testing.assert_close(y, x, atol=tolerance(x), rtol=0)


@law(
    drawn=points(rows=tuple(r for r in OURS if r[2] in (torch.float64, torch.complex128))),
    length=LENGTHS,
    recorded=st.booleans(),
)
def test_short_steps_agree_with_the_straight_line_to_first_order(drawn, length, recorded):
    m, x = drawn.manifold, drawn.x
    t = min(length, 1e-2)
    u = m.proju(x, drawn.normal())
    u = u / max(1.0, float(torch.linalg.vector_norm(u)))
    with torch.set_grad_enabled(recorded):
        ends = m.retr(x, t * u), m.expmap(x, t * u), m.retr_coordinates(x, m.to_coordinates(x, t * u))
    for y in ends:
        assert size(y - x - t * u) <= 3 * t**2 + 100 * atol(x.dtype)


@law(drawn=points(rows=OURS), length=LENGTHS)
def test_the_inverse_leads_back_or_is_refused(drawn, length):
    m, x = drawn.manifold, drawn.x
    u = m.proju(x, drawn.normal())
    u = u * (min(length, 0.5 if drawn.case.cone else 3.0) / max(size(u), 1e-3))
    y = m.retr(x, u)
    c = refused_or(m.inverse_retr_coordinates, x, y)
    if c is None:
        assert size(u) > 0.3 or not isinstance(m, manifolds.MatrixGroup)
        return
    # what leads far away is found with fewer digits
    back = m.retr_coordinates(x, c)
    if isinstance(m, manifolds.Grassmann):  # another basis of the same subspace
        back, y = back @ back.mH, y @ y.mH
    torch.testing.assert_close(back, y, atol=tolerance(x) * (1 + size(c)) ** 2, rtol=0)


@law(drawn=points(rows=GROUP_ROWS), pattern=PATTERNS)
def test_coordinates_are_an_isometry_of_tangent_vectors(drawn, pattern):
    m, x = drawn.manifold, drawn.x
    u, v = m.proju(x, ambient(drawn, pattern, 1.0)), m.proju(x, drawn.normal())
    a, b = m.to_coordinates(x, u), m.to_coordinates(x, v)
    torch.testing.assert_close((a * b).sum(-1), m.inner(x, u, v), atol=10 * tolerance(x), rtol=0)
    torch.testing.assert_close(m.from_coordinates(x, a), u, atol=10 * tolerance(x), rtol=0)


@law(drawn=points(rows=GROUP_ROWS, batches=((), (2,))), length=LENGTHS)
def test_the_logarithm_is_a_shortest_way_or_is_refused(drawn, length):
    m, x = drawn.manifold, drawn.x
    u = m.proju(x, drawn.normal())
    y = m.expmap(x, u * (min(length, 10.0) / max(size(u), 1e-3)))
    v = refused_or(m.logmap, x, y)
    if v is not None:
        torch.testing.assert_close(m.expmap(x, v), y, atol=1e3 * tolerance(x), rtol=0)
        assert bool((m.norm(x, v) <= torch.pi * x.shape[-1] ** 0.5 * 2 + 1e-3).all())


@law(drawn=points(rows=OURS, batches=((2,), (2, 2))), length=LENGTHS, pattern=PATTERNS)
def test_a_batch_is_its_points_one_by_one(drawn, length, pattern):
    m, x, g = drawn.manifold, drawn.x, ambient(drawn, pattern, min(length, 0.5 if drawn.case.cone else 1e2))
    together = m.retr(x, g)
    flat = x.flatten(0, x.ndim - m.ndim - 1), g.flatten(0, x.ndim - m.ndim - 1)
    alone = torch.stack([m.retr(a, b) for a, b in zip(*flat, strict=True)]).reshape(x.shape)
    # rounding the vector turns the result by its length
    torch.testing.assert_close(together, alone, atol=tolerance(x) * (1 + size(g)) * (1 + size(together)), rtol=0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("kind", ["Orthogonal", "Unitary", "SpecialOrthogonal", "SpecialUnitary", "UnitaryRealForm"])
def test_a_half_turn_is_refused_or_right_and_its_gradient_is_finite(kind, sign):
    for retraction in ("cayley", "exp", "polar", "qr"):
        m = getattr(manifolds, kind)(retraction)
        for dtype in (torch.complex64, torch.complex128) if m.is_complex else (torch.float32, torch.float64):
            x = m.origin(4, 4, dtype=dtype)
            c = refused_or(m.inverse_retr_coordinates, x, sign * x)
            assert c is None or size(m.retr_coordinates(x, c) - sign * x) < tolerance(x)
            free = torch.zeros(m.coordinate_shape((4, 4), dtype), dtype=dtype.to_real(), requires_grad=True)
            m.retr_free(sign * x, free).real.sum().backward()
            assert bool(free.grad.isfinite().all())


def test_angles_of_special_unitary_matrices_may_add_up_to_a_whole_turn(generator):
    m = manifolds.SpecialUnitary("exp")
    for angles in ([2.6, 2.4, -5.0], [-2.6, -2.4, 5.0], [3.0, 2.2, 2.0, -7.2], [3.0, 2.9, 2.7, -8.6], [0.1] * 3):
        theta = torch.tensor([*angles[:-1], -sum(angles[:-1])], dtype=torch.float64)
        V = manifolds.Unitary().random(len(theta), len(theta), dtype=torch.complex128, generator=generator)
        y = V * torch.polar(torch.ones_like(theta), theta) @ V.mH
        x = m.origin(len(theta), len(theta), dtype=y.dtype)
        v = m.logmap(x, y)
        torch.testing.assert_close(m.expmap(x, v), y, atol=1e-11, rtol=0)
        # of all choices of turns that add up to 0, none is shorter
        principal = torch.angle(torch.polar(torch.ones_like(theta), theta))
        turns = torch.cartesian_prod(*[torch.arange(-2, 3, dtype=torch.float64)] * len(theta))
        sums = principal + 2 * torch.pi * turns
        lengths = torch.linalg.vector_norm(sums[sums.sum(-1).abs() < 1e-9], dim=-1)
        assert float(m.norm(x, v)) <= float(lengths.min()) + 1e-9


def test_columns_of_vanishing_numbers_are_no_obstacle(generator):
    for dtype in (torch.float32, torch.complex64, torch.float64, torch.complex128):
        tiny = torch.finfo(dtype).tiny
        for scale in (1e-2 * tiny, tiny, 1e3 * tiny):
            x = torch.randn(5, 3, dtype=dtype, generator=generator)
            x[:, 1:] *= scale
            for factor in (linalg.qr(x)[0], manifolds.Stiefel().projx(x), linalg.polar(x)):
                assert float(linalg.defect(factor)) < 1e-5
            for result in (manifolds.Contraction(0.5).projx(x), manifolds.Stiefel("cayley").retr(factor, 1e10 * x)):
                assert bool(result.isfinite().all())
