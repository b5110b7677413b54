"""Kernels of convolutions that are orthogonal as maps from image to image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..._options import is_integer
from ..._torch import convolution_groups
from ...errors import DtypeError, OptionError, ShapeError, UnsupportedError
from ...linalg.checks import require_finite
from ...retractions import Retraction, get
from ..constraint import Constraint
from ..parametrization import Parametrization
from .orthogonal_kernels import FactoredConvParametrization, Geometry, SkewConvParametrization, require_odd
from .orthogonal_layers import require_isometric

_ADVICE = "Constrain its flattened kernel to Stiefel() instead, or change the layer."


@dataclass(frozen=True, eq=False)
class OrthogonalConv(Constraint):
    r"""Kernels whose convolution is an orthogonal map from image to image, in one or two dimensions.

    .. math::
        K = C \ast (P_1 + (I - P_1) S_1) \ast \dots \ast (P_m + (I - P_m) S_m), \qquad P_j^2 = P_j = P_j^{\mathsf H},

    with shifts :math:`S_j` by one pixel along the axes in turn, and a core ``C`` of the size of the stride, which is a
    matrix with orthonormal rows or columns when it is flattened.

    Parameters
    ----------
    kind : "bcop" or "soc"
        The product above, or the exponential series of a skew kernel,
        :math:`K = \sum_{i \le t} L^{\ast i} / i!` with :math:`L_{ij}(x) = -\overline{L_{ji}(-x)}`.
    retraction : str or Retraction
        How the core and the bases of the ranges of :math:`P_j` move, for "bcop".
    error : float
        For "soc": the largest distance of a singular value from 1. It bounds the norm of ``L``.
    stride : int or sequence of int, optional
        Of a kernel that is no weight of a ``torch.nn.Conv1d`` or ``Conv2d``; those have their own.
    groups : int, optional
        As ``stride``.

    Raises
    ------
    OptionError
        If an option has no meaning, or ``stride`` or ``groups`` are not those of the module; by `constrain`, also if
        circular padding is wider than the kernel needs.
    ShapeError
        By `constrain`, if the kernel is smaller than the stride, has no form (out, in, k) or (out, in, kh, kw), or, for
        "soc", has even taps or channels that differ.
    UnsupportedError
        By `constrain`, for transposed convolutions, dilation with a stride, padding by "reflect" or "replicate", and
        one channel in each group, where a shift is the only orthogonal kernel.

    Notes
    -----
    The rows of the operator are orthonormal if out <= in * strides, its columns if out >= in * strides, counted in a
    group. The attribute ``side`` of the module in ``constraints`` says which. All singular values are 1 with circular
    padding by k - 1 pixels in total, or by k - s to k - 1 with a stride of s, if the size of the image is a multiple of
    the stride. Even kernels with stride 1 need ``padding="same"`` for that. With zero padding or less padding the
    operator is a part of such a map. Its norm is then at most 1, and the part of an image that crosses the border is
    lost. With circular padding and an image whose size is no multiple of the stride, some pixels are read twice: the
    norm is at most :math:`\sqrt 2` for each such axis, and nothing raises.

    A read of the weight raises `UnsupportedError` or `OptionError` if stride, groups, dilation or padding of the module
    were changed after `constrain` so that the above does not hold.

    Projectors have the rank c // 2 for c channels. Other connected components are not reached, and in two dimensions
    some orthogonal kernels are no product of such factors. The start is the given kernel itself where it has this form,
    so ``init="haar"``, which draws all factors, is exact. For any other kernel the start is one near it, not the
    nearest. It is also only near in two dimensions if one side has more than 4 times as many channels as the other and
    both axes have at least 3 taps: the kernel does not determine its factors then. A kernel costs one product of c x c
    matrices for each factor and each tap that the product has by then.

    For "soc" a kernel of k taps has room for t = (k - 1) / 2 terms, and :math:`\|L\| \le ((t + 1)!\, e)^{1/(t + 1)}`
    keeps the error at most ``e``. That is close to the identity for small kernels: .16 for k = 9 and .89 for k = 17
    with the default error. ``L`` is a free kernel made skew and divided by a bound of its norm; it starts from the
    middle of the given kernel, and no weight can be assigned.

    Source: Xiao et al. (2018) and Li et al. (2019) for the product, Singla and Feizi (2021) for the series.

    Examples
    --------
    >>> conv = torch.nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", bias=False)
    >>> conv = mr.constrain(conv, "weight", mr.OrthogonalConv(), view="trivialized")
    >>> x = torch.randn(1, 4, 8, 8)
    >>> assert torch.isclose(conv(x).norm(), x.norm())
    """

    reads_whole_weight: ClassVar[bool] = True

    kind: Literal["bcop", "soc"] = "bcop"
    retraction: str | Retraction = "cayley"
    error: float = 1e-6
    stride: int | tuple[int, ...] | None = None
    groups: int | None = None

    def __post_init__(self) -> None:
        get(self.retraction)
        strides = self.stride if isinstance(self.stride, tuple | list) else (self.stride,)
        for name, ok, expected in (
            ("kind", self.kind in ("bcop", "soc"), "'bcop' or 'soc'"),
            ("error", isinstance(self.error, int | float) and 0 < self.error <= 0.1, "a number above 0, up to 0.1"),
            (
                "stride",
                self.stride is None or (strides and all(is_integer(s, 1) for s in strides)),
                "integers from 1",
            ),
            ("groups", self.groups is None or is_integer(self.groups, 1), "an integer from 1"),
        ):
            if not ok:
                raise OptionError(
                    f"{name} of OrthogonalConv has a value without a meaning.\n"
                    f"Expected {expected}, got {getattr(self, name)!r:.80}.\nCorrect it, or leave it out."
                )

    def fitted(self, module: nn.Module, name: str) -> OrthogonalConv:
        """Take stride and groups from a convolution, and refuse what makes it no orthogonal map."""
        if convolution_groups(module) is None:
            return self
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or name != "weight":
            raise UnsupportedError(
                f"OrthogonalConv is for the weight of a convolution.\nExpected a Conv1d or Conv2d, got {name!r} of "
                f"{type(module).__name__}.\n{_ADVICE}"
            )
        stride, own = tuple(module.stride), (self.stride, self.groups)
        mine = self.stride if isinstance(self.stride, tuple | list) else (self.stride,) * len(stride)
        if (self.stride is not None and tuple(mine) != stride) or self.groups not in (None, module.groups):
            raise OptionError(
                "stride= and groups= of OrthogonalConv are for kernels outside of torch's convolutions.\n"
                f"Expected {stride} and {module.groups}, as the module has them; got {own}.\nLeave them out."
            )
        require_isometric(module)
        return replace(self, stride=stride, groups=int(module.groups))

    def geometry(self, like: Tensor) -> Geometry:
        """Return stride and groups for a kernel; raises `ShapeError` if it has no orthogonal convolution."""
        axes = like.ndim - 2
        if axes not in (1, 2) or not like.numel():
            raise ShapeError(
                "OrthogonalConv needs the kernel of a convolution.\n"
                f"Expected shape (out, in, k) or (out, in, kh, kw), none of them 0; got {tuple(like.shape)}.\n"
                "Constrain the weight of a Conv1d or Conv2d, or use Orthogonal() for a matrix."
            )
        if not (like.is_floating_point() or like.is_complex()):
            raise DtypeError(
                f"OrthogonalConv needs a kernel of floating point.\nExpected a real or complex dtype, got {like.dtype}."
                "\nConvert it with .to(torch.float32)."
            )
        stride = tuple(self.stride) if isinstance(self.stride, tuple | list) else (self.stride or 1,) * axes
        groups, taps = self.groups or 1, tuple(like.shape[2:])
        if len(stride) != axes or like.shape[0] % groups:
            raise ShapeError(
                "OrthogonalConv needs a stride for each axis, and groups that divide the output channels.\n"
                f"Got stride {stride} and groups {groups} for a kernel of shape {tuple(like.shape)}.\nCorrect them."
            )
        if any(k < s for k, s in zip(taps, stride, strict=True)):
            raise ShapeError(
                "OrthogonalConv needs kernels no smaller than the stride: pixels in between are never read.\n"
                f"Expected taps of at least {stride}, got {taps}.\n{_ADVICE}"
            )
        geometry = Geometry(stride, groups)
        if geometry.cut(like).shape[1:3] == (1, 1) and max(stride) == 1 and max(taps) > 1:
            raise UnsupportedError(
                "A convolution of one channel in each group is orthogonal only if it is a shift, without parameters."
                f"\nExpected groups with 2 channels or more; got the shape {tuple(like.shape)} with {groups} groups.\n"
                "Leave it free, or use fewer groups."
            )
        return geometry

    def trivialize(self, like: Tensor) -> Parametrization:
        """Return the module that gives the kernel, near ``like``."""
        geometry = self.geometry(like)
        require_finite(like, "the kernel of OrthogonalConv")
        if self.kind == "bcop":
            return FactoredConvParametrization(geometry, like, get(self.retraction))
        if max(geometry.stride) > 1:
            raise ShapeError(
                "OrthogonalConv('soc') needs stride 1: a skew kernel maps images to images of the same size.\n"
                f"Expected 1, got {geometry.stride}.\nUse the kind 'bcop'."
            )
        require_odd(geometry.cut(like)[0])
        return SkewConvParametrization(geometry, like, self.error)

    def random_like(self, like: Tensor) -> Tensor:
        """Draw the core and all projectors from the Haar measure, for "bcop"."""
        if self.kind != "bcop":
            return super().random_like(like)
        return FactoredConvParametrization(self.geometry(like), torch.zeros_like(like), get("polar")).random()
