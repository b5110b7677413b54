"""Matrices with eigenvalues in a disc by their Schur form: an orthogonal factor, blocks inside, a free triangle."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from ...errors import OptionError
from ...linalg import qr
from ...linalg.checks import require_finite, require_matrix
from ...linalg.precision import without_autocast
from ...manifolds import Orthogonal, Unitary, UnitDisc
from ...manifolds.unit_disc import require_radius, uniform_on_disc
from ...retractions import Retraction, get
from ..constraint import Constraint
from ..membership import measured_defect, require_reached
from ..parametrization import Parametrization, require_shape
from ..trivialized import Trivialization
from . import disc_parameters

BLOCKS = ("general", "rotation")


@dataclass(frozen=True, eq=False)
class SchurDisc(Constraint):
    r"""Matrices with all eigenvalues inside a disc, by their Schur form.

    .. math:: W = Q\, (\operatorname{diag}(B_1, B_2, \dots) + T)\, Q^{\mathsf H}.

    For real weights ``Q`` is orthogonal, the ``B`` are 2 x 2 blocks whose eigenvalues are inside for all values of
    their parameters, and ``T`` is free and strictly block-upper. For complex weights ``Q`` is unitary and the ``B`` are
    the eigenvalues themselves. The disc is open: it excludes its boundary.

    Parameters
    ----------
    radius : float
        Positive.
    retraction : str or Retraction
        How ``Q`` moves.
    blocks : {"general", "rotation"}
        Of real weights: the general stable block, which reaches every real spectrum, or :math:`\gamma_j R(\theta_j)`,
        whose real eigenvalues are double.

    Raises
    ------
    OptionError
        If an option is unknown or ``radius`` is not a positive number.

    Notes
    -----
    What is below ``radius`` are the moduli that are computed. The eigenvalues of the rounded dense matrix move by about
    `manifold_rnn.linalg.spectral_condition` times ``|W|`` roundings. A starting weight is brought to at most
    ``1 - 1e-4`` of the radius, where parameters are finite, and a 2 x 2 block nearer than ``1e-2`` of it to a multiple
    of the identity is moved away by as much. Source: Kerg et al. (2019) for the form with rotations.

    Examples
    --------
    >>> rnn = mr.nn.RNN(2, 6, constraint=mr.SchurDisc(0.9), view="trivialized")
    >>> assert mr.linalg.spectral_radius(rnn.weight_hh_l0) < 0.9
    """

    radius: float = 1.0
    retraction: str | Retraction = "cayley"
    blocks: Literal["general", "rotation"] = "general"

    def __post_init__(self) -> None:
        require_radius(self.radius, "SchurDisc")
        get(self.retraction)
        if self.blocks not in BLOCKS:
            raise OptionError(
                f"blocks of SchurDisc is one of {', '.join(map(repr, BLOCKS))}.\nGot {self.blocks!r}.\n"
                "Check the spelling."
            )

    def trivialize(self, like: Tensor) -> SchurDiscParametrization:
        UnitDisc(self.radius).require(like, "the weight")
        return SchurDiscParametrization(self, like)

    def random_like(self, like: Tensor) -> Tensor:
        return self.random(*like.shape, dtype=like.dtype, device=like.device)

    def random(
        self,
        *size: int,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return random matrices with eigenvalues uniform on the disc.

        Of real matrices they come in conjugate pairs, and one is uniform on the diameter if n is odd. ``Q`` is Haar,
        and ``T`` normal with standard deviation ``radius / sqrt(n)``.

        Parameters
        ----------
        *size : int
            ``..., n, n``.
        dtype : torch.dtype, optional
            Default: torch's default dtype.
        device : torch.device, optional
        generator : torch.Generator, optional

        Returns
        -------
        Tensor
        """
        x, like = (torch.randn(size, dtype=dtype, device=device, generator=generator) for _ in range(2))
        require_matrix(x, "SchurDisc: size")
        Q, n = qr(like)[0], x.shape[-1]
        T = x.triu(1) * (self.radius / n**0.5)
        if x.is_complex():
            return Q @ (T + torch.diag_embed(uniform_on_disc(x.shape[:-1], x, self.radius, generator))) @ Q.mH
        i = torch.arange(0, n - 1, 2, device=x.device)
        pairs = uniform_on_disc((*x.shape[:-2], n // 2), x, self.radius, generator)
        T[..., i, i] = T[..., i + 1, i + 1] = pairs.real
        T[..., i + 1, i], T[..., i, i + 1] = pairs.imag, -pairs.imag
        if n % 2:
            along = torch.rand(x.shape[:-2], dtype=x.dtype, device=x.device, generator=generator)
            T[..., -1, -1] = self.radius * (2 * along - 1)
        return Q @ T @ Q.mH


class SchurDiscParametrization(Parametrization):
    r"""A matrix by its Schur form.

    Parameters
    ----------
    constraint : SchurDisc
    like : Tensor, shape (..., n, n)
        The start; its eigenvalues are scaled to at most ``1 - 1e-4`` of the radius.

    Attributes
    ----------
    frame : Trivialization
        Of ``Q``; its ``coordinates`` are a parameter.
    eigenvalues : Parameter, real, shape (..., d)
        Of the blocks, one after the other, and for real matrices of odd size of the last entry.
    triangle : Parameter, shape (..., m)
        ``T``, row by row.
    """

    places: Tensor

    def __init__(self, constraint: SchurDisc, like: Tensor) -> None:
        super().__init__()
        self.constraint = constraint
        places = torch.from_numpy(disc_parameters.block_places(like.shape[-1], 1 if like.is_complex() else 2))
        self.keep_constant("places", places, like.device)
        Q, eigenvalues, triangle = _factors(constraint, like)
        group = Unitary if like.is_complex() else Orthogonal
        self.frame = Trivialization(group(constraint.retraction), Q)
        self.eigenvalues, self.triangle = nn.Parameter(eigenvalues), nn.Parameter(triangle)

    def blocks(self) -> Tensor:
        """Return the diagonal blocks for radius 1, each flattened, one after the other."""
        if self.triangle.is_complex():
            return disc_parameters.polar_eigenvalues(self.eigenvalues.unflatten(-1, (-1, 2)))
        general, pairs = self.constraint.blocks == "general", self.frame.base.shape[-1] // 2
        width = 3 if general else 2
        raw = self.eigenvalues[..., : width * pairs].unflatten(-1, (pairs, width))
        blocks = disc_parameters.general_blocks(raw) if general else disc_parameters.rotation_blocks(raw)
        return torch.cat([blocks.flatten(-3), self.eigenvalues[..., width * pairs :].tanh()], -1)

    def forward(self) -> Tensor:
        with without_autocast(self.frame.base):
            Q: Tensor = self.frame()
            values = torch.cat([self.constraint.radius * self.blocks(), self.triangle], -1)
            flat = torch.zeros_like(Q).flatten(-2).index_copy(-1, self.places, values)
            return Q @ flat.unflatten(-1, Q.shape[-2:]) @ Q.mH

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Take the factors of ``weight``, brought slightly inside; raises where the form does not reach it."""
        require_shape(self.frame.base, weight)
        require_finite(weight, "the assigned weight")
        solved = SchurDiscParametrization(self.constraint, weight.to(self.triangle.dtype))
        bound = disc_parameters.reach(weight, self.constraint.radius)
        require_reached(self.constraint, solved(), weight, bound)
        self.load_state_dict(solved.state_dict())

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        """Take the factors of ``weight``, scaled into the disc."""
        self.assign(UnitDisc(self.constraint.radius).projx(weight))

    @torch.no_grad()
    def defect(self) -> Tensor:
        """How far the largest modulus is out of the disc, relative to the radius."""
        return measured_defect(UnitDisc(self.constraint.radius), self())

    @property
    def retraction(self) -> Retraction | None:
        """That of the orthogonal factor."""
        return self.frame.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Move the orthogonal factor by another retraction from here on, with the same weight."""
        self.frame.set_retraction(retraction)
        self.constraint = replace(self.constraint, retraction=retraction)


def _factors(disc: SchurDisc, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``Q``, parameters of the blocks, and triangle of each matrix, by LAPACK on the host in double precision."""
    wide = like.detach().to("cpu", torch.complex128 if like.is_complex() else torch.float64)
    scaled = UnitDisc(1 - disc_parameters.INSIDE).projx(wide / disc.radius).numpy()
    decompose = _complex_factors if like.is_complex() else _real_factors
    each = [decompose(matrix, disc.blocks) for matrix in scaled.reshape(-1, *scaled.shape[-2:])]
    batch, n = tuple(like.shape[:-2]), like.shape[-1]
    if not each:
        each = [decompose(np.zeros((n, n), scaled.dtype), disc.blocks)]
    stacked = [np.stack(factor) for factor in zip(*each, strict=True)]
    stacked = [s[: int(np.prod(batch))].reshape(*batch, *s.shape[1:]) for s in stacked]
    Q, eigenvalues, triangle = (torch.from_numpy(np.ascontiguousarray(s)).to(like.device) for s in stacked)
    return Q.to(like.dtype), eigenvalues.to(like.real.dtype), (disc.radius * triangle).to(like.dtype)


def _complex_factors(matrix: np.ndarray, blocks: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    S, Q = scipy.linalg.schur(matrix, output="complex")
    return (
        Q,
        disc_parameters.polar_parameters(np.diag(S)).ravel(),
        S.ravel()[disc_parameters.block_places(len(S), 1)[len(S) :]],
    )


def _real_factors(matrix: np.ndarray, blocks: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conjugate pairs come first, so that what is left pairs up as well."""
    n = len(matrix)
    S, Q, _ = scipy.linalg.schur(matrix, output="real", sort=lambda re, im: im != 0)
    for i in range(0, n - 1, 2):
        turn, _ = disc_parameters.equal_diagonal(S[i : i + 2, i : i + 2])
        Q[:, i : i + 2] = Q[:, i : i + 2] @ turn
        S[:, i : i + 2] = S[:, i : i + 2] @ turn
        S[i : i + 2] = turn.T @ S[i : i + 2]
    k = np.arange(0, n - 1, 2)
    half, above, below = S[k, k], S[k, k + 1], np.maximum(S[k + 1, k], disc_parameters.SMALLEST)
    if blocks == "general":
        raw = disc_parameters.general_parameters(half, above, below)
    else:
        raw = disc_parameters.polar_parameters(half + 1j * np.sqrt(np.maximum(0, -above * below)))
    single = (
        np.arctanh(np.clip(S[n - 1 :, n - 1], disc_parameters.INSIDE - 1, 1 - disc_parameters.INSIDE))
        if n % 2
        else np.empty(0)
    )
    places = disc_parameters.block_places(n, 2)
    return Q, np.concatenate([raw.ravel(), single.ravel()]), S.ravel()[places[4 * (n // 2) + n % 2 :]]
