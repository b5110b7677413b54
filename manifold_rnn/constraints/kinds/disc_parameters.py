"""Parametrizations of eigenvalues inside the unit disc, and their inverses."""

import numpy as np
import torch
from torch import Tensor

# Starting points are moved this far inside, relative to the radius: at the boundary, parameters are infinite.
INSIDE = 1e-4
# Smallest entry below the diagonal of a starting block: its inverse amplifies gradients, and is infinite at c I.
SMALLEST = 1e-2

_FARTHEST = 7.0  # largest nu: exp(-exp(7)) is 0
_STEEPEST = 40.0  # largest sigma: the rounded entries of a steeper block do not determine its eigenvalues


def polar_eigenvalues(raw: Tensor) -> Tensor:
    r"""Return eigenvalues :math:`e^{-e^\nu + i\theta}` with moduli in (0, 1), from parameters (..., k, 2)."""
    nu, theta = raw.unbind(-1)
    # beyond it the modulus is 0 in every precision, and its derivative would be computed as infinity times 0
    return torch.polar((-nu.clamp(max=_FARTHEST).exp()).exp(), theta)


def polar_parameters(eigenvalues: np.ndarray) -> np.ndarray:
    """Invert `polar_eigenvalues`, after clipping the moduli to the range of the parameters."""
    modulus = np.clip(np.abs(eigenvalues), 1e-30, 1 - INSIDE)
    return np.stack([np.log(-np.log(modulus)), np.angle(eigenvalues)], -1)


def rotation_blocks(raw: Tensor) -> Tensor:
    r"""Return blocks :math:`\gamma R(\theta)`, :math:`\gamma = e^{-e^\nu}`, from parameters (..., k, 2)."""
    value = polar_eigenvalues(raw)
    rows = torch.stack([value.real, -value.imag], -1), torch.stack([value.imag, value.real], -1)
    return torch.stack(rows, -2)


def general_blocks(raw: Tensor) -> Tensor:
    r"""Return real 2 x 2 blocks with eigenvalues inside, from parameters :math:`(\delta, \tau, \sigma)`, (..., k, 3).

    .. math:: \begin{pmatrix} t/2 & (t^2/4 - d)/e \\ e & t/2 \end{pmatrix}, \qquad d = \tanh\delta, \quad
        t = (1 + d)\tanh\tau, \quad e = e^\sigma.

    The block has trace t and determinant d, so it is stable if and only if :math:`|d| < 1, |t| < 1 + d`. Up to a
    rotation or reflection, it can be any stable block except a multiple of the identity, which it only approaches.
    Values of ``sigma`` beyond ±40 have no further effect.
    """
    delta, tau, sigma = raw.unbind(-1)
    less, more = 2 * torch.sigmoid(-2 * delta), 2 * torch.sigmoid(2 * delta)  # 1 - d and 1 + d, without cancellation
    sech2 = 4 * torch.sigmoid(2 * tau) * torch.sigmoid(-2 * tau)
    half, below = 0.5 * more * tau.tanh(), sigma.clamp(-_STEEPEST, _STEEPEST).exp()
    above = 0.25 * (less.square() - more.square() * sech2) / below
    return torch.stack([torch.stack([half, above], -1), torch.stack([below, half], -1)], -2)


def general_parameters(half_trace: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Invert `general_blocks` for blocks ``[[half_trace, above], [below, half_trace]]`` well inside, below > 0."""
    d = half_trace**2 - above * below
    tau = np.arctanh(np.clip(2 * half_trace / (1 + d), -1 + 1e-15, 1 - 1e-15))
    return np.stack([np.arctanh(d), tau, np.log(below)], -1)


def equal_diagonal(block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return orthogonal ``q`` and ``q^T block q``: equal diagonal entries, a positive and larger entry below."""
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
    """Return the flat indices of the entries of the blocks, followed by those above the blocks."""
    block = np.arange(n) // width
    starts = range(0, n - width + 1, width)
    inside = [(i + a) * n + i + b for i in starts for a in range(width) for b in range(width)]
    single = [n * n - 1] if n % width else []
    above = np.flatnonzero(block[:, None] < block[None, :])
    return np.concatenate([np.array([*inside, *single], dtype=np.int64), above])


def reach(weight: Tensor, radius: float) -> float:
    """Return how far moving its eigenvalues inside the disc may change a weight."""
    return 2 * INSIDE * (float(torch.linalg.vector_norm(weight)) + radius)
