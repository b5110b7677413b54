"""The growth of the powers of a matrix: numerical radius, Kreiss constant, and norms of powers."""

import math

import torch
from torch import Tensor

from ..linalg.norms import normalized
from .schur import SchurForm

EVERY_POWER = 32  # every power up to this one, then 16 in each octave
_LARGEST_POWER = 2**16
_ANGLES = 24
_LEAST_DISTANCE = 1e-8  # closer to the circle, a resolvent is too inaccurate


def numerical_radius(W: Tensor, norm: float, radius: float) -> float:
    r"""Largest modulus :math:`|x^H W x|` of a unit vector, between the spectral radius and the norm.

    It is the maximum over angles of the largest eigenvalue of the Hermitian part of :math:`e^{i\theta} W`. The
    derivative of this eigenvalue comes from an eigenvector. A zero of the derivative is found between grid angles
    around the largest values.
    """
    if radius >= norm * (1 - 1e-14):  # true for every normal matrix
        return norm
    scaled, unit = normalized(W)
    scaled, gap = scaled.to(torch.complex128), 2 * math.pi / _ANGLES
    last = _ANGLES // 2 if not W.is_complex() else _ANGLES - 1  # symmetric about the real axis
    grid = [_support(scaled, gap * k) for k in range(last + 1)]
    best = max(value for value, _ in grid)
    for k in sorted(range(len(grid)), key=lambda k: -grid[k][0])[:2]:
        best = max(best, _peak(scaled, gap * k, gap, grid[k]))
    return min(max(best * float(unit), radius, norm / 2), norm)


def _peak(W: Tensor, angle: float, gap: float, start: tuple[float, float]) -> float:
    """The largest value near an angle. Secant steps find a zero of the derivative next to it."""
    best, slope = start
    low, high = (angle, angle + gap) if slope > 0 else (angle - gap, angle)
    before, slope_before = angle, slope
    angle = angle + math.copysign(gap / 2, slope)
    for _ in range(12):
        if abs(slope) <= 1e-7 * best or high - low < 1e-9:
            break
        value, slope = _support(W, angle)
        best = max(best, value)
        low, high = (angle, high) if slope > 0 else (low, angle)
        step = slope * (angle - before) / (slope_before - slope) if slope != slope_before else 0.0
        before, slope_before = angle, slope
        angle = angle + step if low < angle + step < high else (low + high) / 2
    return best


def _support(W: Tensor, angle: float) -> tuple[float, float]:
    """The largest eigenvalue of the Hermitian part after a rotation, and its derivative with respect to the angle."""
    turned = W * complex(math.cos(angle), math.sin(angle))
    values, vectors = torch.linalg.eigh((turned + turned.mH) / 2)
    x = vectors[:, -1]
    return float(values[-1]), -float(torch.vdot(x, turned @ x).imag)


def kreiss_constant(form: SchurForm, slack: float) -> float:
    r"""Lower bound of :math:`\sup_{|z|>1} (|z| - 1) / s_{\min}(zI - W)`, by a grid and a refinement."""
    if form.radius > 1 + slack:
        return math.inf
    if form.norm <= 1 + _norm_slack(form.radius, slack):  # no power has a larger norm than the identity
        return 1.0
    least = max(slack, _LEAST_DISTANCE, min(1e-4, 1 - form.radius))
    logs = torch.linspace(math.log(least), math.log(10 * max(1.0, form.norm)), 24, dtype=torch.float64)
    logs, angles = (x.to(form.T.device) for x in (logs, form.angles(1.0)))
    value, place = _kreiss(form, logs[:, None], angles, 1e-2)
    centre = torch.stack([logs[place // len(angles)], angles[place % len(angles)]])
    steps = torch.stack([logs[1] - logs[0], angles.new_tensor(math.pi / 32)])
    offsets = torch.linspace(-1, 1, 5, dtype=torch.float64, device=form.T.device)
    for _ in range(7):
        around = centre[:, None] + steps[:, None] * offsets
        value, place = _kreiss(form, around[0][:, None], around[1], 1e-6)
        centre, steps = torch.stack([around[0][place // 5], around[1][place % 5]]), steps / 2
    return max(1.0, value)


def _kreiss(form: SchurForm, logs: Tensor, angles: Tensor, tol: float) -> tuple[float, int]:
    distances, angles = torch.broadcast_tensors(logs.exp(), angles)
    quotients = distances / form.resolvent(torch.polar(1 + distances, angles.contiguous()), tol)
    return float(quotients.max()), int(quotients.argmax())


def transient_growth(W: Tensor, radius: float, slack: float) -> tuple[float, int | None]:
    """Largest norm of a power, and the exponent. Returns infinity and None if the powers diverge or overflow."""
    diverges = math.inf, None
    if radius > 1 + slack:
        return diverges
    if _norm(W) <= 1 + _norm_slack(radius, slack):
        return 1.0, 0
    powers, step, k, power, before = [W], 1, 1, W, torch.eye(len(W), dtype=W.dtype, device=W.device)
    best, octave, vector = (1.0, 0, before, before), [1.0], W.new_ones(len(W), 1)
    while k <= _LARGEST_POWER:
        if not power.isfinite().all():
            return diverges
        bound = _bound(power)
        if bound < 1:
            break
        if bound > best[0]:
            size, vector = _estimate(power, vector)
            if size > best[0]:
                best = size, k, power, before
        if k & (k - 1) == 0:
            octave.append(bound)
            if k >= EVERY_POWER:
                powers.append(powers[-1] @ powers[-1])
                step *= 2
        before, power, k = power, power @ powers[-1], k + step
    else:
        if radius > 1 - slack and octave[-1] > 1.5 * octave[-2]:
            return diverges
    return _refined(best, powers)


def _norm_slack(radius: float, slack: float) -> float:
    """Return how much a norm may exceed 1 by rounding. Nearly orthogonal matrices have the slack of the radius."""
    return slack if radius > 1 - slack else 1e-12


def _refined(best: tuple[float, int, Tensor, Tensor], powers: list[Tensor]) -> tuple[float, int | None]:
    """Search every power around the best one of a coarse search. ``best`` contains the power before it."""
    _, k, power, before = best
    size = _norm(power)
    step = 1 if k <= EVERY_POWER else 2 ** ((k - 1).bit_length() - 1) // EVERY_POWER * 2
    while step > 1:
        step //= 2
        lower, higher = before @ powers[step.bit_length() - 1], power @ powers[step.bit_length() - 1]
        sizes = {k - step: _norm(lower), k: size, k + step: _norm(higher)}
        moved = max(sizes, key=lambda j: sizes[j])
        before = {k - step: before, k: lower, k + step: power}[moved]
        power = {k - step: lower, k: power, k + step: higher}[moved]
        k, size = moved, sizes[moved]
    return (size, k) if size > 1 else (1.0, 0)


def _norm(W: Tensor) -> float:
    scaled, unit = normalized(W)
    return float(torch.linalg.matrix_norm(scaled, 2) * unit)


def _bound(W: Tensor) -> float:
    """An upper bound of the norm from sums of moduli."""
    size = W.abs()
    return min(float(torch.linalg.matrix_norm(W)), math.sqrt(float(size.sum(0).max()) * float(size.sum(1).max())))


def _estimate(W: Tensor, vector: Tensor) -> tuple[float, Tensor]:
    """A lower bound of the norm, by power iteration from the vector of the previous power."""
    scaled, unit = normalized(W)
    for _ in range(20):
        vector = scaled.mH @ (scaled @ vector)
        size = torch.linalg.vector_norm(vector)
        if not size > 0:
            return 0.0, W.new_ones(len(W), 1)
        vector = vector / size
    return float(torch.linalg.vector_norm(scaled @ vector) * unit), vector
