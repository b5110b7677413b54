"""The singular values of a convolution with circular padding, from the Fourier transform of its kernel."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .._options import is_integer
from ..errors import DtypeError, NonFiniteError, OptionError, ShapeError
from ..linalg.convolution import symbols
from ..linalg.precision import double
from .checks import require_dense
from .plotting import axes_or_new
from .tables import aligned

if TYPE_CHECKING:
    import matplotlib.axes


@dataclass(frozen=True, eq=False)
class ConvSingularValues:
    """The singular values of a convolution.

    Parameters
    ----------
    values : Tensor, shape (count,)
        All singular values, in descending order. Their number is the number of frequencies times the smaller number of
        channels.
    size : tuple of int
        Size of the image.

    Examples
    --------
    >>> result = mr.diagnostics.conv_singular_values(torch.eye(3)[:, :, None, None], (4, 5))
    >>> assert len(result.values) == 60 and result.norm == result.smallest == 1
    """

    values: Tensor = field(repr=False)
    size: tuple[int, ...]

    @property
    def norm(self) -> float:
        """Largest singular value, which is the Lipschitz constant of the convolution."""
        return float(self.values[0])

    @property
    def smallest(self) -> float:
        """Smallest singular value. It is 1, as is ``norm``, for an orthogonal convolution."""
        return float(self.values[-1])

    def table(self) -> str:
        """Return one line for each number."""
        size = " x ".join(map(str, self.size))
        middle = float(self.values[len(self.values) // 2])
        rows = [
            ("norm", self.norm, "largest: the Lipschitz constant"),
            ("smallest", self.smallest, "1, as the norm, if orthogonal"),
            ("median", middle, f"of {len(self.values)} singular values"),
        ]
        return aligned(f"convolution on {size}", [(name, f"{value:.5g}", what) for name, value, what in rows])

    def plot(self, axes: "matplotlib.axes.Axes | None" = None) -> "matplotlib.axes.Axes":
        """Draw the singular values in descending order."""
        axes = axes_or_new(axes)
        marker = "." if len(self.values) == 1 else None
        axes.plot(range(1, len(self.values) + 1), self.values.cpu(), label="convolution", marker=marker)
        axes.axhline(1, color="0.6", linestyle="--", label="orthogonal convolution")
        title = f"singular values of a convolution on {' x '.join(map(str, self.size))}"
        axes.set(xlabel="number", ylabel="singular value", ylim=(0, None), title=title)
        axes.legend()
        return axes


def conv_singular_values(
    kernel: Tensor, size: int | Sequence[int], *, stride: int | Sequence[int] = 1, groups: int = 1
) -> ConvSingularValues:
    r"""Compute all singular values of a convolution with circular padding.

    The discrete Fourier transform makes the convolution block diagonal. Each frequency has one matrix of shape (out,
    in), the transform of the kernel. The singular values of these matrices are those of the convolution. A stride s
    maps s input frequencies along an axis to one output frequency. Their matrices are then placed side by side and
    divided by the square root of their number.

    Parameters
    ----------
    kernel : Tensor, shape (out, in, k), (out, in, kh, kw) or (out, in, kd, kh, kw)
        Real or complex kernel, such as the weight of ``torch.nn.Conv1d``, ``Conv2d`` or ``Conv3d`` with one group.
    size : int or sequence of int
        Size of the image along each axis, at least the size of the kernel. One number applies to all axes.
    stride : int or sequence of int
        Stride of the layer. The size must be a multiple of it.
    groups : int
        Number of groups of the layer. A kernel with g groups has shape (out, in / g, ...).

    Returns
    -------
    ConvSingularValues
        Result in double precision, on the device of the kernel.

    Raises
    ------
    ShapeError, DtypeError, NonFiniteError
        If the shape of the kernel is not one of those above, or if it is empty, has integers, or is not finite.
    OptionError
        If the kernel is not a tensor. If ``size`` has another number of axes, is smaller than the kernel, or is not a
        multiple of the stride. If ``groups`` does not divide the number of output channels.

    Notes
    -----
    A kernel whose flattening (out, in * kh * kw) has orthonormal rows is not an orthogonal convolution, because shifted
    copies of the kernel overlap. For example, random kernels of this kind with shape (4, 4, 3, 3) have norms above 1.5
    on 8 x 8 images. Their smallest singular values are below 0.15. The norm is at most 3, the square root of the number
    of taps. `manifold_rnn.constrain` flattens kernels in this way. Use `manifold_rnn.OrthogonalConv` for orthogonal
    convolutions.

    With zero padding, the matrix is not circulant. Its norm is at most the norm for circular padding on an image that
    is larger by the kernel size. Source: Sedghi, Gupta and Long (2019).

    Examples
    --------
    >>> kernel = torch.tensor([[[0.5, 0.5]]])  # the mean of two neighbours
    >>> result = mr.diagnostics.conv_singular_values(kernel, 4)
    >>> assert abs(result.norm - 1) < 1e-8 and result.smallest < 1e-8
    """
    if not isinstance(kernel, Tensor):
        raise OptionError(
            "conv_singular_values needs the kernel of a convolution.\n"
            f"Expected a Tensor; got {type(kernel).__name__}.\n"
            "Pass the weight of a torch.nn.Conv1d, Conv2d or Conv3d."
        )
    require_dense(kernel, "conv_singular_values")
    axes = kernel.dim() - 2
    if not 1 <= axes <= 3 or not kernel.numel():
        raise ShapeError(
            "conv_singular_values needs the kernel of a convolution.\n"
            f"Expected shape (out, in, ...) with 1 to 3 axes of the image; got {tuple(kernel.shape)}.\n"
            "Pass the weight of a torch.nn.Conv1d, Conv2d or Conv3d."
        )
    if not (kernel.is_floating_point() or kernel.is_complex()):
        raise DtypeError(
            "conv_singular_values needs a floating-point kernel.\n"
            f"Expected a real or complex dtype; got {kernel.dtype}.\nConvert it with .double()."
        )
    if not kernel.isfinite().all():
        raise NonFiniteError(
            "conv_singular_values needs a kernel of finite numbers.\n"
            f"Got {int((~kernel.isfinite()).sum())} entries that are not finite.\nCheck the weight."
        )
    sizes = tuple(size) if isinstance(size, Sequence) else (size,) * axes
    taps = tuple(kernel.shape[2:])
    if (
        len(sizes) != axes
        or not all(is_integer(s, 1) for s in sizes)
        or any(s < k for s, k in zip(sizes, taps, strict=True))
    ):
        raise OptionError(
            "conv_singular_values needs an image no smaller than the kernel.\n"
            f"Expected size of {axes} integers, at least {taps}; got {sizes!r:.80}.\nPass a larger size."
        )
    strides = tuple(stride) if isinstance(stride, Sequence) else (stride,) * axes
    if (
        len(strides) != axes
        or not all(is_integer(s, 1) for s in strides)
        or any(n % s for n, s in zip(sizes, strides, strict=True))
    ):
        raise OptionError(
            "conv_singular_values needs a size that is a multiple of the stride.\n"
            f"Expected stride of {axes} integers from 1 that divide {sizes}; got {strides!r:.80}.\n"
            "Pass another size, or the stride of the layer."
        )
    if not is_integer(groups, 1) or kernel.shape[0] % groups:
        raise OptionError(
            "conv_singular_values needs groups that divide the output channels.\n"
            f"Expected groups that divide {kernel.shape[0]}; got {groups!r:.80}.\nPass the groups of the layer."
        )
    x = double(kernel.detach()).unflatten(0, (groups, kernel.shape[0] // groups))
    return ConvSingularValues(_singular_values(x, sizes, strides).flatten().sort(descending=True).values, sizes)


def _singular_values(kernel: Tensor, sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    if not kernel.is_complex() and max(strides) == 1:  # frequencies and their negatives have the same singular values
        along = tuple(range(3, kernel.dim()))
        half = torch.fft.rfftn(kernel, sizes, dim=along).movedim((1, 2), (-2, -1))
        values = torch.linalg.svdvals(half)
        return torch.cat([values, values[..., 1 : (sizes[-1] + 1) // 2, :]], -2)
    return torch.linalg.svdvals(symbols(kernel, sizes, strides))
