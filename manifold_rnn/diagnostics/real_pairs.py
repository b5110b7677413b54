"""Smallest real perturbations that give a real matrix a complex pair of eigenvalues, after Qiu et al. (1995)."""

import math

import torch
from torch import Tensor

_NUMBERS = 2**22  # number of entries in a chunk of shifted matrices
_TIE = 1e-7  # relative to the matrix: perturbation that separates equal singular values
_GRID, _SECTIONS = 13, 24  # search for the scale: points of the grid, and golden sections between them
_GOLDEN = 0.5 * (5**0.5 - 1)
_CLUSTERS = (1e-10, 1e-6, 1e-3)  # relative differences below which singular values count as equal


def last_vectors(W: Tensor, z: Tensor) -> Tensor:
    """Right singular vectors of the smallest singular values of ``zI - W``, (k, n)."""
    eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
    size = max(1, _NUMBERS // W.numel())
    return torch.cat([torch.linalg.svd(part[:, None, None] * eye - W).Vh[:, -1].conj() for part in z.split(size)])


def smallest_values(W: Tensor, z: Tensor) -> Tensor:
    """Smallest singular values of ``zI - W``, (k,): the sizes of the smallest complex perturbations."""
    eye = torch.eye(len(W), dtype=z.dtype, device=W.device)
    size = max(1, _NUMBERS // W.numel())
    return torch.cat([torch.linalg.svdvals(part[:, None, None] * eye - W)[:, -1] for part in z.split(size)])


def sizes_of(E: Tensor) -> Tensor:
    """Norms of perturbations, infinite if there is none."""
    return torch.where(E.isfinite().all(-1).all(-1), torch.linalg.matrix_norm(E.nan_to_num(), 2), math.inf)


def real_pairs(W: Tensor, z: Tensor) -> Tensor:
    """Real perturbations of rank 2 for points ``z`` that are not real, (k, n, n). NaN if none is found.

    Every vector gives a perturbation. The function returns the smallest one, from the last singular vectors and the
    vectors of the optimal scale. If singular values are equal, as for a multiple of the identity, the last vector may
    be real. No real perturbation makes a real vector an eigenvector for ``z``. Then a skew part is added to separate
    the values.
    """
    n = len(W)
    draw = torch.randn(n, n, dtype=W.dtype, generator=torch.Generator().manual_seed(0)).to(W.device)
    skew = (draw - draw.mT) * (_TIE * (float(torch.linalg.matrix_norm(W)) + float(z.abs().max())) / n)
    vectors = [last_vectors(shifted.to(z.dtype), z) for shifted in (W, W + skew)]
    best = torch.full((len(z), n, n), math.nan, dtype=W.dtype, device=W.device)
    for v in (*vectors, *_optimal_vectors(W, z)):
        E = _by_pairs(W, z, v)
        best = torch.where((sizes_of(E) < sizes_of(best))[:, None, None], E, best)
    return best


def _by_pairs(W: Tensor, z: Tensor, v: Tensor) -> Tensor:
    """Real ``E`` with ``(W + E) v = z v``. NaN if the parts of ``v`` are linearly dependent."""
    residual = z[:, None] * v - (W.to(z.dtype) @ v.mT).mT
    pair, image = torch.stack([v.real, v.imag], -1), torch.stack([residual.real, residual.imag], -1)
    length = torch.linalg.vector_norm(pair, dim=1, keepdim=True)
    usable = (length > 0).all(-1).all(-1)
    pair, image = (part / torch.where(usable[:, None, None], length, 1) for part in (pair, image))
    E = image @ torch.linalg.pinv(pair, rtol=1e-10)
    missed = (E @ pair - image).abs().amax((1, 2)) > 1e-8 * image.abs().amax((1, 2))
    E[missed | ~usable] = math.nan
    return E


def _scaled_forms(W: Tensor, z: Tensor, scale: Tensor) -> Tensor:
    """Real form of ``zI - W`` for vectors ``v_1 + i scale v_2``, (k, 2n, 2n)."""
    eye = torch.eye(len(W), dtype=W.dtype, device=W.device)
    real, imag = z.real[:, None, None] * eye - W, z.imag[:, None, None] * eye
    scale = scale[:, None, None]
    return torch.cat([torch.cat([real, -scale * imag], -1), torch.cat([imag / scale, real], -1)], -2)


def _optimal_vectors(W: Tensor, z: Tensor) -> list[Tensor]:
    """Vectors at the optimal scale in (0, 1], which maximizes the second smallest singular value.

    This maximum is the smallest size. Its slope is zero for some vector of the singular values that are equal there.
    """
    scale = _optimal_scales(W, z)
    n, found = len(W), []
    for point, t, form in zip(z, scale, _scaled_forms(W, z, scale), strict=True):
        U, s, Vh = torch.linalg.svd(form)
        rows = []
        for width in _CLUSTERS:
            tie = (s - s[-2]).abs() <= width * s[-2]
            left, right = U[:, tie], Vh[tie].mT
            slope = -(left[:n].mT @ right[n:] * t + left[n:].mT @ right[:n] / t) * point.imag
            values, vectors = torch.linalg.eigh(0.5 * (slope + slope.mT))
            low, high = vectors[:, 0], vectors[:, -1]
            if values[0] < 0 < values[-1]:
                a, b = values[-1].sqrt(), (-values[0]).sqrt()
                weights = torch.stack([a * low + b * high, a * low - b * high])
            else:
                flattest = vectors[:, values.abs().argmin()]
                weights = torch.stack([flattest, flattest])
            v = weights @ right.mT
            rows.append(torch.complex(v[:, :n], t * v[:, n:]))
        found.append(torch.cat(rows))
    return list(torch.stack(found, 1))


def _optimal_scales(W: Tensor, z: Tensor) -> Tensor:
    """The scale that maximizes the second smallest singular value for each point, by a grid and golden sections."""

    def value(logs: Tensor) -> Tensor:
        size = max(1, _NUMBERS // (4 * W.numel()))
        parts = zip(z.split(size), logs.split(size), strict=True)
        return torch.cat([torch.linalg.svdvals(_scaled_forms(W, p, t.exp()))[:, -2] for p, t in parts])

    # below the lower end, the value is less than the smallest singular value of zI - W, so it is not the maximum
    span = z.abs() + torch.linalg.matrix_norm(W, 2)
    smallest = torch.maximum(smallest_values(W, z), 1e-16 * span)
    least = (smallest / span).log() + (z.imag.abs() / span).clamp(min=1e-290).log() - 1
    steps = torch.linspace(0, 1, _GRID, dtype=W.dtype, device=W.device)
    grid = [least * (1 - step) for step in steps]
    values = torch.stack([value(logs) for logs in grid])
    best_value, place = values.max(0)
    best = least * (1 - steps[place])
    width = -least / (_GRID - 1)
    below, above = (best - width).clamp(max=0), (best + width).clamp(max=0)
    left, right = above - _GOLDEN * (above - below), below + _GOLDEN * (above - below)
    at_left, at_right = value(left), value(right)
    for _ in range(_SECTIONS):
        lower = at_left > at_right
        below, above = torch.where(lower, below, left), torch.where(lower, right, above)
        point = torch.where(lower, above - _GOLDEN * (above - below), below + _GOLDEN * (above - below))
        at_point = value(point)
        left, right = torch.where(lower, point, right), torch.where(lower, left, point)
        at_left, at_right = torch.where(lower, at_point, at_right), torch.where(lower, at_left, at_point)
    for logs, at in ((left, at_left), (right, at_right)):
        best, best_value = torch.where(at > best_value, logs, best), torch.maximum(at, best_value)
    return best.exp()
