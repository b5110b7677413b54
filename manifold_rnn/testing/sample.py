"""What the checks share: random points and tangent vectors, orders of errors, derivatives and differences."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import geoopt
import torch
from torch import Tensor

from ..errors import DtypeError, ManifoldError, NonFiniteError, OffManifoldError, UnsupportedError
from ..manifolds import Manifold, adapt, manifold_of

STEPS = torch.logspace(-4, 0, 33, dtype=torch.float64)
_DECADE = 9  # number of these steps in a decade
_SALT = 271828  # otherwise points drawn after manual_seed(0) would be parallel to the random vectors
_QUOTIENT_STEPS = (1e-4, 1e-5, 1e-6, 1e-7)
_ROUNDING = 1e-12  # errors below this, relative to the point, do not determine the order


def adapted_with_points(manifold: geoopt.Manifold, x: Tensor | None) -> tuple[Manifold, Tensor]:
    """Return the manifold with this package's methods, and points in double precision: ``x``, or two random ones."""
    m = adapt(manifold)
    x = _random(m) if x is None else x
    x = x.detach().as_subclass(Tensor).to(torch.complex128 if x.is_complex() else torch.float64)
    on: Tensor = m.projx(x)
    return m, on.as_subclass(Tensor)


def _random(m: Manifold) -> Tensor:
    shape = (2, *m.example_shape())
    x: Tensor
    try:
        x = m.random(*shape, dtype=torch.float64)
    except DtypeError:
        x = m.random(*shape, dtype=torch.complex128)
    except ValueError:  # some of geoopt's manifolds have a fixed dtype
        x = m.random(*shape)
    except NotImplementedError:
        raise UnsupportedError(
            f"{m.name} has no random points.\nExpected points for the check, got x=None.\nPass points as x."
        ) from None
    return x


def random_tangent(m: Manifold, x: Tensor) -> Tensor:
    """Return a random tangent vector; the largest norm in the batch is 1."""
    u: Tensor = m.proju(x, torch.randn_like(x))
    return u / worst(inner(m, x, u, u)) ** 0.5 if u.numel() else u


def inner(m: Manifold, x: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """Return the metric as one number per point; some of geoopt's manifolds are right only with ``keepdim``."""
    value: Tensor = m.inner(x, u, v, keepdim=True)
    return value


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Context in which torch's random numbers on the CPU start from ``seed``, and no gradients are recorded."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(_SALT + seed)
        yield


def worst(x: Tensor) -> float:
    """Return the largest modulus, 0 for an empty tensor, or NaN if there is one."""
    return float(x.detach().abs().max()) if x.numel() else 0.0


def refusable(f: Callable[[], float]) -> float | None:
    """Return the number; None if the manifold does not support the operation.

    NaN if its input is NaN, and infinity if it refuses the result of another map as a point.
    """
    try:
        return f()
    except NotImplementedError:
        return None
    except NonFiniteError:
        return math.nan
    except OffManifoldError:
        return math.inf


def slope(error: Callable[[float], Tensor], scale: float = 1.0) -> float:
    r"""Return the exponent of ``error(t) ~ t^slope``, by least squares on logarithms.

    The error of a batch is its norm. The fit uses the shortest decade of steps whose errors are above rounding error.
    These are steps near 1e-4 for low orders, and longer ones for high orders. The result is infinite if the errors are
    rounding errors up to a step of 1.
    """
    used: list[tuple[float, float]] = []
    for t in STEPS.tolist():
        size = float(torch.linalg.vector_norm(error(t)).to(torch.float64))
        if not math.isfinite(size):
            return math.nan
        used = [*used, (t, size)] if size > _ROUNDING * scale else []
        if len(used) == _DECADE:
            break
    if len(used) < 3:
        return math.inf
    log_t, log_e = torch.tensor(used, dtype=torch.float64).log().unbind(-1)
    centred = log_t - log_t.mean()
    return float((centred * log_e).sum() / centred.square().sum())


def directional_error(f: Callable[[Sequence[Tensor]], Tensor], points: Sequence[Tensor]) -> float:
    """Return the largest relative error of the derivatives that autograd computes for a real function of tensors.

    For each tensor the derivative along a random tangent vector is compared with difference quotients of order 4. The
    quotient moves a tensor that has a manifold by its retraction. Errors are relative to the largest derivative. The
    smallest error over all steps counts, since a long step may cross a kink and a short one has rounding errors.
    """
    leaves = [x.detach().clone().requires_grad_() for x in points]
    with torch.enable_grad():
        y = f(leaves)
        gradients = torch.autograd.grad(y, leaves, allow_unused=True) if y.requires_grad else [None] * len(leaves)
    errors, sizes = [], [1e-3]
    for k, (point, gradient) in enumerate(zip(points, gradients, strict=True)):
        if point.numel():
            x, m = point.detach().as_subclass(Tensor), manifold_of(point)
            u = torch.randn_like(x)
            u = u if m is None else m.proju(x, u).as_subclass(Tensor)
            along = 0.0 if gradient is None else float((gradient.as_subclass(Tensor).conj() * u).real.sum())
            quotients = [_quotient(f, leaves, k, x, u, m, h) for h in _QUOTIENT_STEPS]
            errors.append(min(abs(quotient - along) for quotient in quotients))
            sizes.append(min(map(abs, quotients)))
    return largest(errors) / max(sizes)


def _quotient(
    f: Callable[[Sequence[Tensor]], Tensor],
    points: Sequence[Tensor],
    k: int,
    x: Tensor,
    u: Tensor,
    m: Manifold | None,
    h: float,
) -> float:
    """Return the difference quotient of order 4 along ``u`` in the tensor ``k``."""

    def value(t: float) -> float:
        moved = x + t * u if m is None else m.retr(x, t * u).as_subclass(Tensor)
        with torch.no_grad():
            return float(f([*points[:k], moved, *points[k + 1 :]]))

    return (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)


def difference(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of tensors, infinite if their shapes differ, 0 if bit-equal."""
    if len(a) != len(b) or any(x.shape != y.shape for x, y in zip(a, b, strict=True)):
        return math.inf
    pairs = [(x.detach(), y.detach()) for x, y in zip(a, b, strict=True)]
    return largest(0.0 if torch.equal(x, y) else worst(x - y) for x, y in pairs)


def largest(numbers: Iterable[float]) -> float:
    """Return the largest number, NaN if there is one, or 0 if there are none."""
    return max(numbers, key=lambda value: math.inf if math.isnan(value) else value, default=0.0)


def or_infinite(f: Callable[[], float]) -> float:
    """Return the number, or infinity if the object raises an error of this package."""
    try:
        return f()
    except ManifoldError:
        return math.inf


def refuses(f: Callable[[], object]) -> bool:
    """Return whether the call raises an error of this package, and not another error or none."""
    try:
        f()
    except ManifoldError:
        return True
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError):
        return False
    return False
