"""Kernels of convolutions that are orthogonal as maps between images."""

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
    r"""Kernels whose convolution is an orthogonal map between images, in one or two dimensions.

    .. math::
        K = C \ast (P_1 + (I - P_1) S_1) \ast \dots \ast (P_m + (I - P_m) S_m), \qquad P_j^2 = P_j = P_j^{\mathsf H}.

    The shifts :math:`S_j` move by one pixel along the axes in turn. The core ``C`` has the size of the stride, and is a
    matrix with orthonormal rows or columns when it is flattened.

    Parameters
    ----------
    kind : "bcop" or "soc"
        "bcop" is the product above. "soc" is the exponential series of a skew kernel,
        :math:`K = \sum_{i \le t} L^{\ast i} / i!` with :math:`L_{ij}(x) = -\overline{L_{ji}(-x)}`.
    retraction : str or Retraction
        The retraction of the core and of the bases of the ranges of :math:`P_j`, for "bcop".
    error : float
        For "soc": the largest distance of a singular value from 1. It bounds the norm of ``L``.
    stride : int or sequence of int, optional
        The stride of a kernel outside of ``torch.nn.Conv1d`` and ``Conv2d``; for these it is read from the module.
    groups : int, optional
        The groups of such a kernel.

    Raises
    ------
    OptionError
        If an option is out of range, or ``stride`` or ``groups`` differ from those of the module. By `constrain`, also
        if circular padding is wider than the kernel needs.
    ShapeError
        By `constrain`, if the kernel is smaller than the stride, or does not have the form (out, in, k) or
        (out, in, kh, kw). For "soc", also if it has even taps, or different numbers of input and output channels.
    UnsupportedError
        By `constrain`, for transposed convolutions, dilation with a stride, and padding by "reflect" or "replicate".
        Also for one channel per group, where shifts are the only orthogonal kernels.

    Notes
    -----
    The rows of the operator are orthonormal if out <= in * strides, and its columns if out >= in * strides, with
    channels counted per group. The attribute ``side`` of the module in ``constraints`` tells which.

    All singular values are 1 with circular padding of k - 1 pixels in total, or of k - s to k - 1 with a stride of s,
    if the image size is a multiple of the stride. Even kernels with stride 1 need ``padding="same"`` for that. With
    zero padding or less padding, the operator is a part of such a map. Its norm is then at most 1, and the part of an
    image that crosses the border is lost. If circular padding meets an image size that is no multiple of the stride,
    some pixels are read twice. The norm is then at most :math:`\sqrt 2` per such axis, and no error is raised.

    Do not change stride, groups, dilation or padding of the module after `constrain`. Reading the weight raises
    `UnsupportedError` or `OptionError` if the operator is no longer orthogonal.

    Projectors have rank c // 2 for c channels. Other connected components are not reached, and in two dimensions some
    orthogonal kernels are no product of such factors. A given kernel of this form is itself the starting point, so
    ``init="haar"``, which draws all factors, is exact. Other kernels start from a kernel near them, not from the
    nearest. A kernel of 3 x 3 or more taps does not determine its factors if one side has over 4 times the channels
    of the other. It then also starts from a kernel near it. Computing the kernel takes one product of c x c matrices
    for each factor and each tap of the partial product.

    For "soc" a kernel of k taps can represent t = (k - 1) / 2 terms, and :math:`\|L\| \le ((t + 1)!\, e)^{1/(t + 1)}`
    keeps the error at most ``e``. With the default error, the bound is .16 for k = 9 and .89 for k = 17, so small
    kernels stay close to the identity. ``L`` is a free kernel made skew and divided by a bound of its norm. It starts
    from the middle of the given kernel, and no weight can be assigned.

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
                    f"{name} of OrthogonalConv has an invalid value.\n"
                    f"Expected {expected}, got {getattr(self, name)!r:.80}.\nCorrect it, or leave it out."
                )

    def fitted(self, module: nn.Module, name: str) -> OrthogonalConv:
        """Read stride and groups from a convolution; raises if the convolution cannot be an orthogonal map."""
        if convolution_groups(module) is None:
            return self
        if not isinstance(module, nn.Conv1d | nn.Conv2d) or name != "weight":
            raise UnsupportedError(
                f"OrthogonalConv needs the weight of a convolution.\nExpected a Conv1d or Conv2d, got {name!r} of "
                f"{type(module).__name__}.\n{_ADVICE}"
            )
        stride, own = tuple(module.stride), (self.stride, self.groups)
        mine = self.stride if isinstance(self.stride, tuple | list) else (self.stride,) * len(stride)
        if (self.stride is not None and tuple(mine) != stride) or self.groups not in (None, module.groups):
            raise OptionError(
                "stride= and groups= of OrthogonalConv are only for kernels outside of torch's convolutions.\n"
                f"Expected {stride} and {module.groups}, the values of the module; got {own}.\nLeave them out."
            )
        require_isometric(module)
        return replace(self, stride=stride, groups=int(module.groups))

    def geometry(self, like: Tensor) -> Geometry:
        """Return stride and groups of a kernel; raises `ShapeError` if it has no orthogonal convolution."""
        axes = like.ndim - 2
        if axes not in (1, 2) or not like.numel():
            raise ShapeError(
                "OrthogonalConv needs the kernel of a convolution.\n"
                f"Expected shape (out, in, k) or (out, in, kh, kw), none of them 0; got {tuple(like.shape)}.\n"
                "Constrain the weight of a Conv1d or Conv2d, or use Orthogonal() for a matrix."
            )
        if not (like.is_floating_point() or like.is_complex()):
            raise DtypeError(
                f"OrthogonalConv needs a floating point kernel.\nExpected a real or complex dtype, got {like.dtype}."
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
                "OrthogonalConv needs kernels at least as large as the stride, or pixels in between are never read.\n"
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
        """Return the parametrization of a kernel near ``like``."""
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
        """Draw the core and all projectors from the Haar measure; only for "bcop"."""
        if self.kind != "bcop":
            return super().random_like(like)
        return FactoredConvParametrization(self.geometry(like), torch.zeros_like(like), get("polar")).random()
