"""Eigenvalues inside the unit disc for all values of their parameters, and the parameters that give them."""

import numpy as np
import torch
from torch import Tensor

# A starting point is put this far inside, relative to the radius: on the boundary parameters are infinite.
INSIDE = 1e-4
# Least entry below the diagonal of a starting block: parameters are stiff by its inverse, infinite at c I.
SMALLEST = 1e-2

_FARTHEST = 7.0  # of nu: exp(-exp(7)) is 0
_STEEPEST = 40.0  # of sigma: a steeper block has no eigenvalues that its rounded entries still tell


def polar_eigenvalues(raw: Tensor) -> Tensor:
    r"""Eigenvalues :math:`e^{-e^\nu + i\theta}` from parameters (..., k, 2): modulus in (0, 1)."""
    nu, theta = raw.unbind(-1)
    # beyond it the modulus is 0 in every precision, and its derivative would be infinity times 0
    return torch.polar((-nu.clamp(max=_FARTHEST).exp()).exp(), theta)


def polar_parameters(eigenvalues: np.ndarray) -> np.ndarray:
    """Inverse of `polar_eigenvalues`, for moduli brought into what the parameters reach."""
    modulus = np.clip(np.abs(eigenvalues), 1e-30, 1 - INSIDE)
    return np.stack([np.log(-np.log(modulus)), np.angle(eigenvalues)], -1)


def rotation_blocks(raw: Tensor) -> Tensor:
    r"""Blocks :math:`\gamma R(\theta)`, :math:`\gamma = e^{-e^\nu}`, from parameters (..., k, 2)."""
    value = polar_eigenvalues(raw)
    rows = torch.stack([value.real, -value.imag], -1), torch.stack([value.imag, value.real], -1)
    return torch.stack(rows, -2)


def general_blocks(raw: Tensor) -> Tensor:
    r"""Real 2 x 2 blocks with eigenvalues inside, from parameters :math:`(\delta, \tau, \sigma)`, shape (..., k, 3).

    .. math:: \begin{pmatrix} t/2 & (t^2/4 - d)/e \\ e & t/2 \end{pmatrix}, \qquad d = \tanh\delta, \quad
        t = (1 + d)\tanh\tau, \quad e = e^\sigma,

    has trace t and determinant d, and :math:`|d| < 1, |t| < 1 + d` is stability. Up to a rotation or reflection it is
    every stable block but the multiples of the identity, which it approaches. Beyond 40 the size of ``sigma`` has no
    effect.
    """
    delta, tau, sigma = raw.unbind(-1)
    less, more = 2 * torch.sigmoid(-2 * delta), 2 * torch.sigmoid(2 * delta)  # 1 - d and 1 + d, without cancellation
    sech2 = 4 * torch.sigmoid(2 * tau) * torch.sigmoid(-2 * tau)
    half, below = 0.5 * more * tau.tanh(), sigma.clamp(-_STEEPEST, _STEEPEST).exp()
    above = 0.25 * (less.square() - more.square() * sech2) / below
    return torch.stack([torch.stack([half, above], -1), torch.stack([below, half], -1)], -2)


def general_parameters(half_trace: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Inverse of `general_blocks` for blocks ``[[half_trace, above], [below, half_trace]]`` well inside, below > 0."""
    d = half_trace**2 - above * below
    tau = np.arctanh(np.clip(2 * half_trace / (1 + d), -1 + 1e-15, 1 - 1e-15))
    return np.stack([np.arctanh(d), tau, np.log(below)], -1)


def equal_diagonal(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Orthogonal ``q``, and ``q^T block q`` with equal diagonal entries and the larger other entry, positive, below."""
    (a, b), (c, d) = block
    angle = 0.5 * np.arctan2(d - a, b + c)
    q = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turned = q.T @ block @ q
    if abs(turned[0, 1]) > abs(turned[1, 0]):
        q = q[:, ::-1]
    if (q.T @ block @ q)[1, 0] < 0:
        q = q * np.array([1.0, -1.0])
    turned = q.T @ block @ q
    turned[1, 0] = max(turned[1, 0], SMALLEST)
    return q, turned


def block_places(n: int, width: int) -> np.ndarray:
    """Flat indices of the entries of the blocks, then of those above them."""
    block = np.arange(n) // width
    starts = range(0, n - width + 1, width)
    inside = [(i + a) * n + i + b for i in starts for a in range(width) for b in range(width)]
    single = [n * n - 1] if n % width else []
    above = np.flatnonzero(block[:, None] < block[None, :])
    return np.concatenate([np.array([*inside, *single], dtype=np.int64), above])


def reach(weight: Tensor, radius: float) -> float:
    """How far the step inside may move a weight."""
    return 2 * INSIDE * (float(torch.linalg.vector_norm(weight)) + radius)
