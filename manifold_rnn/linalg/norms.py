"""Norms of tangent vectors of any length: squares of tiny numbers vanish, and those of huge ones overflow."""

import torch
from torch import Tensor

_ORDINARY = 1e-12, 1e12  # entries whose squares lose nothing in single precision


def norm(u: Tensor, *, keepdim: bool = False) -> Tensor:
    """Return the Frobenius norm of matrices."""
    scale = scale_of(u)
    size = torch.linalg.vector_norm(u / scale, dim=(-2, -1), keepdim=True) * scale
    return size if keepdim else size.squeeze((-2, -1))


def scale_of(u: Tensor) -> Tensor:
    """Return powers of two, (..., 1, 1), that make the largest entry one of ordinary size; 1 where it is one, or 0."""
    largest = u.detach().abs().amax((-2, -1), keepdim=True)
    ordinary = (largest == 0) | ((largest > _ORDINARY[0]) & (largest < _ORDINARY[1])) | ~largest.isfinite()
    exponent = torch.floor(torch.log2(torch.where(ordinary, 1, largest)))
    return torch.exp2(exponent.clamp(min=-126))
