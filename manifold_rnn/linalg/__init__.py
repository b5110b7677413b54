"""Pure batched functions of matrices, real and complex in one body, each with its own adjoint; no state."""

from .cayley import cayley
from .exponential import expm_skew
from .logarithm import logm_unitary
from .orthogonalize import cholesky_qr, defect, polar, polish, qr
from .precision import fixed_iterations
from .skew import pack_skew, skew, unpack_skew

__all__ = [
    "cayley",
    "cholesky_qr",
    "defect",
    "expm_skew",
    "fixed_iterations",
    "logm_unitary",
    "pack_skew",
    "polar",
    "polish",
    "qr",
    "skew",
    "unpack_skew",
]
