"""Rotations in a plane: the sine and cosine of an angle that is a function of a squared length."""

import math

import torch
from torch import Tensor

from ..errors import OffManifoldError
from .checks import read_number
from .precision import host_max, may_read_device, recording

_SERIES_BELOW = 0.04  # below it, six terms of the series are exact to rounding in double precision


def sinc_of_square(square: Tensor) -> Tensor:
    r"""Return :math:`\sin(t) / t` as a function of :math:`t^2`, with all derivatives at 0."""
    if not recording():
        t = square.sqrt().clamp_(min=torch.finfo(square.dtype).tiny)
        return t.sin().div_(t)
    small = square < _SERIES_BELOW
    q = torch.where(small, square, 0)
    series = 1 - q / 6 * (1 - q / 20 * (1 - q / 42 * (1 - q / 72 * (1 - q / 110))))
    t = torch.where(small, 1, square).sqrt()
    return torch.where(small, series, t.sin() / t)


def along_geodesic(square: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sin(t) / t` and :math:`(1 - \cos t) / t^2` as functions of :math:`t^2`."""
    return sinc_of_square(square), 0.5 * sinc_of_square(square / 4).square()


def along_projection(square: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sin\varphi / t` and :math:`(1 - \cos\varphi) / t^2` for :math:`\varphi = \arctan t`."""
    root = (1 + square).sqrt()
    return 1 / root, 1 / (root * (1 + root))


def along_cayley(square: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\sin\varphi / t` and :math:`(1 - \cos\varphi) / t^2` for :math:`\varphi = 2 \arctan(t / 2)`."""
    inverse = 1 / (1 + square / 4)
    return inverse, 0.5 * inverse


def tangent_of(angle: Tensor, name: str) -> Tensor:
    """Return the tangent of angles; raises `OffManifoldError` unless all are below pi / 2."""
    widest = read_number(host_max, angle) if may_read_device() and not angle.is_meta else 0.0
    if not widest < 0.5 * math.pi:
        raise OffManifoldError(
            f"The inverse {name} retraction on spheres needs angles below pi / 2.\n"
            f"Expected vectors that are nearer to each other, got an angle of {widest:.6g}.\n"
            "Use the retraction 'exp', or a point in between."
        )
    return angle.tan()
