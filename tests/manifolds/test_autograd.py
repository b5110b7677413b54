"""Every map of every manifold under autograd, vmap and compile; a new map is tested by being a public method."""

import dataclasses

import geoopt
import pytest
import torch
from support.manifold_cases import ALL, PAIRS, ids

from manifold_rnn import manifolds

COMPILING = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own

# arguments by name: a point, an ambient gradient, two tangents, another point, coordinates, a point off the manifold
MAPS = {
    "defect": ("off",),
    "dist": ("x", "y"),
    "egrad2coordinates": ("x", "g"),
    "egrad2rgrad": ("x", "g"),
    "expmap": ("x", "u"),
    "from_coordinates": ("x", "c"),
    "inner": ("x", "u", "v"),
    "inverse_retr_coordinates": ("x", "y"),
    "logmap": ("x", "y"),
    "norm": ("x", "u"),
    "polish": ("off",),
    "proju": ("x", "g"),
    "projx": ("off",),
    "retr": ("x", "u"),
    "retr_coordinates": ("x", "c"),
    "retr_free": ("x", "c"),
    "to_coordinates": ("x", "u"),
    "transp": ("x", "y", "u"),
}
NO_MAPS = {
    "ambient",
    "axes",
    "bounded",
    "checks_steps",
    "frame",
    "is_sphere",
    "geodesic",
    "mean",
    "metric",
    "is_sound",
    "sensitivity",
    *("coordinate_shape", "degrees_of_freedom", "example_shape", "extra_repr", "geometry", "identity_component"),
    *("is_complex", "is_flat"),
    *("is_group", "is_orthonormal", "isometric_at_zero", "key", "layout", "members", "name", "ndim", "origin"),
    *(
        "polish_every",
        "principal_angles",
        "random",
        "random_like",
        "reads_device",
        "require",
        "retr_gradient",
        "retr_transp_coordinates",
    ),
    *("retraction", "reversible", "spectral_step", "square_coordinates", "width", "with_members", "with_retraction"),
}
OF_RETRACTION = ("inverse_retr_coordinates", "retr", "retr_coordinates", "retr_free")
GEOOPT = (geoopt.EuclideanStiefel, geoopt.Sphere)
SMALL = {
    (4, 3, 2): (2, 2, 1),
    (3, 2, 3): (2, 1, 2),
    (4, 4): (2, 2),
    (4, 3): (3, 2),
    (3, 3): (2, 2),
    (9, 3): (6, 2),
    (3, 6): (2, 4),
    (8, 3): (6, 2),
    (5, 3): (3, 2),
    (5, 2): (3, 2),
    (4,): (3,),
    (3,): (2,),
}
TABLE = [(case, r, name) for case, r in PAIRS for name in MAPS if name in OF_RETRACTION or r == case.retractions[0]]


def small(case):
    return dataclasses.replace(case, shape=SMALL[case.shape])


def arguments(case, m, batch, generator):
    x = case.point(batch, generator)

    def normal():
        return torch.randn(x.shape, dtype=x.dtype, generator=generator)

    u, v = 0.4 * m.proju(x, normal()), m.proju(x, normal())
    found = {"x": x, "g": normal(), "u": u, "v": v, "y": m.retr(x, 0.3 * v), "c": m.to_coordinates(x, u)}
    return {**found, "off": x + 0.05 * normal()}


def refused(m, name, given):
    """Whether the map is refused by name, as geoopt's logarithms are."""
    try:
        getattr(m, name)(*(given[a] for a in MAPS[name]))
    except NotImplementedError:
        return True
    return False


def scalar(value):
    return (torch.view_as_real(value) if value.is_complex() else value).sin().sum()


def test_every_public_method_is_a_tested_map_or_known_to_be_none():
    own = {manifolds.Manifold, manifolds.MatrixGroup, *(type(case.make("cayley")) for case in ALL)}
    names = {name for cls in own for name in vars(cls) if not name.startswith("_")}
    assert names <= {*MAPS, *NO_MAPS, *vars(geoopt.Manifold)}
    assert set(MAPS) <= {name for cls in own for name in dir(cls)}


@pytest.mark.parametrize(("case", "retraction", "name"), TABLE, ids=ids)
def test_gradients_of_both_orders(case, retraction, name, generator):
    case, m = small(case), case.make(retraction)
    given = arguments(case, m, (2,), generator)
    if refused(m, name, given) or (case.retractions == ("own",) and name == "retr"):  # geoopt's writes in place
        return
    inputs = [given[a].requires_grad_() for a in MAPS[name]]
    if not getattr(m, name)(*inputs).requires_grad:  # constant, as the defect of a flat space
        return
    assert torch.autograd.gradcheck(getattr(m, name), inputs, fast_mode=True)
    assert torch.autograd.gradgradcheck(getattr(m, name), inputs, fast_mode=True)


@pytest.mark.parametrize(("case", "retraction", "name"), TABLE, ids=ids)
def test_vmap_of_the_map_and_of_its_gradient(case, retraction, name, generator):
    m = case.make(retraction)
    given = arguments(case, m, (3,), generator)
    if refused(m, name, given) or case.retractions == ("own",):  # geoopt writes in place
        return
    inputs, f = [given[a] for a in MAPS[name]], getattr(m, name)
    torch.testing.assert_close(torch.func.vmap(f)(*inputs), f(*inputs))
    if len(inputs) > 1:  # one point, many tangents
        x, rest = inputs[0][0], [t.expand_as(inputs[1]) for t in inputs[1:]]
        x, rest = (x, rest) if "y" not in MAPS[name] else (x, [t[:1].expand_as(t) for t in rest])
        in_dims = (None, *[0] * len(rest))
        torch.testing.assert_close(torch.func.vmap(f, in_dims=in_dims)(x, *rest), f(x.expand_as(inputs[0]), *rest))
    gradient = torch.func.grad(lambda *a: scalar(f(*a)), argnums=len(inputs) - 1)
    each = torch.stack([gradient(*(t[k] for t in inputs)) for k in range(3)])
    torch.testing.assert_close(torch.func.vmap(gradient)(*inputs), each)


OURS = [(case, r) for case, r in PAIRS if case.retractions != ("own",)]


QUICK = {"Orthogonal": "cayley", "Unitary": "qr", "Gates": "qr"}  # seconds each; the others are slow


def check_compiled(case, retraction, names, generator, *, fullgraph=True, **options):
    torch._dynamo.reset()
    m = case.make(retraction)
    given = {name: t.requires_grad_() for name, t in arguments(case, m, (2,), generator).items()}
    names = [name for name in names if not refused(m, name, given)]
    if fullgraph and (case.name, retraction) == ("SpecialUnitary", "qr"):  # its inverse runs uncompiled
        names = [name for name in names if name != "inverse_retr_coordinates"]

    def everything(given):
        return [getattr(m, name)(*(given[a] for a in MAPS[name])) for name in names]

    compiled = torch.compile(everything, fullgraph=fullgraph, **options)
    expected, got = everything(given), compiled(given)
    torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)
    leaves = list(given.values())
    gradients = [torch.autograd.grad(sum(map(scalar, v)), leaves, allow_unused=True) for v in (got, expected)]
    torch.testing.assert_close(
        *([torch.zeros(()) if g is None else g for g in gs] for gs in gradients), atol=1e-11, rtol=1e-11
    )


@COMPILING
@pytest.mark.parametrize(("case", "retraction"), [(c, r) for c, r in OURS if QUICK.get(c.name) == r], ids=ids)
def test_compiles_in_one_graph_with_its_gradient(case, retraction, generator):
    names = MAPS if case.name == "Orthogonal" else OF_RETRACTION
    check_compiled(case, retraction, names, generator, backend="aot_eager")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "retraction"), OURS, ids=ids)
def test_every_map_compiles_with_every_retraction(case, retraction, generator):
    names = MAPS if retraction == case.retractions[0] else OF_RETRACTION
    check_compiled(case, retraction, names, generator, backend="aot_eager")


# a minute each: every manifold once, and every retraction
DEFAULT_BACKEND = [
    (case, case.retractions[k % len(case.retractions)])
    for k, case in enumerate(c for c in ALL if c.retractions != ("own",))
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "retraction"), DEFAULT_BACKEND, ids=ids)
def test_every_manifold_compiles_with_the_default_backend(case, retraction, generator):
    if (case.name, retraction) in {("SpecialUnitary", "qr"), ("GrassmannComplex", "qr")}:
        pytest.skip("inductor cannot view a complex matrix stored by columns as real numbers")
    check_compiled(case, retraction, OF_RETRACTION, generator, backend="inductor")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_the_default_backend_would_get_wrong_runs_uncompiled(generator):
    case = next(case for case in ALL if case.name == "SpecialUnitary")
    check_compiled(case, "qr", ["inverse_retr_coordinates"], generator, fullgraph=False, backend="inductor")


@pytest.mark.parametrize("case", [case for case in ALL if case.retractions != ("own",)], ids=ids)
def test_projection_of_a_point_on_the_manifold_has_the_tangent_projection_as_derivative(case, generator):
    m, x = case.make("cayley"), case.point((2,), generator).requires_grad_()
    g = torch.randn(x.shape, dtype=x.dtype, generator=generator)
    (got,) = torch.autograd.grad(m.projx(x), x, g)
    got = m.proju(x, got) if isinstance(m, manifolds.Grassmann) else got  # whose tangent vectors are horizontal
    torch.testing.assert_close(got, m.proju(x, g), atol=1e-12, rtol=0)
