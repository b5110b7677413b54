"""Checks that a convolution keeps an orthogonal kernel orthogonal, at `constrain` and whenever it is read."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ...errors import OptionError, UnsupportedError


def require_isometric(module: nn.Conv1d | nn.Conv2d) -> None:
    """Raise unless the operator is orthogonal or a part of an orthogonal one."""
    axes = len(module.kernel_size)
    taps, stride, dilation = module.kernel_size, _per_axis(module.stride, axes), _per_axis(module.dilation, axes)
    if max(dilation) > 1 and max(stride) > 1:
        raise UnsupportedError(
            "OrthogonalConv does not support a stride together with dilation.\n"
            f"Expected stride or dilation 1, got {stride} and {dilation}.\nUse one of them."
        )
    if module.padding_mode not in ("zeros", "circular"):
        raise UnsupportedError(
            "Padding that copies pixels counts them twice, so the convolution is not orthogonal.\n"
            f"Expected padding_mode 'circular' or 'zeros', got {module.padding_mode!r}.\nChange the padding."
        )
    if module.padding_mode == "circular" and not isinstance(module.padding, str):
        padding, most = _per_axis(module.padding, axes), [d * (k - 1) for k, d in zip(taps, dilation, strict=True)]
        if any(2 * p > m for p, m in zip(padding, most, strict=True)):
            raise OptionError(
                "Circular padding wider than the kernel gives some outputs twice, so the convolution is not orthogonal."
                f"\nExpected at most {tuple(m / 2 for m in most)} on each side, got {padding}.\n"
                'Reduce it, or use padding="same".'
            )


def require_unchanged(module: nn.Module, stride: tuple[int, ...], groups: int) -> None:
    """Raise if the stride or groups of a convolution changed, or it is no longer orthogonal."""
    if not isinstance(module, nn.Conv1d | nn.Conv2d):
        return
    current = _per_axis(module.stride, len(stride)), module.groups
    if current != (stride, groups):
        raise UnsupportedError(
            "The convolution was changed after constrain: its kernel is orthogonal for another stride or other groups."
            f"\nExpected stride {stride} and groups {groups}, got {current[0]} and {current[1]}.\n"
            "Set them back, or call manifold_rnn.release and constrain the weight again."
        )
    require_isometric(module)


def _per_axis(value: int | Sequence[int], axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)
