"""The two parametrizations of `OrthogonalConv`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ...errors import ShapeError
from ...linalg.checks import require_finite
from ...linalg.convolution import adjoint, growth, lengthened, peeled, symbols
from ...linalg.norms import spectral_norm
from ...linalg.precision import at_least_single, double, without_autocast
from ...manifolds import Manifold, Orthogonal, Stiefel, Unitary
from ...retractions import Retraction, get
from ..membership import projected, require_reached
from ..parametrization import Parametrization, require_shape
from ..trivialized import Trivialization
from .orthogonal_layers import require_unchanged

Side = Literal["rows", "columns", "both"]


@dataclass(frozen=True)
class Geometry:
    """The stride of each axis and the groups of a convolution."""

    stride: tuple[int, ...]
    groups: int

    def cut(self, kernel: Tensor) -> Tensor:
        """Return the kernels of the groups, shape (groups, out, in, *taps)."""
        return kernel.unflatten(0, (self.groups, kernel.shape[0] // self.groups))

    def side(self, kernel: Tensor) -> Side:
        """Return whether the rows of the operator, its columns or both are orthonormal."""
        out, seen = kernel.shape[0] // self.groups, kernel.shape[1] * math.prod(self.stride)
        return "both" if out == seen else "rows" if out < seen else "columns"

    def defect(self, kernel: Tensor) -> Tensor:
        """Return the largest distance of a singular value from 1, for images of any size."""
        taps = kernel.shape[2:]
        sizes = [s * -(-(2 * k - 1) // s) for k, s in zip(taps, self.stride, strict=True)]
        values = torch.linalg.svdvals(symbols(self.cut(double(kernel.detach())), sizes, self.stride))
        return (values - 1).abs().max()


class FactoredConvParametrization(Parametrization):
    r"""A kernel as an orthogonal ``core`` times factors of two taps, one for each frame in ``frames``.

    Attributes
    ----------
    core : Trivialization
        The kernel with the size of the stride, as a matrix with orthonormal rows or columns, of shape (groups, n, p).
    frames : Trivialization or None
        Bases of the ranges of the projectors, of shape (factors, groups, c, c // 2); None without factors.
    side : "rows", "columns" or "both"
        Whether the rows of the operator, its columns or both are orthonormal.
    """

    def __init__(self, geometry: Geometry, like: Tensor, retraction: Retraction) -> None:
        super().__init__()
        self.geometry, self.shape, self.side = geometry, tuple(like.shape), geometry.side(like)
        out, into, *taps = geometry.cut(like).shape[1:]
        # factors act on the side with more channels, where they reach more kernels; with a stride, on the input side
        self.exchanged = out > into and math.prod(geometry.stride) == 1
        self.counts = tuple(k - s for k, s in zip(taps, geometry.stride, strict=True))
        self.rank = max(out, into) // 2 if self.exchanged else into // 2
        core, frames = self._factors(like)
        self.core = Trivialization(_columns(core, retraction), core)
        self.frames = Trivialization(Stiefel(retraction), frames) if frames.numel() else None

    def extra_repr(self) -> str:
        return f'view="trivialized", orthonormal={self.side!r}'

    # --- the kernel ---

    def forward(self) -> Tensor:
        with without_autocast(self.core.base):
            core = self._as_kernel(self.core())
            frames = None if self.frames is None else self.frames()
            return self._assembled(core, frames)

    def _assembled(self, core: Tensor, frames: Tensor | None) -> Tensor:
        if frames is None:
            frames = core.new_zeros(len(growth(self.counts)), core.shape[0], core.shape[-1], 0)
        kernel = lengthened(core, frames @ frames.mH, self.counts).movedim(-1, 2)
        kernel = adjoint(kernel, len(self.counts)) if self.exchanged else kernel
        return kernel.reshape(-1).view(self.shape)  # the strides of channels last would slow the convolution down

    def _as_kernel(self, matrix: Tensor) -> Tensor:
        """Return the tall matrix as the kernel (groups, out, *taps, in) of the core."""
        out, into = self._channels()
        size = self.geometry.stride
        rows = matrix if matrix.shape[-2:] == (out, into * math.prod(size)) else matrix.mT
        return rows.unflatten(-1, (*size, into))

    def _channels(self) -> tuple[int, int]:
        out, into = self.shape[0] // self.geometry.groups, self.shape[1]
        return (into, out) if self.exchanged else (out, into)

    # --- its factors ---

    @torch.no_grad()
    def _factors(self, kernel: Tensor) -> tuple[Tensor, Tensor]:
        """Return the core as a tall matrix, and the frames, of a kernel or of one near it."""
        cut = self.geometry.cut(kernel.detach())
        if cut.is_meta:
            out, into = self._channels()
            n, p = out, into * math.prod(self.geometry.stride)
            frames = cut.new_empty(len(growth(self.counts)), cut.shape[0], into, self.rank)
            return cut.new_empty(cut.shape[0], max(n, p), min(n, p)), frames
        cut = double(cut)
        largest = cut.abs().max()
        cut = cut / torch.where(largest > 0, largest, 1)
        cut = adjoint(cut, len(self.counts)) if self.exchanged else cut
        core, frames = peeled(cut.movedim(2, -1), self.counts, self.rank)
        rows = core.flatten(2)
        rows = rows.mT if rows.shape[-2] < rows.shape[-1] else rows
        rows = projected(_columns(rows, get("polar")), rows)
        return rows.to(kernel.dtype).contiguous(), frames.to(kernel.dtype).contiguous()

    @torch.no_grad()
    def random(self) -> Tensor:
        """Return a kernel with all factors drawn from the Haar measure; the parameters are unchanged."""
        core, frames = self.core, self.frames
        drawn = None if frames is None else frames.manifold.random_like(frames.base)
        return self._assembled(self._as_kernel(core.manifold.random_like(core.base)), drawn)

    @torch.no_grad()
    def assign(self, weight: Tensor) -> None:
        """Set the parameters to the factors of ``weight``; raises if it has no such factors."""
        core, frames = self._checked_factors(weight)
        computed = self._assembled(self._as_kernel(double(core)), double(frames) if frames.numel() else None)
        require_reached("OrthogonalConv", computed.to(self.weight_dtype), weight)
        self._take(core, frames)

    @torch.no_grad()
    def assign_nearest(self, weight: Tensor) -> None:
        self._take(*self._checked_factors(weight))

    def _checked_factors(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        require_shape(self(), weight)
        require_finite(weight, "the assigned weight")
        base = self.core.base
        return self._factors((weight if base.is_complex() or not weight.is_complex() else weight.real).to(base))

    def _take(self, core: Tensor, frames: Tensor) -> None:
        self.core.assign_nearest(core)
        if self.frames is not None:
            self.frames.assign_nearest(frames)

    def before_read(self, owner: nn.Module) -> None:
        require_unchanged(owner, self.geometry.stride, self.geometry.groups)

    @torch.no_grad()
    def defect(self) -> Tensor:
        return self.geometry.defect(self())

    def dimensions(self) -> dict[nn.Parameter, int]:
        dimensions = self.core.dimensions()
        if self.frames is not None:  # only the ranges of the frames count, points of a Grassmann manifold
            *batch, n, r = self.frames.base.shape
            one = r * (n - r) * (2 if self.frames.base.is_complex() else 1)
            dimensions[self.frames.coordinates] = math.prod(batch) * one
        return dimensions

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.core.weight_dtype

    @property
    def retraction(self) -> Retraction | None:
        """The retraction of the core and of the frames."""
        return self.core.retraction

    def set_retraction(self, retraction: Retraction | str) -> None:
        """Change the retraction of all factors and keep the kernel."""
        self.core.set_retraction(retraction)
        if self.frames is not None:
            self.frames.set_retraction(retraction)


def _columns(matrix: Tensor, retraction: Retraction) -> Manifold:
    """Return the manifold of matrices of this shape with orthonormal columns."""
    if matrix.shape[-2] != matrix.shape[-1]:
        return Stiefel(retraction)
    return Unitary(retraction) if matrix.is_complex() else Orthogonal(retraction)


class SkewConvParametrization(Parametrization):
    r"""The exponential series of a skew kernel with three taps per axis. The taps limit the number of terms.

    Attributes
    ----------
    taps : Parameter, shape (groups, c, c, 3) or (groups, c, c, 3, 3)
        A free kernel ``C``; an axis of one tap keeps one tap.
    bound : float
        The upper bound of the norm of the skew kernel.
    side : "both"
    """

    side: Side = "both"

    def __init__(self, geometry: Geometry, like: Tensor, error: float) -> None:
        super().__init__()
        self.geometry, self.shape = geometry, tuple(like.shape)
        self.terms = min((k - 1) // 2 for k in like.shape[2:] if k > 1)
        self.error = error
        self.bound = (math.factorial(self.terms + 1) * error) ** (1 / (self.terms + 1))
        self.taps = nn.Parameter(self._taps_near(like))

    def extra_repr(self) -> str:
        return f'view="trivialized", orthonormal="both", terms={self.terms}, bound={self.bound:.3g}'

    def skew(self) -> Tensor:
        """Return the skew kernel, shape (groups, c, c, *taps). Its operator has a norm below `bound`."""
        axes = len(self.shape) - 2
        taps = at_least_single(self.taps)
        L = 0.5 * (taps - adjoint(taps, axes))
        size = math.prod(L.shape[3:]) ** 0.5 * spectral_norm(L.flatten(3).flatten(2))
        scale = self.bound / torch.hypot(size, torch.full_like(size, self.bound))
        return L * scale[(...,) + (None,) * (L.ndim - 1)]

    def forward(self) -> Tensor:
        require_finite(self.taps, "the taps of OrthogonalConv")
        axes, sizes = tuple(range(-len(self.shape) + 2, 0)), self.shape[2:]
        with without_autocast(self.taps):
            L = self.skew()
            middle = [-(k // 2) for k in L.shape[3:]]
            padding = [p for k, own in zip(reversed(sizes), reversed(L.shape[3:]), strict=True) for p in (0, k - own)]
            wide = torch.nn.functional.pad(L, padding).roll(middle, axes)
            A = torch.fft.fftn(wide, dim=axes).movedim((1, 2), (-2, -1))
            eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
            E = eye.expand_as(A)
            for k in range(self.terms, 0, -1):  # Horner's scheme; the result fills the taps of the kernel exactly
                E = eye + A @ E / k
            kernel = torch.fft.ifftn(E.movedim((-2, -1), (1, 2)), dim=axes).roll([k // 2 for k in sizes], axes)
            return (kernel if self.taps.is_complex() else kernel.real).flatten(0, 1).to(self.taps.dtype)

    @torch.no_grad()
    def _taps_near(self, kernel: Tensor) -> Tensor:
        cut = self.geometry.cut(kernel.detach())
        for axis, k in enumerate(kernel.shape[2:]):
            own = min(k, 3)
            cut = cut.narrow(3 + axis, (k - own) // 2, own)
        return cut.contiguous().clone()

    def before_read(self, owner: nn.Module) -> None:
        require_unchanged(owner, self.geometry.stride, self.geometry.groups)

    @torch.no_grad()
    def defect(self) -> Tensor:
        return self.geometry.defect(self())

    def dimensions(self) -> dict[nn.Parameter, int]:
        groups, c = self.taps.shape[:2]
        taps = math.prod(self.taps.shape[3:])
        one = c * c * taps if self.taps.is_complex() else (c * c * (taps - 1) + c * (c - 1)) // 2
        return {self.taps: groups * one}

    @property
    def weight_dtype(self) -> torch.dtype:
        return self.taps.dtype


def require_odd(like: Tensor) -> None:
    """Raise unless the kernel is square and has odd taps, more than one along some axis."""
    out, into, *taps = like.shape
    if out != into or any(k % 2 == 0 for k in taps) or max(taps) == 1:
        raise ShapeError(
            "OrthogonalConv('soc') needs equal input and output channels in a group, and odd taps.\n"
            f"Expected a kernel (c, c, ...) with odd sizes, one of them above 1; got {tuple(like.shape)} for a group.\n"
            "Use the kind 'bcop', or other sizes."
        )
