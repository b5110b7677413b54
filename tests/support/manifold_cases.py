"""The manifolds that every law is tested on; a new one is tested by being exported, once it has a row in `CASES`."""

from collections.abc import Callable
from dataclasses import dataclass

import geoopt
import torch

from manifold_rnn import manifolds, retractions


@dataclass(frozen=True)
class Case:
    """A manifold with any retraction, and the shape of its smallest telling points."""

    name: str
    make: Callable[[str], manifolds.Manifold]
    shape: tuple[int, ...]
    dtype: torch.dtype
    retractions: tuple[str, ...] = tuple(retractions.names())
    solid: bool = False  # a set with an interior, where every direction is tangent
    cone: bool = False  # positive multiples of points are points, and a step of length 1 multiplies by up to e^2

    def point(self, batch, generator):
        shape = (*batch, *self.shape)
        if self.solid:  # deep inside, where no step of the tests leaves the set
            return 0.3 * self.make("own").random(shape, dtype=self.dtype, generator=generator)
        if self.retractions == ("own",):  # geoopt's random takes no generator
            x = torch.randn(shape, dtype=self.dtype, generator=generator)
            return self.make("own").projx(x)
        m = self.make("cayley")
        x = m.random(shape, dtype=self.dtype, generator=generator)
        if isinstance(m, manifolds.BlockTriangular):  # whose bottom here is solid
            top, bottom, free = m.layout.split(x)
            return m.layout.join((top, 0.1 * bottom, free), x.shape)
        return x


def _groups(name):
    group = getattr(manifolds, name)
    dtype = torch.complex128 if group.is_complex else torch.float64
    return [Case(name, group, (4, 4), dtype)]


def _blocks(inner, **options):
    return lambda retraction: manifolds.Blocks(inner(retraction), **options)


def _solid(name, shape, dtype, **options):
    return Case(name, lambda _: getattr(manifolds, name)(**options), shape, dtype, ("straight",), solid=True)


def _enrnn(retraction):
    return manifolds.BlockTriangular(manifolds.Orthogonal(retraction), manifolds.UnitDisc(8.0))


CASES = {
    "Adapted": [
        Case(
            "EuclideanStiefel", lambda _: manifolds.Adapted(geoopt.EuclideanStiefel()), (5, 3), torch.float64, ("own",)
        ),
        Case("Sphere", lambda _: manifolds.Adapted(geoopt.Sphere()), (4,), torch.float64, ("own",)),
    ],
    "BlockTriangular": [
        Case("BlockTriangular", _enrnn, (4, 4), torch.float64),
        Case(
            "BlockUnitary",
            lambda r: manifolds.BlockTriangular(manifolds.Unitary(r), manifolds.Contraction(8.0)),
            (4, 4),
            torch.complex128,
        ),
    ],
    "BlockLayout": [],
    "Contraction": [
        _solid("Contraction", (4, 4), torch.float64),
        _solid("Contraction", (5, 3), torch.complex128, bound=2.0),
    ],
    "Euclidean": [_solid("Euclidean", (4, 3), torch.float64), _solid("Euclidean", (3, 3), torch.complex128)],
    "FixedNorm": [],
    "Grassmann": [
        Case("Grassmann", manifolds.Grassmann, (5, 2), torch.float64),
        Case("GrassmannComplex", manifolds.Grassmann, (5, 3), torch.complex128),
    ],
    "Layout": [],
    "Manifold": [],
    "MatrixGroup": [],
    "MatrixManifold": [],
    "Oblique": [
        Case("ObliqueRows", lambda r: manifolds.Oblique(retraction=r), (4, 3), torch.float64),
        Case("ObliqueColumns", lambda r: manifolds.Oblique(-2, 2.0, r), (4, 3), torch.complex128),
    ],
    "Orthogonal": _groups("Orthogonal"),
    "OrthonormalColumns": [],
    "Parts": [],
    "RealFormLayout": [],
    "Region": [],
    "SPD": [
        Case("SPD", lambda _: manifolds.SPD(), (3, 3), torch.float64, ("geodesic",), cone=True),
        Case("SPDComplex", lambda _: manifolds.SPD(), (3, 3), torch.complex128, ("geodesic",), cone=True),
        Case("LogCholesky", lambda _: manifolds.SPD("log-cholesky"), (3, 3), torch.float64, ("geodesic",), cone=True),
        Case(
            "LogCholeskyComplex",
            lambda _: manifolds.SPD("log-cholesky"),
            (3, 3),
            torch.complex128,
            ("geodesic",),
            cone=True,
        ),
    ],
    "SpecialOrthogonal": _groups("SpecialOrthogonal"),
    "SpecialUnitary": _groups("SpecialUnitary"),
    "SpectralScaled": [
        _solid("SpectralScaled", (4, 4), torch.float64),
        _solid("SpectralScaled", (5, 3), torch.complex128, measure="norm", limit=2.0),
    ],
    "Sphere": [
        Case("SphereOfVectors", lambda r: manifolds.Sphere(retraction=r), (4,), torch.float64),
        Case("SphereComplex", lambda r: manifolds.Sphere(-1, 2.0, r), (3,), torch.complex128),
        Case("FrobeniusSphere", lambda r: manifolds.Sphere((-2, -1), 3.0, r), (4, 3), torch.float64),
    ],
    "Stiefel": [
        Case("Stiefel", manifolds.Stiefel, (5, 3), torch.float64),
        Case("StiefelCanonical", lambda r: manifolds.Stiefel(r, "canonical"), (5, 2), torch.complex128),
        Case("StiefelSquare", manifolds.Stiefel, (3, 3), torch.complex128),
    ],
    "TriangularLayout": [],
    "UnitDisc": [
        _solid("UnitDisc", (4, 4), torch.float64),
        _solid("UnitDisc", (4, 4), torch.complex128, radius=2.0),
    ],
    "Unitary": _groups("Unitary"),
    "UnitaryRealForm": _groups("UnitaryRealForm"),
    "VectorManifold": [],
    "Blocks": [
        Case("Gates", _blocks(manifolds.Orthogonal, blocks=3, which=(2, 0)), (9, 3), torch.float64),
        Case("Wide", _blocks(manifolds.Unitary, blocks=2, which=(1,), matrix_dims=(-1, -2)), (3, 6), torch.complex128),
        Case(
            "Kernel",
            _blocks(manifolds.Stiefel, blocks=2, matrix_dims=(-3, (-2, -1)), transpose=True),
            (4, 3, 2),
            torch.float64,
        ),
        Case("Batch", _blocks(manifolds.Orthogonal, which=(0,), matrix_dims=(-1, -3)), (3, 2, 3), torch.float64),
        Case(
            "Spheres", _blocks(lambda r: manifolds.Oblique(retraction=r), blocks=2, which=(1,)), (8, 3), torch.float64
        ),
        Case("Tall", _blocks(lambda _: geoopt.EuclideanStiefel(), blocks=2), (8, 3), torch.float64, ("own",)),
    ],
    "adapt": [],
    "manifold_of": [],
}
ALL = [case for rows in CASES.values() for case in rows]
GROUPS = [case for case in ALL if case.make(case.retractions[0]).is_group]
PAIRS = [(case, r) for case in ALL for r in case.retractions]
GROUP_PAIRS = [(case, r) for case in GROUPS for r in case.retractions]


def ids(value):
    return value.name if isinstance(value, Case) else str(value)
