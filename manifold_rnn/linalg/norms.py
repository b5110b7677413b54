"""Norms of tangent vectors of any length. Squares of tiny entries underflow, and those of huge entries overflow."""

import math

import torch
from torch import Tensor

_ORDINARY = 1e-12, 1e12  # entries in this range have accurate squares in single precision


def norm(u: Tensor, *, keepdim: bool = False) -> Tensor:
    """Return the Frobenius norm of matrices."""
    scale = scale_of(u)
    size = torch.linalg.vector_norm(u / scale, dim=(-2, -1), keepdim=True) * scale
    return size if keepdim else size.squeeze((-2, -1))


def spectral_norm(x: Tensor) -> Tensor:
    """Return the largest singular value of each matrix, (...), or infinity if it overflows."""
    scaled, scale = normalized(x)
    value: Tensor = torch.linalg.matrix_norm(scaled, 2) * scale[..., 0, 0]
    return value


def largest_part(x: Tensor) -> Tensor:
    """Return the largest real or imaginary part of each matrix, (..., 1, 1), finite even if a modulus overflows."""
    x = x.detach()
    parts = torch.maximum(x.real.abs(), x.imag.abs()) if x.is_complex() else x.abs()
    return parts.amax((-2, -1), keepdim=True)


def power_of_two_below(size: Tensor) -> Tensor:
    """Return the largest power of two that is not above ``size``, so that dividing by it is exact; 1 for 0.

    It is not subnormal, because a complex number divided by a subnormal one is NaN.
    """
    exponent = torch.floor(torch.log2(torch.where(size > 0, size, 1)))
    smallest, largest = (math.frexp(x)[1] - 1 for x in (torch.finfo(size.dtype).tiny, torch.finfo(size.dtype).max))
    return torch.exp2(exponent.clamp(smallest, largest))  # the computed logarithm of the largest is rounded up


def normalized(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix for LAPACK, and the power of two that divided it, so that its largest entry is near 1."""
    scale = unit_of(x)
    return without_vanishing(x / scale), scale


def unit_of(x: Tensor) -> Tensor:
    """Return powers of two, (..., 1, 1), near the largest entry, that divide a matrix without loss."""
    return power_of_two_below(largest_part(x))


def without_vanishing(x: Tensor) -> Tensor:
    """Return a normalized matrix without its tiniest parts, since LAPACK returns NaN for complex columns of these."""
    if not x.is_complex():
        return x
    information = torch.finfo(x.dtype)
    real, imag = (torch.where(part.abs() < information.tiny / information.eps, 0, part) for part in (x.real, x.imag))
    return torch.complex(real, imag)


def scale_of(u: Tensor) -> Tensor:
    """Return powers of two, (..., 1, 1), that bring the largest entry into the safe range; 1 if it is there, or 0."""
    largest = u.detach().abs().amax((-2, -1), keepdim=True)
    ordinary = (largest == 0) | ((largest > _ORDINARY[0]) & (largest < _ORDINARY[1])) | ~largest.isfinite()
    return power_of_two_below(torch.where(ordinary, 1, largest))
