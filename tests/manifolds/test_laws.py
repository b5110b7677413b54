"""Laws of every manifold with every retraction; `cases` enumerates them."""

import copy
import pickle

import geoopt
import pytest
import torch
from support.manifold_cases import ALL, CASES, GROUP_PAIRS, GROUPS, PAIRS, ids

from manifold_rnn import errors, linalg, manifolds, testing

ROUNDING = 1e-13
BATCHES = [(), (3,), (0,), (2, 2)]


@pytest.fixture(params=BATCHES, ids=lambda b: f"batch{b}")
def batch(request):
    case = request.node.callspec.params.get("case")
    if request.param == (0,) and case is not None and case.name == "Sphere":
        pytest.skip("geoopt's sphere fails on an empty batch")
    return request.param


def directions(m, x, generator, count=2, norm=0.5):
    """Random tangent vectors, each matrix of that norm."""
    for _ in range(count):
        u = m.proju(x, torch.randn(x.shape, dtype=x.dtype, generator=generator))
        size = torch.linalg.vector_norm(u, dim=tuple(range(-m.ndim, 0)), keepdim=True)
        yield u * norm / size


def test_every_exported_name_has_a_row():
    assert set(CASES) == set(manifolds.__all__)
    made = {type(case.make("cayley")) for case in ALL}
    classes = {v for v in vars(manifolds).values() if isinstance(v, type) and issubclass(v, manifolds.Manifold)}
    assert {cls for cls in classes if CASES[cls.__name__]} <= made


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_projections_metric_transport_and_coordinates(case, batch, generator):
    m = case.make("cayley")
    report = testing.check_manifold(m, case.point(batch, generator), atol=ROUNDING, strict=True)
    if case in GROUPS:
        assert report.transport_isometry <= ROUNDING and report.exp_log is not None


@pytest.mark.parametrize(("case", "retraction"), PAIRS, ids=ids)
def test_retraction_has_its_order(case, retraction, batch, generator):
    m = case.make(retraction)
    report = testing.check_retraction(m, case.point(batch, generator), atol=10 * ROUNDING, strict=True)
    if case in GROUPS:
        assert report.order == m.retraction.order(m) == (1 if retraction == "qr" else 2)
        assert report.inverse is not None
        if retraction == "qr" and batch != (0,):
            assert report.geodesic_order < 2.5  # the test can tell the orders apart


@pytest.mark.parametrize(("case", "retraction"), [(c, r) for c, r in PAIRS if c.retractions != ("own",)], ids=ids)
def test_a_reversible_manifold_is_one_where_a_step_can_be_undone(case, retraction, generator):
    m = case.make(retraction)
    x = case.point((), generator)
    (u,) = directions(m, x, generator, count=1)
    y, v = m.retr_transp(x, u, u)
    error = float((m.retr(y, -v) - x).abs().max())
    bounded = any(isinstance(part, manifolds.Region) and not part.is_flat for part in m.modules())
    if m.reversible or not bounded:  # a step in a region can be undone but for its boundary
        assert (error <= 100 * ROUNDING) == m.reversible


@pytest.mark.parametrize(("case", "retraction"), PAIRS, ids=ids)
def test_gradient_is_the_slope_along_the_retraction(case, retraction, batch, generator):
    m = case.make(retraction)
    testing.check_gradient(m, None, case.point(batch, generator), rtol=1e-6, atol=ROUNDING, strict=True)


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_points_pass_and_others_fail_geoopt_s_own_checks(case, batch, generator):
    m, x = case.make("cayley"), case.point(batch, generator)
    (u,) = directions(m, x, generator, 1)
    m.assert_check_point_on_manifold(x)
    m.assert_check_vector_on_tangent(x, u)
    m.require(x)
    if x.numel() and not m.is_flat:
        assert not m.check_point_on_manifold((1e4 if case.solid else -1.0 if case.cone else 1.1) * x)
        assert case.solid or not m.check_vector_on_tangent(x, u + (x.triu(1) if case.cone else x))
    if case in GROUPS:
        assert not m.check_point(x[..., :-1])


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_shapes_are_those_of_the_batch(case, batch, generator):
    m, x = case.make("cayley"), case.point(batch, generator)
    u, v = directions(m, x, generator)
    axes = (1,) * m.ndim
    assert m.inner(x, u, v).shape == m.norm(x, u).shape == m.defect(x).shape == batch
    assert m.inner(x, u, v, keepdim=True).shape == m.norm(x, u, keepdim=True).shape == (*batch, *axes)
    assert not m.inner(x, u, v).is_complex()
    c = m.to_coordinates(x, u)
    assert c.shape == m.coordinate_shape(tuple(x.shape), x.dtype) and not c.is_complex()
    assert m.random(tuple(x.shape), dtype=x.dtype).shape == x.shape


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_one_point_takes_many_vectors_and_many_points_take_one(case, generator):
    m, points = case.make("cayley"), case.point((3,), generator)
    x = points[0]
    vectors = torch.stack(list(directions(m, x, generator, count=3, norm=0.2)))
    c = torch.stack([m.to_coordinates(x, u) for u in vectors])
    for name, many in {
        **dict.fromkeys(("proju", "egrad2rgrad", "retr", "to_coordinates", "egrad2coordinates"), vectors),
        **dict.fromkeys(("from_coordinates", "retr_coordinates"), c),
    }.items():
        call = getattr(m, name)
        torch.testing.assert_close(call(x, many), torch.stack([call(x, one) for one in many]), msg=name)
        expected = torch.stack([call(p, many[0]) for p in points])
        torch.testing.assert_close(call(points, many[0]).expand_as(expected), expected, msg=name)
    torch.testing.assert_close(m.inner(x, vectors, vectors), torch.stack([m.inner(x, u, u) for u in vectors]))
    torch.testing.assert_close(m.norm(x, vectors), torch.stack([m.norm(x, u) for u in vectors]))


@pytest.mark.parametrize("case", [case for case in ALL if isinstance(case.make("cayley"), manifolds.Parts)], ids=ids)
def test_a_vector_of_another_shape_is_refused(case, generator):
    m, x = case.make("cayley"), case.point((), generator)
    for shape in ((1, *x.shape[1:]), (*x.shape[:-1], 1), (*x.shape[:-1], x.shape[-1] + 2), ()):
        for name in ("proju", "retr", "to_coordinates", "logmap", "retr_gradient"):
            u = torch.ones(shape, dtype=x.dtype)
            with pytest.raises(errors.ShapeError):
                getattr(m, name)(x, u, *([0.1] if name == "retr_gradient" else []))


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_arguments_are_left_as_they_were(case, generator):
    m, x = case.make("cayley"), case.point((2,), generator)
    u, v = directions(m, x, generator)
    y, c = m.retr(x, u), m.to_coordinates(x, u)
    before = [t.clone() for t in (x, u, v, y, c)]
    m.projx(x), m.proju(x, u), m.egrad2rgrad(x, u), m.retr(x, u), m.expmap(x, u), m.transp(x, y, v), m.inner(x, u, v)
    m.to_coordinates(x, u), m.retr_coordinates(x, c), m.polish(x), m.defect(x), m.retr_transp_coordinates(x, c, c)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, u, v, y, c), strict=True))


@pytest.mark.parametrize(("case", "retraction"), PAIRS, ids=ids)
def test_a_step_in_coordinates_is_the_retraction_and_the_transport(case, retraction, generator):
    m, x = case.make(retraction), case.point((2,), generator)
    u, v = directions(m, x, generator)
    c, d = m.to_coordinates(x, u), m.to_coordinates(x, v)
    y, moved = m.retr_transp_coordinates(x, c, d)
    torch.testing.assert_close(y, m.retr(x, u), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(moved, m.to_coordinates(y, m.transp(x, y, v)), atol=ROUNDING, rtol=0)
    assert torch.equal(*m.retr_transp_coordinates(x, c), y)


@pytest.mark.parametrize("t", [-0.3, torch.tensor(-0.3, dtype=torch.float64)], ids=["number", "tensor"])
@pytest.mark.parametrize(("case", "retraction"), PAIRS, ids=ids)
def test_a_step_along_the_gradient_is_the_step_of_its_coordinates(case, retraction, t, generator):
    m, x = case.make(retraction), case.point((2,), generator)
    g = 0.3 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    (expected,) = m.retr_transp_coordinates(x, m.egrad2coordinates(x, g) * t)
    torch.testing.assert_close(m.retr_gradient(x, g, t), expected, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("case", GROUPS, ids=ids)
def test_coordinates_are_an_orthonormal_basis(case, batch, generator):
    m, x = case.make("cayley"), case.point(batch, generator)
    u, v = directions(m, x, generator)
    a, b = m.to_coordinates(x, u), m.to_coordinates(x, v)
    torch.testing.assert_close((a * b).sum(-1), m.inner(x, u, v), atol=ROUNDING, rtol=0)
    assert m.degrees_of_freedom(x.shape, x.dtype) == a.numel()
    torch.testing.assert_close(m.square_coordinates(x, a, "matrix")[..., 0], m.inner(x, u), atol=ROUNDING, rtol=0)
    torch.testing.assert_close(m.square_coordinates(x, a, "elementwise"), a.square())


@pytest.mark.parametrize("case", GROUPS, ids=ids)
def test_distance_is_the_length_of_the_geodesic(case, batch, generator):
    m, x = case.make("cayley"), case.point(batch, generator)
    (u,) = directions(m, x, generator, 1, norm=2.0)
    y = m.expmap(x, u)
    torch.testing.assert_close(m.dist(x, y), m.norm(x, u), atol=ROUNDING * 10, rtol=0)
    torch.testing.assert_close(m.dist(y, x), m.dist(x, y), atol=ROUNDING * 10, rtol=0)
    z = m.transp(x, y, u)  # the velocity at the end of the geodesic
    torch.testing.assert_close(m.expmap(y, z), m.expmap(x, 2 * u), atol=ROUNDING * 10, rtol=0)


@pytest.mark.parametrize(("case", "retraction"), GROUP_PAIRS, ids=ids)
def test_every_map_stays_in_the_component(case, retraction, generator):
    m, x = case.make(retraction), case.point((6,), generator)
    (u,) = directions(m, x, generator, 1, norm=1.0)
    for y in (m.retr(x, u), m.polish(x), m.projx(x + 0.1 * u)):
        torch.testing.assert_close(m.defect(y), torch.zeros(6, dtype=torch.float64), atol=10 * ROUNDING, rtol=0)
        if not x.is_complex():
            assert torch.equal(torch.linalg.det(y).sign(), torch.linalg.det(x).sign())


@pytest.mark.parametrize("case", GROUPS, ids=ids)
def test_projection_is_the_nearest_point(case, generator):
    m, x = case.make("cayley"), case.point((2,), generator)
    far = x + 0.3 * torch.randn(x.shape, dtype=x.dtype, generator=generator)
    near = m.projx(far)
    assert bool((torch.linalg.matrix_norm(near - far) <= torch.linalg.matrix_norm(x - far)).all())
    for u in directions(m, near, generator, 5, norm=0.1):
        other = torch.linalg.matrix_norm(m.retr(near, u) - far)
        assert bool((torch.linalg.matrix_norm(near - far) <= other).all())


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_a_manifold_with_another_retraction_is_otherwise_the_same(case, generator):
    m, x = case.make("cayley"), case.point((), generator)
    if len(case.retractions) == 1:
        with pytest.raises(errors.UnsupportedError, match="its own retraction"):
            m.with_retraction("qr")
        return
    other = m.with_retraction("qr")
    assert type(other) is type(m) and other.retraction.name == "qr" and m.retraction.name == "cayley"
    assert other.key() != m.key() and other.with_retraction("cayley").key() == m.key() == case.make("cayley").key()
    g = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    assert torch.equal(other.proju(x, g), m.proju(x, g))
    assert other.polish_every == 0 and m.polish_every > 0


@pytest.mark.parametrize("case", ALL, ids=ids)
def test_copies_and_pickles_are_the_same_manifold(case):
    m = case.make("cayley")
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert repr(other) == repr(m) and other.name == m.name
        if case.retractions != ("own",):
            assert other.key() == m.key()
    assert m != case.make("cayley")  # geoopt's manifolds are modules, equal by identity


@pytest.mark.parametrize("case", GROUPS, ids=ids)
def test_single_precision_loses_no_more_than_rounding(case, generator):
    m, x = case.make("cayley"), case.point((2,), generator)
    (u,) = directions(m, x, generator, 1)
    y = m.retr(x, u)
    single = x.to(torch.complex64 if x.is_complex() else torch.float32)
    low = single.dtype
    for got, expected in (
        (m.retr(single, u.to(low)), y),
        (m.projx(single), x),
        (m.logmap(single, y.to(low)), m.logmap(x, y)),
        (m.expmap(single, u.to(low)), m.expmap(x, u)),
    ):
        assert got.dtype == low
        torch.testing.assert_close(got, expected.to(low), atol=1e-5, rtol=0)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("case", "retraction"), GROUP_PAIRS, ids=ids)
def test_autocast_changes_nothing(case, retraction, half, generator):
    m, x = case.make(retraction), case.point((2,), generator)
    low = torch.complex64 if x.is_complex() else torch.float32
    x, u = x.to(low), next(directions(m, x, generator)).to(low)
    y = m.retr(x, u)
    c = m.to_coordinates(x, u)

    def everything():
        return [
            m.projx(x), m.proju(x, u), m.retr(x, u), m.expmap(x, u), m.logmap(x, y), m.transp(x, y, u),
            m.inner(x, u, u), m.norm(x, u), m.dist(x, y), m.to_coordinates(x, u), m.retr_coordinates(x, c),
            m.polish(x), m.defect(x),
            m.inverse_retr_coordinates(x, y), m.from_coordinates(x, c),
        ]  # fmt: skip

    with torch.autocast("cpu", dtype=half):
        got = everything()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(got, everything(), strict=True))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", [case for case in GROUPS if not case.dtype.is_complex], ids=ids)
def test_half_precision_points_are_moved_in_single(case, half, generator):
    m, x = case.make("cayley"), case.point((2,), generator).to(half)
    u = next(directions(m, x.double(), generator)).to(half)
    for f in (m.retr, m.expmap, m.proju):
        assert torch.equal(f(x, u), f(x.float(), u.float()).to(half))


@pytest.mark.parametrize("retraction", ["cayley", "exp", "qr", "polar"])
def test_agrees_with_geoopt_on_square_real_matrices(retraction, batch, generator):
    ours, theirs = manifolds.Orthogonal(retraction), geoopt.EuclideanStiefel()
    x = ours.random((*batch, 5, 5), dtype=torch.float64, generator=generator)
    g = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    u, v = directions(ours, x, generator)
    agree = {
        "proju": (ours.proju(x, g), theirs.proju(x, g)),
        "egrad2rgrad": (ours.egrad2rgrad(x, g), theirs.egrad2rgrad(x, g)),
        "inner": (ours.inner(x, u, v), theirs.inner(x, u, v)),
        "norm": (ours.norm(x, u), theirs.norm(x, u)),
        "expmap": (ours.expmap(x, u), theirs.expmap(x, u)),
        "projx": (ours.projx(x + 0.1 * g), theirs.projx(x + 0.1 * g)),
    }
    if retraction == "qr":
        agree["retr"] = ours.retr(x, u), theirs.retr(x, u)
    for name, (a, b) in agree.items():
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_real_form_is_the_unitary_group(generator):
    twice = 2 * torch.eye(4, dtype=torch.float64)
    torch.testing.assert_close(manifolds.UnitaryRealForm().defect(twice), linalg.defect(twice))
    form, unitary = manifolds.UnitaryRealForm("qr"), manifolds.Unitary("qr")
    w = unitary.random((3, 3, 3), dtype=torch.complex128, generator=generator)
    h = unitary.proju(w, torch.randn(w.shape, dtype=w.dtype, generator=generator))

    def real(z):
        return torch.cat([torch.cat([z.real, -z.imag], -1), torch.cat([z.imag, z.real], -1)], -2)

    torch.testing.assert_close(form.retr(real(w), real(h)), real(unitary.retr(w, h)))
    torch.testing.assert_close(form.expmap(real(w), real(h)), real(unitary.expmap(w, h)))
    torch.testing.assert_close(form.inner(real(w), real(h)), 2 * unitary.inner(w, h))
    torch.testing.assert_close(form.defect(real(w)), torch.zeros(3, dtype=torch.float64))
    assert linalg.defect(form.random(4, 4)) < 1e-5


def test_logarithms_on_su_are_the_shortest_of_trace_zero(generator):
    m = manifolds.SpecialUnitary("exp")
    x = m.random(200, 5, 5, dtype=torch.complex128, generator=generator)
    y = m.random(200, 5, 5, dtype=torch.complex128, generator=generator)
    A = x.mH @ m.logmap(x, y)
    torch.testing.assert_close(
        A.diagonal(dim1=-2, dim2=-1).sum(-1), torch.zeros(200, dtype=A.dtype), atol=1e-10, rtol=0
    )
    torch.testing.assert_close(m.expmap(x, m.logmap(x, y)), y, atol=1e-10, rtol=0)
    angles = torch.linalg.eigvals(x.mH @ y).angle()
    assert (angles.sum(-1).abs() > 1).any()  # some principal logarithms have another trace
    turns = torch.cartesian_prod(*[torch.arange(-1, 2)] * 5) * 2 * torch.pi
    shifted = angles[:, None] + turns
    lengths = shifted.norm(dim=-1).masked_fill(shifted.sum(-1).abs() > 1e-6, torch.inf)
    torch.testing.assert_close(m.dist(x, y), lengths.amin(-1), atol=1e-6, rtol=0)
