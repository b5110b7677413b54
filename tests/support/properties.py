"""Property tests: how many examples they try, and the points, vectors and matrices that they draw.

`law` is the one switch. Examples are the same on each run, and nothing is written to a database.
"""

import math
from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from manifold_rnn import linalg, manifolds
from support import naive
from support.manifold_cases import ALL, Case
from support.seeds import seeded
from support.tolerances import atol

EXAMPLES = [200, pytest.param(10_000, marks=pytest.mark.slow)]
SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}
SHAPES = [(1, 1), (2, 2), (3, 3), (4, 4), (2, 1), (4, 2), (5, 4), (2, 4)]
BATCHES = [(), (2,), (1, 2), (0,)]


def law(**strategies):
    """Make a test of a function of drawn arguments: 200 examples by default, 10,000 with `-m slow`."""

    def decorate(test):
        def run(examples):
            options = {"deadline": None, "derandomize": True, "database": None, "print_blob": False}
            checks = list(HealthCheck)
            phases = (Phase.explicit, Phase.generate, Phase.shrink)
            chosen = settings(max_examples=examples, suppress_health_check=checks, phases=phases, **options)
            chosen(given(**strategies)(test))()

        run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
        return pytest.mark.parametrize("examples", EXAMPLES)(run)

    return decorate


@dataclass(frozen=True)
class Drawn:
    """A manifold with a retraction, a point on it, and the generator of further numbers."""

    case: Case
    retraction: str
    x: torch.Tensor
    generator: torch.Generator

    @property
    def manifold(self) -> manifolds.Manifold:
        return self.case.make(self.retraction)

    def __repr__(self) -> str:
        return f"{self.case.name}({self.retraction}), {self.x.dtype}, {tuple(self.x.shape)}"

    def normal(self) -> torch.Tensor:
        return torch.randn(self.x.shape, dtype=self.x.dtype, generator=self.generator)


def shapes(case):
    """Shapes of points; one that is assembled from parts, or that geoopt made, has a shape of its own."""
    manifold = case.make(case.retractions[0])
    if manifold.layout is not None or not isinstance(manifold, manifolds.MatrixManifold):
        return [case.shape]
    return [shape for shape in SHAPES if manifold._check_shape(shape, "x")[0]]


def kinds(case):
    """The dtypes of points, in both precisions."""
    free = case.make(case.retractions[0]).is_complex is None and case.name not in ("EuclideanStiefel", "Sphere")
    found = list(SINGLE) if free and case.make(case.retractions[0]).layout is None else [case.dtype]
    return [*found, *(SINGLE[dtype] for dtype in found)]


ROWS = [(case, shape, dtype) for case in ALL for shape in shapes(case) for dtype in kinds(case)]


@st.composite
def points(draw, rows=tuple(ROWS), batches=tuple(BATCHES)):
    """A point of any manifold with any retraction, dtype, shape and batch."""
    case, shape, dtype = draw(st.sampled_from(rows))
    retraction = draw(st.sampled_from(case.retractions))
    batch = draw(st.sampled_from(batches))
    if case.name == "Sphere" and batch == (0,):  # geoopt's fails there
        batch = ()
    generator = seeded(draw(st.integers(0, 2**32 - 1)))
    again = Case(case.name, case.make, shape, SINGLE_OF[dtype], case.retractions, case.solid, case.cone)
    x = again.point(batch, generator).to(dtype)
    if not case.solid and x.numel() and dtype in SINGLE.values():
        x = case.make(case.retractions[0]).polish(x)  # a point up to the rounding of its own precision
    return Drawn(case, retraction, x, generator)


SINGLE_OF = {low: high for high, low in SINGLE.items()} | {dtype: dtype for dtype in SINGLE}
GROUP_ROWS = tuple(row for row in ROWS if row[0].make(row[0].retractions[0]).is_group)
OURS = tuple(row for row in ROWS if row[0].retractions != ("own",))

# from the smallest steps to the largest finite ones, and the lengths at which branches change
LENGTHS = st.one_of(
    st.floats(-30, 40).map(lambda e: 10.0**e),
    st.sampled_from([0.0, 1e-45, 1e-38, 0.1, 0.5, 1.0, 4.0, 64.0, 1e4, 2.0**40, 1.7e38, 3.4e38, 1e300, 1.7e308]),
)
PATTERNS = st.sampled_from(["any", "any", "one entry", "one column", "equal", "large and small"])


def may_overflow(drawn, length):
    """Whether a step of this length in the metric may end beyond the largest number of the dtype."""
    return drawn.case.cone and not length <= math.log(torch.finfo(drawn.x.dtype).max) / 4


def ambient(drawn, pattern, length):
    """A vector of the pattern whose largest entry is so long, or as long as the dtype allows."""
    g = drawn.normal()
    if not g.numel() or g.ndim == 0:
        return g
    if pattern == "one entry":
        mask = torch.zeros_like(g)
        mask[..., -1] = 1
        g = g * mask if g.ndim == 1 else g * mask * (torch.arange(g.shape[-2]) == 0)[:, None]
    elif pattern == "one column":
        g = g * (torch.arange(g.shape[-1]) == 0)
    elif pattern == "equal":
        g = torch.ones_like(g)
    elif pattern == "large and small":
        g = g * torch.where(torch.arange(g.shape[-1]) % 2 == 0, 1.0, 1e-20).to(g.real.dtype)
    largest = torch.finfo(g.dtype).max
    size = torch.view_as_real(g).abs().amax() if g.is_complex() else g.abs().amax()
    g = g / size.clamp(min=torch.finfo(g.dtype).tiny)
    parts = torch.view_as_real(g) if g.is_complex() else g
    parts = parts * min(length, 0.99 * largest)
    return torch.view_as_complex(parts) if g.is_complex() else parts


SPECTRA = ("any", "zero", "one", "tied", "opposite", "spread", "nearly singular", "singular")


@st.composite
def matrices(draw, tall=True, double=False):
    """A general matrix with singular values that are zero, tied, spread, or any, times any size."""
    n = draw(st.integers(1, 5))
    p = draw(st.integers(1, n)) if tall else n
    dtype = draw(st.sampled_from(list(SINGLE) if double else [*SINGLE, *SINGLE.values()]))
    generator = seeded(draw(st.integers(0, 2**32 - 1)))
    high = SINGLE_OF[dtype]
    kind = draw(st.sampled_from(SPECTRA))
    s = {
        "any": torch.rand(p, generator=generator, dtype=torch.float64),
        "zero": torch.zeros(p, dtype=torch.float64),
        "one": torch.ones(p, dtype=torch.float64),
        "tied": torch.linspace(1, 2, p, dtype=torch.float64).round(),
        "opposite": torch.ones(p, dtype=torch.float64) * (-1.0) ** torch.arange(p),
        "spread": torch.logspace(0, -3, p, dtype=torch.float64),
        "nearly singular": torch.linspace(1, 1e-6, p, dtype=torch.float64) if p > 1 else torch.ones(1).double(),
        "singular": (torch.arange(p) < max(p - 1, 0)).double(),
    }[kind]
    U = linalg.qr(torch.randn(n, p, dtype=high, generator=generator))[0]
    V = linalg.qr(torch.randn(p, p, dtype=high, generator=generator))[0]
    scale = draw(st.sampled_from([1.0, 1.0, 1e-3, 1e3, 1e-30, 1e30, 1e-38]))
    return kind, ((U * s.to(high)) @ V.mH * scale).to(dtype)


ANGLES = ("any", "zero", "one", "tied", "conjugate", "small", "near pi", "pi", "long", "very long")


@st.composite
def skews(draw):
    """A skew-Hermitian matrix by its eigenangles: zero, tied, near pi, far beyond."""
    n = draw(st.integers(1, 5))
    dtype = draw(st.sampled_from([*SINGLE, *SINGLE.values()]))
    generator = seeded(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(ANGLES))
    gap = 10.0 ** -draw(st.integers(1, 6))
    base = torch.rand(n, generator=generator, dtype=torch.float64)
    theta = {
        "any": 3 * base,
        "zero": 0 * base,
        "one": torch.where(torch.arange(n) == 0, base, 0),
        "tied": torch.ones_like(base),
        "conjugate": torch.ones_like(base) * (-1.0) ** torch.arange(n),
        "small": 1e-20 * base,
        "near pi": torch.where(torch.arange(n) == 0, torch.pi - gap, base),
        "pi": torch.full_like(base, torch.pi),
        "long": 1e3 * base,
        "very long": 1e8 * base,
    }[kind]
    high = SINGLE_OF[dtype]
    Q = linalg.qr(torch.randn(n, n, dtype=high, generator=generator))[0]
    if high.is_complex:
        A = (Q * (1j * theta)) @ Q.mH
    else:
        J = torch.zeros(n, n, dtype=high)
        for k in range(0, n - 1, 2):
            J[k, k + 1], J[k + 1, k] = -theta[k], theta[k]
        A = Q @ J @ Q.mT
    return kind, linalg.skew(A.to(dtype))


def tolerance(x, slack=1.0):
    """Rounding of the dtype; double precision is not as far above its unit in the table as single is."""
    return slack * atol(x.dtype) * (100 if x.dtype in (torch.float64, torch.complex128) else 1)


def assert_point(drawn, y):
    m = drawn.manifold
    assert y.dtype == drawn.x.dtype and y.shape == drawn.x.shape
    assert bool(y.isfinite().all())
    if y.numel():
        assert float(m.defect(naive.wide(y)).max()) <= tolerance(y) * (1 + sensitivity(m, y))


def sensitivity(m, y):
    """What rounding does to a spectral radius, which no tolerance of entries bounds."""
    parts = m.layout.split(y) if m.layout is not None else (y,)
    members = m.members if m.layout is not None else (m,)
    return max((part.sensitivity(naive.wide(z)) for part, z in zip(members, parts, strict=True)), default=0.0)
