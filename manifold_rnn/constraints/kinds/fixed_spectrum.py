"""Matrices with fixed singular values and two trained orthonormal factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...errors import OffManifoldError, ShapeError
from ...linalg.checks import require_finite
from ...linalg.norms import normalized
from ...linalg.precision import double, without_autocast
from ...manifolds import Orthogonal, OrthonormalColumns, Stiefel, Unitary
from ...retractions import Retraction, get
from ..constraint import Constraint
from ..membership import require_reached
from ..parametrization import NOT_LOADED, Parametrization, require_shape
from ..trivialized import Trivialization


@dataclass(frozen=True, eq=False)
class FixedSpectrum(Constraint):
    r"""Matrices that keep the singular values they had when they were constrained.

    .. math:: W = U \operatorname{diag}(s)\, V^{\mathsf H}, \qquad U^{\mathsf H} U = I, \quad V^{\mathsf H} V = I.

    The singular values ``s`` are fixed. The norm, the rank, the condition number and every Schatten norm of the weight
    stay constant while its singular vectors are trained.

    Parameters
    ----------
    retraction : str or Retraction
        The retraction of ``U`` and ``V``.

    Raises
    ------
    OptionError
        If the retraction is unknown.
    ShapeError
        By `constrain`, if the weight has fewer than two axes.

    Notes
    -----
    Weights have shape (..., n, p), real or complex, of any rank. With q = min(n, p), ``U`` is n x q and ``V`` is p x q.
    A square factor is an element of a group, any other a point of `Stiefel`. The module's ``left`` and ``right`` are
    the factors, each with its ``coordinates``. Its buffer ``values`` is ``s`` and part of the state dict.

    ``assign`` accepts a weight with the same singular values. ``assign_nearest`` replaces the singular values by ``s``,
    which gives the nearest weight. A phase common to ``U`` and ``V`` has no effect, so q coordinates of a complex
    weight are redundant.

    For ``s = 1`` use `Orthogonal` or `Stiefel`, which have fewer parameters.

    Examples
    --------
    >>> layer = torch.nn.Linear(4, 3)
    >>> s = torch.linalg.svdvals(layer.weight.detach())
    >>> layer = mr.constrain(layer, "weight", mr.FixedSpectrum(), view="trivialized")
    >>> torch.optim.SGD(layer.parameters(), lr=0.1).step(lambda: layer(torch.ones(4)).sum().backward())
    >>> assert torch.allclose(torch.linalg.svdvals(layer.weight.detach()), s, atol=1e-5)
    """

    retraction: str | Retraction = "cayley"

    def __post_init__(self) -> None:
        get(self.retraction)

    def trivialize(self, like: Tensor) -> FixedSpectrumParametrization:
        """Return the parametrization of a weight that starts at ``like`` itself."""
        _require_matrix(like)
        require_finite(like, "the weight")
        return FixedSpectrumParametrization(self, like)

    def random_like(self, like: Tensor) -> Tensor:
        """Return a weight with the singular values of ``like`` and singular vectors drawn from the Haar measure."""
        _require_matrix(like)
        require_finite(like, "the weight")
        U, s, V = _factors(double(like))
        _require_values(s.to(like.real.dtype))
        left, right = (_manifold(self.retraction, x).random_like(x) for x in (U, V))
        return ((left * s.unsqueeze(-2)) @ right.mH).to(like.dtype)


class FixedSpectrumParametrization(Parametrization):
    """The product of the factors ``left`` and ``right`` and the buffer ``values``."""

    values: Tensor

    def __init__(self, constraint: FixedSpectrum, like: Tensor) -> None:
        super().__init__()
        self.constraint = constraint
        U, s, V = _factors(like)
        _require_values(s)
        self.left, self.right = (Trivialization(_manifold(constraint.retraction, x), x) for x in (U, V))
        self.register_buffer("values", s)

    def forward(self) -> Tensor:
        with without_autocast(self.values):
            return (self.left() * self.values.unsqueeze(-2)) @ self.right().mH

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set the factors to the singular vectors of ``weight``; raises if its singular values differ."""
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        U, _, V = _factors(weight.to(self.left.base.dtype))
        require_reached("FixedSpectrum", (U * self.values.unsqueeze(-2)) @ V.mH, weight)
        self._take(U, V)

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        """Set the factors to the singular vectors of ``weight`` and keep the present singular values."""
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        U, _, V = _factors(weight.to(self.left.base.dtype))
        self._take(U, V)

    def _take(self, U: Tensor, V: Tensor) -> None:
        self.left.assign(U)
        self.right.assign(V)

    def check(self, loaded: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        """Check the tensors to load. Also raise if ``values`` cannot be singular values."""
        values = loaded.get("values")
        if isinstance(values, Tensor) and not values.is_meta and values.shape == self.values.shape:
            require_finite(values, f"{path}values", NOT_LOADED)
            if values.numel() and (values.is_complex() or bool((values < 0).any() or (values.diff(dim=-1) > 0).any())):
                raise OffManifoldError(
                    f"{path}values must be singular values: real, of at least 0, in descending order.\n"
                    f"Got {values.dtype} from {float(values.real.min()):.3g} to {float(values.real.max()):.3g}.\n"
                    "Nothing in its module was changed. Load the weight of a constrained model."
                )
        return super().check(loaded, path)

    @torch.no_grad()
    def defect(self) -> Tensor:
        """The largest difference of a singular value, relative to the largest singular value."""
        values = double(self.values)
        off = (torch.linalg.svdvals(double(self())) - values).abs().amax(-1)
        largest = values.amax(-1)
        return (off / torch.where(largest > 0, largest, 1)).amax() if off.numel() else values.new_zeros(())

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of both factors."""
        return self.left.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of both factors and keep the weight."""
        self.left.set_retraction(retraction)
        self.right.set_retraction(retraction)
        self.constraint = replace(self.constraint, retraction=retraction)


def _manifold(retraction: str | Retraction, x: Tensor) -> OrthonormalColumns:
    if x.shape[-2] > x.shape[-1]:
        return Stiefel(retraction)
    return Unitary(retraction) if x.is_complex() else Orthogonal(retraction)


@torch.no_grad()
def _factors(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U``, ``s`` and ``V``, computed in double precision so that their product equals the weight."""
    scaled, scale = normalized(double(weight.detach()))
    U, s, Vh = torch.linalg.svd(scaled, full_matrices=False)
    s = s * scale.squeeze(-1)  # infinite if the norm overflows
    return U.to(weight.dtype).contiguous(), s.to(weight.real.dtype), Vh.mH.to(weight.dtype).contiguous()


def _require_values(s: Tensor) -> None:
    require_finite(s, "the spectrum of the weight", "Its norm overflows. Divide the weight by its largest entry.")


def _require_matrix(like: Tensor) -> None:
    if like.ndim < 2 or 0 in like.shape[-2:]:
        raise ShapeError(
            "FixedSpectrum needs matrices in the last two axes, of at least 1 x 1.\n"
            f"Expected shape (..., n, p), got {tuple(like.shape)}.\nReshape it, or pass matrix_dims."
        )
