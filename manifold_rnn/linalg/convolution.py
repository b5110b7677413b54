"""Convolution kernels as matrices: their transform, and factors that lengthen an orthogonal kernel.

Here a kernel has the shape (..., out, in, *taps). The groups of a convolution are one of the leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .precision import complex_dtype


def symbols(kernel: Tensor, sizes: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Return the matrices whose singular values are those of a convolution with circular padding.

    Parameters
    ----------
    kernel : Tensor, shape (..., out, in, *taps)
        The kernel.
    sizes : sequence of int
        Size of the image along each axis of ``taps``: a multiple of the stride, and at least the taps.
    stride : sequence of int
        The stride along each axis.

    Returns
    -------
    Tensor, complex, shape (..., frequencies, out, in * product of strides)
        One matrix for each output frequency. A stride of s folds s input frequencies into one output frequency. Their
        matrices are side by side, divided by the square root of their number.
    """
    axes = len(sizes)
    transform = torch.fft.fftn(kernel.to(complex_dtype(kernel.dtype)), tuple(sizes), dim=tuple(range(-axes, 0)))
    for k, (size, s) in enumerate(zip(sizes, stride, strict=True)):  # each axis becomes (folds, output frequencies)
        transform = transform.unflatten(k - axes, (s, size // s))
    batch = transform.ndim - 2 - 2 * axes
    folds = [batch + 2 + 2 * k for k in range(axes)]
    order = [*range(batch), *(f + 1 for f in folds), batch, batch + 1, *folds]
    matrices = transform.permute(order).flatten(-1 - axes).flatten(batch, batch + axes - 1)
    return matrices / float(torch.Size(stride).numel()) ** 0.5


def growth(counts: Sequence[int]) -> list[tuple[int, bool]]:
    """List the factors of two taps that lengthen a kernel by ``counts`` taps.

    Each item is an axis, and whether P and I - P are exchanged. Axes alternate. Every other factor of an axis exchanges
    them, so that the kernel stays centered.
    """
    return [(axis, bool(k % 2)) for k in range(max(counts)) for axis, count in enumerate(counts) if k < count]


def lengthened(kernel: Tensor, projectors: Tensor, counts: Sequence[int]) -> Tensor:
    r"""Multiply a kernel from the right by a factor :math:`P + (I - P) S` for each projector, in the order of `growth`.

    Parameters
    ----------
    kernel : Tensor, shape (..., out, *taps, in)
        The kernel, with channels last.
    projectors : Tensor, shape (factors, ..., in, in)
        Orthogonal projectors ``P``.
    counts : sequence of int
        The number of taps by which each axis grows.

    Returns
    -------
    Tensor, shape (..., out, *(taps + counts), in)

    Notes
    -----
    ``S`` shifts by one pixel along the axis of the factor. Each factor is an orthogonal convolution, so an orthogonal
    kernel stays orthogonal. A factor costs one matrix product, :math:`KS + (K - KS) P`.
    """
    for (axis, flipped), P in zip(growth(counts), projectors.unbind(0), strict=True):
        before = [0, 0] * (len(counts) - axis)
        here, shifted = F.pad(kernel, (*before, 0, 1)), F.pad(kernel, (*before, 1, 0))
        kept, moved = (shifted, here) if flipped else (here, shifted)
        kernel = moved + _times(kept - moved, P)
    return kernel


def peeled(kernel: Tensor, counts: Sequence[int], rank: int) -> tuple[Tensor, Tensor]:
    """Invert `lengthened`: factor a kernel of this form exactly, and any other kernel approximately.

    The rows of the outermost taps of a product are in the range of P and of I - P.

    Parameters
    ----------
    kernel : Tensor, shape (..., out, *taps, in)
        The kernel, with channels last.
    counts : sequence of int
        The number of taps by which each axis shrinks.
    rank : int
        The rank of the projectors.

    Returns
    -------
    kernel : Tensor, shape (..., out, *(taps - counts), in)
        The remaining kernel.
    frames : Tensor, shape (factors, ..., in, rank)
        Orthonormal bases of the ranges of the projectors.
    """
    frames = []
    for axis, flipped in reversed(growth(counts)):
        dim = axis - len(counts) - 1
        ends = (kernel.narrow(dim, place, 1) for place in (0, kernel.shape[dim] - 1))
        first, last = (rows.flatten(-len(counts) - 2, -2) for rows in ends)
        difference = first.mH @ first - last.mH @ last
        vectors = torch.linalg.eigh(-difference if flipped else difference).eigenvectors
        frame = vectors[..., vectors.shape[-1] - rank :]
        taps = kernel.shape[dim] - 1
        here, shifted = kernel.narrow(dim, 0, taps), kernel.narrow(dim, 1, taps)
        kept, moved = (shifted, here) if flipped else (here, shifted)
        kernel = moved + _times(kept - moved, frame @ frame.mH)
        frames.append(frame)
    empty = kernel.new_empty(0, *kernel.shape[: -len(counts) - 2], kernel.shape[-1], rank)
    return kernel, torch.stack(frames[::-1]) if frames else empty


def _times(kernel: Tensor, P: Tensor) -> Tensor:
    batch = P.ndim - 2
    return (kernel.flatten(batch, -2) @ P).view(kernel.shape)


def adjoint(kernel: Tensor, axes: int) -> Tensor:
    """Return the kernel (..., out, in, *taps) of the adjoint convolution: transposed channels, conjugated, flipped."""
    return kernel.transpose(-axes - 2, -axes - 1).flip(tuple(range(-axes, 0))).conj()
