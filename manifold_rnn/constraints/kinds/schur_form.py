"""The Schur form of nnRNN: a rotated block-triangular matrix whose eigenvalues are parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...linalg.checks import require_matrix
from ...linalg.precision import without_autocast
from ...manifolds import SpecialOrthogonal, Unitary
from ...retractions import Retraction, get
from ..constraint import Constraint
from ..parametrization import Parametrization
from ..trivialized import Trivialization
from .disc_parameters import block_places


@dataclass(frozen=True, eq=False)
class SchurForm(Constraint):
    r"""Matrices parametrized by their Schur form, with moduli that a penalty keeps near 1 and a free non-normal part.

    .. math:: W = P (\Lambda + T) P^{\mathsf H}, \qquad \Lambda = \operatorname{blockdiag}\bigl(
        \gamma_j R(\theta_j)\bigr), \quad R(\theta) = \begin{pmatrix} \cos\theta & -\sin\theta \\
        \sin\theta & \cos\theta \end{pmatrix}.

    Here :math:`P = \varphi(A)` is a rotation and ``T`` is strictly above the blocks. The eigenvalues of ``W`` are
    exactly :math:`\gamma_j e^{\pm i\theta_j}`, and one more real number for odd n. With T = 0 and :math:`\gamma = 1`
    the weight is orthogonal. For complex weights ``P`` is unitary and the blocks are numbers
    :math:`\gamma_j e^{i\theta_j}`.

    Parameters
    ----------
    retraction : str or Retraction
        :math:`\varphi`. The paper uses the exponential.
    legacy_mask : bool
        Whether ``T`` includes the upper right entry of each block, as in the released code. The eigenvalues then differ
        from these values and may leave the disc.

    Raises
    ------
    OptionError
        If ``retraction`` is unknown.

    Notes
    -----
    The moduli are not bounded; use `SchurDisc` to keep them below 1. The released training adds
    :math:`\delta \sum_j (\gamma_j - 1)^2` to the loss, which is the module's ``penalty()`` times a weight, and L2 decay
    on ``T``. Even with all moduli 1, the norm of ``W`` is unbounded.

    The parameters ``moduli`` and ``angles`` are real, with one of each per block. A leftover eigenvalue is a modulus of
    any sign. The others are ``triangle``, and ``frame.coordinates`` of ``A``. Real weights of even size have
    n(n - 1)/2 + n + n(n - 2)/2 numbers, and n/2 more with ``legacy_mask``.

    Angles start uniform, moduli as 1, and ``A`` and ``T`` as zero. In the paper ``A`` starts with the same blocks,
    which gives the same ``W``. Only shape and dtype of a given weight are used, and no weight can be assigned. Source:
    Kerg et al. (2019).

    Examples
    --------
    >>> rnn = mr.nn.RNN(2, 6, constraint=mr.SchurForm(), view="trivialized")
    >>> assert torch.allclose(torch.linalg.eigvals(rnn.weight_hh_l0).abs(), torch.ones(6), atol=1e-5)
    >>> assert rnn.constraints["weight_hh_l0"].penalty() == 0
    """

    retraction: str | Retraction = "exp"
    legacy_mask: bool = False

    def __post_init__(self) -> None:
        get(self.retraction)

    def trivialize(self, like: Tensor) -> SchurFormParametrization:
        """Return the parametrization of a random weight with the shape and dtype of ``like``."""
        require_matrix(like, "SchurForm")
        return SchurFormParametrization(self, like)


class SchurFormParametrization(Parametrization):
    """A matrix parametrized by ``frame``, ``moduli``, ``angles`` and ``triangle``."""

    places: Tensor

    def __init__(self, constraint: SchurForm, like: Tensor) -> None:
        super().__init__()
        batch, n, width = like.shape[:-2], like.shape[-1], 1 if like.is_complex() else 2
        places = block_places(n, width)
        if constraint.legacy_mask:
            inside = (n // width) * width**2 + n % width
            places = np.concatenate([places[:inside], np.flatnonzero(np.triu(np.ones((n, n)), 1))])
        self.keep_constant("places", torch.from_numpy(places), like.device)
        group = (Unitary if like.is_complex() else SpecialOrthogonal)(constraint.retraction)
        self.frame = Trivialization(group, torch.eye(n, dtype=like.dtype, device=like.device).expand_as(like))
        self.moduli = nn.Parameter(like.real.new_empty(*batch, n // width + n % width))
        self.angles = nn.Parameter(like.real.new_empty(*batch, n // width))
        self.triangle = nn.Parameter(like.new_empty(*batch, len(places) - width**2 * (n // width) - n % width))
        self.reset()

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw new angles, and reset the other parameters so that the weight is orthogonal with these eigenangles."""
        self.angles.uniform_(0, 2 * math.pi, generator=generator)
        self.moduli.fill_(1)
        self.triangle.zero_()
        self.frame.coordinates.zero_()

    def forward(self) -> Tensor:
        with without_autocast(self.moduli):
            P: Tensor = self.frame()
            flat = torch.zeros_like(P).flatten(-2)
            block_triangle = flat.index_add(-1, self.places, torch.cat([self._blocks(), self.triangle], -1))
            return P @ block_triangle.unflatten(-1, P.shape[-2:]) @ P.mH

    def _blocks(self) -> Tensor:
        """Return the entries of the blocks, flattened and concatenated."""
        pairs = self.angles.shape[-1]
        moduli, single = self.moduli[..., :pairs], self.moduli[..., pairs:]
        if self.triangle.is_complex():
            return moduli * torch.polar(torch.ones_like(self.angles), self.angles)
        c, s = moduli * self.angles.cos(), moduli * self.angles.sin()
        return torch.cat([torch.stack([c, -s, s, c], -1).flatten(-2), single], -1)

    def penalty(self) -> Tensor:
        r"""Return :math:`\sum_j (\gamma_j - 1)^2`, to add to the loss with a weight."""
        return (self.moduli - 1).square().sum()

    def defect(self) -> Tensor | None:
        """The distance of the frame from a rotation."""
        return self.frame.defect()

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the frame."""
        return self.frame.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of the frame and keep the weight."""
        self.frame.set_retraction(retraction)
