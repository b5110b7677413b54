"""Random points and tangent vectors for the checks, and the estimation of an order from errors."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import geoopt
import torch
from torch import Tensor

from ..errors import DtypeError, NonFiniteError, UnsupportedError
from ..manifolds import Manifold, adapt

STEPS = torch.logspace(-4, 0, 33, dtype=torch.float64)
_DECADE = 9  # number of these steps in a decade
_SALT = 271828  # otherwise points drawn after manual_seed(0) would be parallel to the random vectors
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
    """Return the number; None if the manifold does not support the operation, NaN if its input is NaN."""
    try:
        return f()
    except NotImplementedError:
        return None
    except NonFiniteError:
        return math.nan


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
