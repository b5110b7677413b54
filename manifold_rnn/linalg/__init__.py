"""Functions of matrices: batched, real and complex, each with its own adjoint. They keep no state.

The exponential of a skew-Hermitian matrix is unitary, and the logarithm inverts it:

>>> A = mr.linalg.skew(torch.randn(8, 4, 4, dtype=torch.complex128)) / 4
>>> U = mr.linalg.expm_skew(A)
>>> assert mr.linalg.defect(U).max() < 1e-12 and torch.allclose(mr.linalg.logm_unitary(U), A)

The coordinates of ``A`` in an orthonormal basis are a vector of n^2 real numbers:

>>> c = mr.linalg.pack_skew(A)
>>> assert c.shape == (8, 16) and torch.allclose(mr.linalg.unpack_skew(c, A.dtype), A)

`polar` returns the nearest orthonormal matrix, and is differentiable:

>>> W = torch.randn(6, 3, requires_grad=True)
>>> mr.linalg.polar(W).sum().backward()
>>> assert W.grad.isfinite().all()
"""

from .cayley import cayley
from .cayley_series import cayley_series, cayley_series_defect
from .clipping import clip_singular_values
from .defect import defect
from .exponential import expm_skew
from .logarithm import logm_unitary
from .msign import msign
from .polar import polar, polish
from .precision import fixed_iterations
from .qr import cholesky_qr, qr
from .skew import pack_skew, skew, unpack_skew
from .spectrum import spectral_condition, spectral_radius

__all__ = [
    "cayley",
    "cayley_series",
    "cayley_series_defect",
    "cholesky_qr",
    "clip_singular_values",
    "defect",
    "expm_skew",
    "fixed_iterations",
    "logm_unitary",
    "msign",
    "pack_skew",
    "polar",
    "polish",
    "qr",
    "skew",
    "spectral_condition",
    "spectral_radius",
    "unpack_skew",
]
