"""Pure batched functions of matrices, real and complex in one body, each with its own adjoint; no state."""

from .cayley import cayley
from .clipping import clip_singular_values
from .defect import defect
from .exponential import expm_skew
from .logarithm import logm_unitary
from .polar import polar, polish
from .precision import fixed_iterations
from .qr import cholesky_qr, qr
from .skew import pack_skew, skew, unpack_skew
from .spectrum import spectral_condition, spectral_radius

__all__ = [
    "cayley",
    "cholesky_qr",
    "clip_singular_values",
    "defect",
    "expm_skew",
    "fixed_iterations",
    "logm_unitary",
    "pack_skew",
    "polar",
    "polish",
    "qr",
    "skew",
    "spectral_condition",
    "spectral_radius",
    "unpack_skew",
]
