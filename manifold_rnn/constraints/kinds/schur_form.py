"""The Schur form of nnRNN: a rotation of a block triangle whose eigenvalues are parameters."""

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
    r"""Matrices by their Schur form, with moduli that a penalty keeps near 1 and a free non-normal part.

    .. math:: W = P (\Lambda + T) P^{\mathsf H}, \qquad \Lambda = \operatorname{blockdiag}\bigl(
        \gamma_j R(\theta_j)\bigr), \quad R(\theta) = \begin{pmatrix} \cos\theta & -\sin\theta \\
        \sin\theta & \cos\theta \end{pmatrix},

    with a rotation :math:`P = \varphi(A)` and ``T`` strictly above the blocks. Hence the eigenvalues of ``W`` are
    :math:`\gamma_j e^{\pm i\theta_j}`, for odd n and one real one, exactly; T = 0 and :math:`\gamma = 1` is an
    orthogonal matrix. For complex weights ``P`` is unitary and the blocks are numbers :math:`\gamma_j e^{i\theta_j}`.

    Parameters
    ----------
    retraction : str or Retraction
        :math:`\varphi`; the exponential in the paper.
    legacy_mask : bool
        Whether ``T`` has, as in the released code, the upper right entry of each block as well, which moves the
        eigenvalues away from these values, and out of the disc.

    Raises
    ------
    OptionError
        If ``retraction`` is unknown.

    Notes
    -----
    Nothing bounds the moduli, which no constraint of this form keeps below 1: for that see
    `SchurDisc`. The released training adds :math:`\delta \sum_j (\gamma_j - 1)^2` to the loss, the
    module's ``penalty()`` times a weight, and L2 decay on ``T``. With all moduli 1 the norm of ``W`` is still
    unbounded.

    Parameters are ``moduli`` and ``angles``, real, one of each for a block (a leftover eigenvalue is a modulus of any
    sign), ``triangle``, and ``frame.coordinates`` of ``A``: for real weights of even size n(n - 1)/2 + n + n(n - 2)/2,
    and n/2 more with ``legacy_mask``. They start with uniform angles, moduli 1, and ``A`` and ``T`` zero; in the paper
    ``A`` has the same blocks, with the same ``W``. A given weight says no more than shape and dtype, and none can be
    assigned. Source: Kerg et al. (2019).

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
        """Return the module that gives ``W``, drawn at random; ``like`` gives shape and dtype."""
        require_matrix(like, "SchurForm")
        return SchurFormParametrization(self, like)


class SchurFormParametrization(Parametrization):
    """A matrix by a ``frame``, and the ``moduli``, ``angles`` and ``triangle`` in it."""

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
        """Draw the angles anew, and make the rest an orthogonal matrix with them as eigenangles."""
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
        """The entries of the blocks, flattened, one after the other."""
        pairs = self.angles.shape[-1]
        moduli, single = self.moduli[..., :pairs], self.moduli[..., pairs:]
        if self.triangle.is_complex():
            return moduli * torch.polar(torch.ones_like(self.angles), self.angles)
        c, s = moduli * self.angles.cos(), moduli * self.angles.sin()
        return torch.cat([torch.stack([c, -s, s, c], -1).flatten(-2), single], -1)

    def penalty(self) -> Tensor:
        r"""Return :math:`\sum_j (\gamma_j - 1)^2`, to be added to the loss with a weight."""
        return (self.moduli - 1).square().sum()

    def defect(self) -> Tensor | None:
        """How far the frame is from a rotation."""
        return self.frame.defect()

    @property
    def retraction(self) -> Retraction | None:
        """That of the frame."""
        return self.frame.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Move the frame by another retraction from here on, with the same weight."""
        self.frame.set_retraction(retraction)
