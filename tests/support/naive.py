"""The plain definitions, in double precision, that the maps of linalg are compared with; and arguments for them."""

import torch

from manifold_rnn import linalg

MAPS = ("cayley", "exp", "polar", "qr")


def wide(x):
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def eye(A):
    return torch.eye(A.shape[-1], dtype=A.dtype)


def exp(A):
    return torch.linalg.matrix_exp(A)


def cayley(A):
    return torch.linalg.solve(eye(A) - A / 2, eye(A) + A / 2)


def spectral_radius(x):
    return torch.linalg.eigvals(x).abs().amax(-1)


def polar(x):
    U, _, Vh = torch.linalg.svd(x, full_matrices=False)
    return U @ Vh


def qr(x):
    Q, R = torch.linalg.qr(x)
    d = R.diagonal(dim1=-2, dim2=-1)
    phase = d / d.abs()
    return Q * phase.unsqueeze(-2), R * phase.conj().unsqueeze(-1)


def group_map(name, A):
    """The map of the retraction of that name, of a skew-Hermitian matrix whose exponential may be huge."""
    if name == "exp":
        w, V = torch.linalg.eigh(-1j * A)
        W = (V * torch.exp(1j * w).unsqueeze(-2)) @ V.mH
        return W if A.is_complex() else W.real
    return {"cayley": cayley, "polar": lambda A: polar(eye(A) + A), "qr": lambda A: qr(eye(A) + A)[0]}[name](A)


def random_skew(n, dtype, norm, generator, *, spread=False):
    """Skew-Hermitian of that spectral norm: Gaussian, or with moduli of eigenvalues spread over six decades."""
    double = torch.complex128 if dtype.is_complex else torch.float64
    A = linalg.skew(torch.randn(n, n, dtype=double, generator=generator))
    if spread:
        Q = torch.linalg.qr(torch.randn(n, n, dtype=double, generator=generator))[0]
        theta = torch.zeros(n - 1, dtype=double)
        theta[::2] = torch.logspace(-6, 0, n // 2, dtype=torch.float64).to(double)
        B = torch.diag(theta, 1)
        A = Q @ (B - B.mH) @ Q.mH
    return linalg.skew((A * (norm / torch.linalg.matrix_norm(A, 2))).to(dtype))
