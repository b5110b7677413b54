r"""Recurrent matrices ``W`` that pass a signal from unit to unit, and the normal ones that they are compared with.

States are columns, :math:`h_t = W h_{t-1} + V x_t`, as in torch. So the entries below the diagonal lead forwards.
"""

import torch
from torch import Tensor

from ...linalg import qr
from .checks import at_least_single, require_fill

__all__ = ["chain_", "feedback_chain_", "ramp_", "scaled_identity_", "scaled_orthogonal_", "source_"]


def chain_(W: Tensor, gain: float = 1.02) -> Tensor:
    r"""Fill ``W`` with a chain: each unit drives the next.

    .. math:: W_{i, i-1} = \alpha, \qquad W_{ij} = 0 \text{ else.}

    Parameters
    ----------
    W : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    gain : float
        :math:`\alpha`, 0.99 to 1.05 in the paper.

    Returns
    -------
    Tensor
        ``W``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Notes
    -----
    All eigenvalues are 0, even with a gain above 1, but the norm equals the gain. So a signal can grow for n steps, and
    then vanishes. It must enter at the first unit, see `source_`. The authors' code for torch has the transpose, which
    leads towards unit 0. There, a single input enters at the end of the chain. Source: Orhan and Pitkow (2020).

    Examples
    --------
    >>> W = mr.nn.init.chain_(torch.empty(3, 3))
    >>> assert torch.allclose(W @ torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.02, 0.0]))
    """
    require_fill(W, "chain_", gain=gain)
    with torch.no_grad():
        W.zero_()
        W.diagonal(-1, -2, -1).fill_(gain)
    return W


def feedback_chain_(W: Tensor, gain: float = 0.99, feedback: float = 0.04) -> Tensor:
    r"""Fill ``W`` with a chain in which each unit also drives the previous one.

    .. math:: W_{i, i-1} = \alpha, \qquad W_{i, i+1} = \beta, \qquad W_{ij} = 0 \text{ else.}

    Parameters
    ----------
    W : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    gain : float
        :math:`\alpha`.
    feedback : float
        :math:`\beta`, 0.01 to 0.07 in the paper.

    Returns
    -------
    Tensor
        ``W``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Notes
    -----
    The eigenvalues are :math:`2 \sqrt{\alpha\beta} \cos(\pi k / (n + 1))`. A dense eigenvalue routine computes them
    inaccurately. Source: Orhan and Pitkow (2020).

    Examples
    --------
    >>> W = mr.nn.init.feedback_chain_(torch.empty(3, 3))
    >>> assert torch.allclose(W[1], torch.tensor([0.99, 0.0, 0.04]))
    """
    require_fill(W, "feedback_chain_", gain=gain, feedback=feedback)
    with torch.no_grad():
        chain_(W, gain).diagonal(1, -2, -1).fill_(feedback)
    return W


def ramp_(W: Tensor, size: float = 0.01) -> Tensor:
    r"""Fill ``W`` with a ramp, the initialization of the gates of an LSTM whose candidate has a chain.

    .. math:: W_{ij} = g \frac{i - j}{n - 1}.

    Parameters
    ----------
    W : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    size : float
        ``g``, the entry in the lower left corner.

    Returns
    -------
    Tensor
        ``W``, skew-symmetric.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Notes
    -----
    The direction is that of `chain_`. The authors' code has the transpose of both. Source: Orhan and Pitkow (2020).

    Examples
    --------
    >>> W = mr.nn.init.ramp_(torch.empty(3, 3))
    >>> assert torch.allclose(W[2], torch.tensor([0.01, 0.005, 0.0]))
    """
    require_fill(W, "ramp_", size=size)
    n = W.shape[-1]
    i = torch.arange(n, device=W.device, dtype=W.dtype.to_real())
    with torch.no_grad():
        return W.copy_(size / max(1, n - 1) * (i[:, None] - i))


def scaled_identity_(W: Tensor, gain: float = 1.0) -> Tensor:
    r"""Fill ``W`` with a multiple of the identity.

    .. math:: W = \lambda I.

    Parameters
    ----------
    W : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    gain : float
        :math:`\lambda`.

    Returns
    -------
    Tensor
        ``W``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Examples
    --------
    >>> assert torch.equal(mr.nn.init.scaled_identity_(torch.empty(2, 2), 0.5), 0.5 * torch.eye(2))
    """
    require_fill(W, "scaled_identity_", gain=gain)
    with torch.no_grad():
        W.zero_()
        W.diagonal(0, -2, -1).fill_(gain)
    return W


def scaled_orthogonal_(W: Tensor, gain: float = 1.0, *, generator: torch.Generator | None = None) -> Tensor:
    r"""Fill ``W`` with a multiple of a uniformly random orthogonal or unitary matrix.

    .. math:: W = \lambda Q.

    Parameters
    ----------
    W : Tensor, shape (..., n, n)
        Matrix that is overwritten in place.
    gain : float
        :math:`\lambda`.
    generator : torch.Generator, optional
        Source of the random numbers.

    Returns
    -------
    Tensor
        ``W``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no square matrices, or a number is out of range. Nothing was written then.

    Examples
    --------
    >>> W = mr.nn.init.scaled_orthogonal_(torch.empty(4, 4), 0.5)
    >>> assert mr.linalg.defect(2 * W) < 1e-5
    """
    require_fill(W, "scaled_orthogonal_", gain=gain)
    with torch.no_grad():
        return W.copy_(gain * qr(at_least_single(W).normal_(generator=generator))[0])


def source_(V: Tensor, gain: float = 0.9) -> Tensor:
    r"""Fill an input matrix so that input j enters at unit j, the head of a chain.

    .. math:: V_{jj} = s, \qquad V_{ij} = 0 \text{ else.}

    Parameters
    ----------
    V : Tensor, shape (..., n, m)
        Matrix that is overwritten in place.
    gain : float
        ``s``.

    Returns
    -------
    Tensor
        ``V``.

    Raises
    ------
    ShapeError, DtypeError, OptionError
        If the tensor holds no matrices, or a number is out of range. Nothing was written then.

    Notes
    -----
    A dense input matrix would drive all units at once, and the chain would be of no use. Source: Orhan and Pitkow
    (2020).

    Examples
    --------
    >>> assert torch.equal(mr.nn.init.source_(torch.empty(3, 1)).T, torch.tensor([[0.9, 0.0, 0.0]]))
    """
    require_fill(V, "source_", square=False, gain=gain)
    with torch.no_grad():
        V.zero_()
        V.diagonal(0, -2, -1).fill_(gain)
    return V
