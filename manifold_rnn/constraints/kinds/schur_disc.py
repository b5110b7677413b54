"""Matrices with eigenvalues in a disc, as a Schur form of an orthogonal factor, stable blocks and a free triangle."""

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
    r"""Matrices with all eigenvalues inside a disc, parametrized by their Schur form.

    .. math:: W = Q\, (\operatorname{diag}(B_1, B_2, \dots) + T)\, Q^{\mathsf H}.

    For real weights ``Q`` is orthogonal, and ``T`` is free and strictly block-upper. The ``B`` are 2 x 2 blocks whose
    eigenvalues are inside the disc for all parameters. For complex weights ``Q`` is unitary, and the ``B`` are the
    eigenvalues themselves. The disc is open: it excludes its boundary.

    Parameters
    ----------
    radius : float
        A positive radius.
    retraction : str or Retraction
        The retraction of ``Q``.
    blocks : {"general", "rotation"}
        The blocks of real weights. "general" is the general stable block, which reaches every real spectrum. "rotation"
        is :math:`\gamma_j R(\theta_j)`, whose real eigenvalues are double.

    Raises
    ------
    OptionError
        If an option is unknown, or ``radius`` is not a positive number.

    Notes
    -----
    The computed moduli are below ``radius``. Rounding the dense matrix moves its eigenvalues by about
    `manifold_rnn.linalg.spectral_condition` times ``|W|`` times the rounding unit.

    The eigenvalues of a starting weight are scaled to at most ``1 - 1e-4`` of the radius, so that the parameters are
    finite. A 2 x 2 block within ``1e-2`` of the radius of a multiple of the identity is moved away by that distance.
    Source: Kerg et al. (2019) for the form with rotations.

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
                f"blocks of SchurDisc must be one of {', '.join(map(repr, BLOCKS))}.\nGot {self.blocks!r}.\n"
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

        The eigenvalues of real matrices are conjugate pairs; if n is odd, one more is uniform on the diameter. ``Q`` is
        drawn from the Haar measure, and ``T`` is normal with standard deviation ``radius / sqrt(n)``.

        Parameters
        ----------
        *size : int
            The shape ``..., n, n``.
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
    r"""A matrix parametrized by its Schur form.

    Parameters
    ----------
    constraint : SchurDisc
        The constraint with its options.
    like : Tensor, shape (..., n, n)
        The starting weight; its eigenvalues are scaled to at most ``1 - 1e-4`` of the radius.

    Attributes
    ----------
    frame : Trivialization
        The trivialization of ``Q``; its ``coordinates`` are a parameter.
    eigenvalues : Parameter, real, shape (..., d)
        The parameters of the blocks, one after the other, and of the last entry for real matrices of odd size.
    triangle : Parameter, shape (..., m)
        The entries of ``T``, row by row.
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
        """Return the diagonal blocks for radius 1, flattened and concatenated."""
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
        """Set the parameters to the factors of ``weight``, slightly inside the disc; raises if there are none."""
        require_shape(self.frame.base, weight)
        require_finite(weight, "the assigned weight")
        solved = SchurDiscParametrization(self.constraint, weight.to(self.triangle.dtype))
        bound = disc_parameters.reach(weight, self.constraint.radius)
        require_reached(self.constraint, solved(), weight, bound)
        self.load_state_dict(solved.state_dict())

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        """Set the parameters to the factors of ``weight``, scaled into the disc."""
        self.assign(UnitDisc(self.constraint.radius).projx(weight))

    @torch.no_grad()
    def defect(self) -> Tensor:
        """The distance of the largest modulus outside of the disc, relative to the radius."""
        return measured_defect(UnitDisc(self.constraint.radius), self())

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the orthogonal factor."""
        return self.frame.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of the orthogonal factor and keep the weight."""
        self.frame.set_retraction(retraction)
        self.constraint = replace(self.constraint, retraction=retraction)


def _factors(disc: SchurDisc, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``Q``, block parameters and triangle of each matrix, by LAPACK on the CPU in double precision."""
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
    """Factor a real matrix. Conjugate pairs come first, so that the remaining real eigenvalues form pairs as well."""
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
