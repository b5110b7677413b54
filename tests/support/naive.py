"""The plain definitions, in double precision, that the maps of linalg are compared with; and arguments for them."""

import itertools

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


def doubly_stochastic(kind, p, n, sweeps):
    """The matrix of `Birkhoff` from its parameters, entry by entry; p is Q, or the logits."""
    if kind == "orthostochastic":
        return torch.stack([torch.stack([p[i, j] ** 2 for j in range(n)]) for i in range(n)])
    W = p.exp()
    if kind == "permutations":
        W, total = 0, W.sum()
        for weight, order in zip(p.exp(), itertools.permutations(range(n)), strict=True):
            W = W + weight / total * torch.eye(n, dtype=p.dtype)[list(order)]
        return W
    for _ in range(sweeps):
        W = W / W.sum(0, keepdim=True)
        W = W / W.sum(1, keepdim=True)
    return W


def composed(a, b):
    """The kernel (out, in, *taps) of one convolution after another, tap by tap."""
    taps = [m + n - 1 for m, n in zip(a.shape[2:], b.shape[2:], strict=True)]
    sums = {}
    for i in itertools.product(*map(range, a.shape[2:])):
        for j in itertools.product(*map(range, b.shape[2:])):
            place = tuple(m + n for m, n in zip(i, j, strict=True))
            sums[place] = sums.get(place, 0) + a[(..., *i)] @ b[(..., *j)]
    return torch.stack([sums[p] for p in itertools.product(*map(range, taps))], -1).unflatten(-1, taps)


def orthogonal_kernel(core, projectors, counts):
    """The core times factors of two taps, P and I - P, along the axes in turn; every other one flipped."""
    left, kernel, used = list(counts), core, iter(projectors)
    while any(left):
        for axis in range(len(counts)):
            if not left[axis]:
                continue
            P = next(used)
            taps = [P, torch.eye(P.shape[-1], dtype=P.dtype) - P]
            if (counts[axis] - left[axis]) % 2:
                taps.reverse()
            shape = [2 if a == axis else 1 for a in range(len(counts))]
            kernel = composed(kernel, torch.stack(taps, -1).unflatten(-1, shape))
            left[axis] -= 1
    return kernel


def exponential_kernel(L, terms):
    """The exponential series of a kernel, by convolutions of the kernel with itself."""
    axes, c = L.ndim - 2, L.shape[0]
    one = torch.eye(c, dtype=L.dtype).reshape(c, c, *[1] * axes)
    total, power = one, one
    for k in range(1, terms + 1):
        power = composed(power, L) / k
        half = [p for n in reversed(L.shape[2:]) for p in [n // 2] * 2]
        total = torch.nn.functional.pad(total, half) + power
    return total
