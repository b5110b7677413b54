"""Spheres: closed forms, geoopt's as an oracle, weights of every number of axes, and the norm that a weight has."""

import copy
import io
import math
import pickle

import geoopt
import pytest
import torch
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors

DOUBLE = [torch.float64, torch.complex128]
ANGLES = {"exp": lambda t: t, "cayley": lambda t: 2 * math.atan(t / 2), "polar": math.atan, "qr": math.atan}


def problem(m, shape, dtype, generator):
    x = m.random(shape, dtype=dtype, generator=generator)
    u, v = (m.proju(x, torch.randn(shape, dtype=dtype, generator=generator)) for _ in "uv")
    return x, u, v


@pytest.mark.parametrize("retraction", ANGLES)
@pytest.mark.parametrize("t", [0.0, 1e-9, 0.3, 2.0, 40.0])
def test_a_step_rotates_by_the_angle_of_its_retraction(retraction, t):
    m = mr.Sphere(radius=2.0, retraction=retraction)
    x, u = (torch.tensor(z, dtype=torch.float64) for z in ([2.0, 0.0], [0.0, 2 * t]))
    phi = torch.tensor(ANGLES[retraction](t), dtype=torch.float64)
    expected = 2 * torch.stack([phi.cos(), phi.sin()])
    torch.testing.assert_close(m.retr(x, u), expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("dtype", DOUBLE, ids=str)
def test_polar_and_qr_project_the_sum(dtype, generator):
    for retraction in ("polar", "qr"):
        m = mr.Oblique(-2, 3.0, retraction)
        x, u, _ = problem(m, (5, 4), dtype, generator)
        torch.testing.assert_close(m.retr(x, u), m.projx(x + u), atol=atol(dtype), rtol=0)


def test_agrees_with_geoopt(generator):
    ours, theirs = mr.Sphere(), geoopt.SphereExact()
    x, u, v = problem(ours, (6, 5), torch.float64, generator)
    y = ours.random(6, 5, dtype=torch.float64, generator=generator)
    for name, a, b in (
        ("projx", ours.projx(x + u), theirs.projx(x + u)),
        ("proju", ours.proju(x, y), theirs.proju(x, y)),
        ("egrad2rgrad", ours.egrad2rgrad(x, y), theirs.egrad2rgrad(x, y)),
        ("inner", ours.inner(x, u, v), theirs.inner(x, u, v)),
        ("expmap", ours.expmap(x, u), theirs.expmap(x, u)),
        ("retr", mr.Sphere(retraction="polar").retr(x, u), geoopt.Sphere().retr(x, u)),
        ("logmap", ours.logmap(x, y), theirs.logmap(x, y)),
        ("dist", ours.dist(x, y), theirs.dist(x, y)),
    ):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", DOUBLE, ids=str)
def test_transport_is_parallel_along_the_arc_and_far_beyond_a_half_turn(dtype, generator):
    m = mr.Sphere((-2, -1), 2.0)
    x, u, v = problem(m, (3, 4), dtype, generator)
    for length in (0.5, 3.0, 5.0):  # radians are half of these
        w = u * (length / m.norm(x, u))
        y, carried = x, v
        for _ in range(200):  # parallel transport is the limit of many small projections
            z, w_next, carried_next = m._moved(m.retraction, y, w / 200, w, carried)
            y, w, carried = z, w_next, carried_next
        first = u * (length / m.norm(x, u))
        end, moved = m.retr_transp_coordinates(x, m.to_coordinates(x, first), m.to_coordinates(x, v))
        torch.testing.assert_close(end, y, atol=1e-12, rtol=0)
        torch.testing.assert_close(m._vector(y, moved), carried, atol=1e-12, rtol=0)
        torch.testing.assert_close(m.norm(y, carried), m.norm(x, v), atol=1e-12, rtol=0)


def test_distances_keep_their_digits_at_both_ends():
    m, x = mr.Sphere(), torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    for angle in (1e-12, 1e-6, 1.0, math.pi - 1e-6, math.pi - 1e-12):
        y = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
        assert abs(float(m.dist(x, y)) - angle) < 1e-15 * 4


def test_degrees_of_freedom_count_one_less_for_each_vector():
    assert mr.Oblique().degrees_of_freedom((5, 3)) == 10 and mr.Oblique(-2).degrees_of_freedom((5, 3)) == 12
    assert mr.Sphere((-2, -1)).degrees_of_freedom((2, 5, 3)) == 28
    assert mr.Sphere().degrees_of_freedom((5, 3), torch.complex64) == 25
    layer = mr.constrain(nn.Linear(3, 5, bias=False), "weight", mr.Oblique())
    assert mr.degrees_of_freedom(layer) == 10


@pytest.mark.parametrize("radius", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_extreme_vectors_and_radii(size, radius, generator):
    m = mr.Oblique(radius=radius)
    y = m.projx(size * torch.randn(4, 3, generator=generator))
    assert float(m.defect(y).max()) < 1e-6
    moved = m.retr(y, 0.3 * radius * torch.randn(4, 3, generator=generator))
    assert float(m.defect(moved).max()) < 1e-6
    kept = mr.Oblique(radius="init")
    x = size * torch.randn(4, 3, generator=generator)
    y = kept.retr(x, size * torch.randn(4, 3, generator=generator))
    torch.testing.assert_close(kept._lengths(y), kept._lengths(x), rtol=1e-6, atol=0)


LAYERS = {
    "gain": (lambda: nn.RMSNorm(6), mr.Sphere()),
    "linear": (lambda: nn.Linear(6, 4), mr.Oblique()),
    "columns": (lambda: nn.Linear(6, 4), mr.Oblique(-2)),
    "embedding": (lambda: nn.Embedding(7, 6), mr.Oblique()),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3), mr.Oblique()),
    "conv2d": (lambda: nn.Conv2d(6, 4, 3), mr.Sphere((-2, -1), radius="init")),
    "grouped": (lambda: nn.Conv2d(6, 4, 3, groups=2), mr.Sphere((-2, -1), radius=2.0)),
}
INPUTS = {"embedding": torch.tensor([0, 3]), "conv1d": torch.ones(1, 6, 5), "conv2d": torch.ones(1, 6, 5, 5)}


@pytest.mark.parametrize("view", ["update", "trivialized"])
@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_one_to_four_axes_are_trained_in_both_views(name, view):
    torch.manual_seed(0)
    make, m = LAYERS[name]
    layer = mr.constrain(make(), "weight", m, view=view)
    optimizer = mr.optim.RiemannianAdam(layer.parameters(), lr=0.05)
    x = INPUTS.get("conv2d" if name == "grouped" else name, torch.linspace(-1, 1, 6))
    norm, losses = torch.linalg.vector_norm(layer.weight.detach()), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (layer(x) - 3).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert float(layer.constraints["weight"].defect()) < 1e-6
    torch.testing.assert_close(torch.linalg.vector_norm(layer.weight.detach()), norm, rtol=1e-5, atol=0)


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_the_norm_of_a_weight_is_kept_in_copies_files_and_casts(view):
    torch.manual_seed(0)
    m = mr.Sphere((-2, -1), radius="init")
    layer = mr.constrain(nn.Linear(6, 4), "weight", m, view=view)
    torch.manual_seed(1)
    other = mr.constrain(nn.Linear(6, 4), "weight", m, view=view)
    norm = torch.linalg.vector_norm(layer.weight.detach())
    assert view == "trivialized" or set(layer.state_dict()) == {"weight", "bias"}
    assert abs(float(norm - torch.linalg.vector_norm(other.weight.detach()))) > 1e-3
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))  # of another norm, which is taken over
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer).double().float()):
        assert torch.equal(same.weight, layer.weight)
        optimizer = mr.optim.RiemannianAdam(same.parameters(), lr=0.1)
        same(torch.ones(6)).sum().backward()
        optimizer.step()
        torch.testing.assert_close(torch.linalg.vector_norm(same.weight.detach()), norm, rtol=1e-6, atol=0)
    half = copy.deepcopy(layer).half()
    torch.testing.assert_close(torch.linalg.vector_norm(half.weight.detach().float()), norm, rtol=1e-3, atol=0)
    released = mr.release(layer, "weight")
    assert type(released.weight) is nn.Parameter
    torch.testing.assert_close(torch.linalg.vector_norm(released.weight.detach()), norm, rtol=1e-6, atol=0)
    drawn = mr.constrain(nn.Linear(6, 4), "weight", m, init="haar")
    assert float(drawn.constraints["weight"].defect()) == 0


def test_the_norm_of_a_weight_drifts_by_rounding_alone():
    torch.manual_seed(0)
    layer = mr.constrain(nn.Linear(24, 16), "weight", mr.Sphere((-2, -1), radius="init"))
    norm = torch.linalg.vector_norm(layer.weight.detach().double())
    optimizer = mr.optim.RiemannianAdam(layer.parameters(), lr=0.02, scale="angle")
    for _ in range(1000):
        layer.weight.grad = torch.randn(16, 24)
        optimizer.step()
    torch.testing.assert_close(torch.linalg.vector_norm(layer.weight.detach().double()), norm, rtol=1e-5, atol=0)


def test_the_retraction_of_a_weight_can_be_changed():
    layer = mr.constrain(nn.Linear(4, 3), "weight", mr.Oblique(-2, 2.0))
    W = layer.weight.detach().clone()
    mr.set_retraction(layer, "weight", "polar")
    m = layer.weight.manifold
    assert torch.equal(layer.weight, W) and (m.retraction.name, m.dim, m.radius) == ("polar", -2, 2.0)


def test_the_static_base_reaches_every_direction_with_the_geodesic():
    m, x = mr.Sphere(), torch.tensor([1.0, 0.0], dtype=torch.float64)
    y = torch.tensor([math.cos(3.0), math.sin(3.0)], dtype=torch.float64)
    torch.testing.assert_close(m.retr_coordinates(x, m.inverse_retr_coordinates(x, y)), y, atol=1e-12, rtol=0)
    c = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    hessian = torch.autograd.functional.hessian(lambda c: m.retr_free(x, c)[0], c)
    torch.testing.assert_close(hessian, torch.diag(torch.tensor([0.0, -1.0])).double(), atol=1e-12, rtol=0)


def test_a_run_takes_them_from_its_file():
    for value in ("Sphere", {"name": "Oblique", "dim": -2}, {"name": "Sphere", "dims": [-2, -1], "radius": "init"}):
        assert isinstance(mr.training.build.build_constraint(value, "polar"), mr.manifolds.FixedNorm)


X = torch.eye(3)


class _Other(mr.retractions.Exponential):
    name = "other"
    plane_rotation = mr.retractions.Retraction.plane_rotation


REFUSED = {
    "a zero row": (
        lambda: mr.Oblique().projx(torch.diag(torch.tensor([1.0, 0.0, 1.0]))),
        errors.OffManifoldError,
        "1 ze",
    ),
    "padding of an embedding": (
        lambda: mr.constrain(nn.Embedding(4, 3, padding_idx=0), "weight", mr.Oblique()),
        errors.OffManifoldError,
        "zero vector",
    ),
    "a weight of zeros": (lambda: mr.Sphere((-2, -1), "init").require(0 * X), errors.OffManifoldError, "a number"),
    "NaN": (lambda: mr.Sphere().projx(X * torch.nan), errors.NonFiniteError, "9 of 9"),
    "an infinite step": (lambda: mr.Sphere().retr(X, X.flip(0) * torch.inf), errors.NonFiniteError, "finite"),
    "too long a step": (lambda: mr.Sphere().retr(X, X.flip(0) * 1e20), errors.NonFiniteError, "no correct digit"),
    "integers": (lambda: mr.Sphere().projx(X.long()), errors.DtypeError, "int64"),
    "too few axes": (lambda: mr.Oblique().projx(X[0]), errors.ShapeError, r"\(3,\)"),
    "no entries in a vector": (lambda: mr.Sphere().random(3, 0), errors.ShapeError, "at least one"),
    "shapes that do not fit": (lambda: mr.Sphere().retr(X, X[:, :2]), errors.ShapeError, r"\(3, 2\)"),
    "dtypes that do not fit": (lambda: mr.Sphere().retr(X, X.double()), errors.DtypeError, "float64"),
    "a negative radius": (lambda: mr.Sphere(radius=-1.0), errors.OptionError, "positive"),
    "an unknown radius": (lambda: mr.Sphere(radius="norm"), errors.OptionError, "'init'"),
    "a radius beyond the dtype": (lambda: mr.Sphere(radius=1e39).projx(X), errors.DtypeError, "inside the range"),
    "a retraction without a plane": (lambda: mr.Sphere(retraction=_Other()), errors.UnsupportedError, "plane_rotation"),
    "axes in the middle": (lambda: mr.Sphere((-3, -1)), errors.OptionError, "Oblique"),
    "axes from the front": (lambda: mr.Sphere(0), errors.OptionError, "counted from the end"),
    "an unknown axis": (lambda: mr.Oblique(0), errors.OptionError, "-1 for rows"),
    "opposite vectors": (lambda: mr.Sphere().logmap(X, -X), errors.OffManifoldError, "not unique"),
    "out of reach": (
        lambda: mr.Sphere(retraction="polar").inverse_retr_coordinates(X, X.roll(1, 0)),
        errors.OffManifoldError,
        "pi / 2",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named(name):
    act, kind, message = REFUSED[name]
    with pytest.raises(kind, match=message) as info:
        act()
    assert len(str(info.value)) <= 400


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("m", [mr.Oblique(), mr.Sphere((-2, -1), 0.5)], ids=str)
def test_a_weight_of_half_precision_is_projected_and_trained(dtype, m):
    torch.manual_seed(0)
    layer = mr.constrain(nn.Linear(64, 80, bias=False, dtype=dtype), "weight", m)
    assert float(m.defect(layer.weight.detach()).max()) < torch.finfo(dtype).eps
    optimizer = mr.optim.RiemannianSGD(layer.parameters(), lr=0.1)  # moments of Adam vanish in float16
    for _ in range(3):
        layer(torch.ones(2, 64, dtype=dtype)).square().mean().backward()
        optimizer.step()
    assert float(m.defect(layer.weight.detach()).max()) < torch.finfo(dtype).eps


@pytest.mark.parametrize("init", ["haar", lambda w: w + 1])
def test_another_start_serves_a_weight_with_zero_rows(init):
    layer = nn.Linear(6, 4)
    nn.init.zeros_(layer.weight)
    mr.constrain(layer, "weight", mr.Oblique(), init=init)
    torch.testing.assert_close(layer.weight.norm(dim=-1), torch.ones(4))


def test_a_norm_of_zero_is_named():
    m = mr.Oblique(radius="init")
    for action in (lambda: m.retr(torch.zeros(4, 6), torch.ones(4, 6)), lambda: m.random_like(torch.zeros(4, 6))):
        with pytest.raises(errors.OffManifoldError, match=r"4 zero vectors(.|\n)*a number as the radius"):
            action()


def test_a_matrix_without_rows_is_a_point():
    m = mr.Oblique()
    x = torch.zeros(2, 0, 5)
    assert torch.equal(m.defect(m.retr(m.projx(x), x)), torch.zeros(2))
