"""Nonlinearities that work in place, forward and backward, with one or two passes over a state."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ...._torch import is_watched
from ....linalg.precision import may_read_device
from ...activations import EPS, mod_relu


class Kernel(ABC):
    """One nonlinearity; made for states like ``like``."""

    keeps_argument: ClassVar[bool] = False  # whether the derivative needs more than the result
    has_slopes: ClassVar[bool] = False  # whether there are `slopes`

    def __init__(self, threshold: Tensor | None, like: Tensor) -> None:
        self.threshold = threshold

    @abstractmethod
    def function(self, z: Tensor) -> Tensor:
        """The plain definition."""

    @abstractmethod
    def apply(self, z: Tensor, h: Tensor) -> None:
        """Write the value at ``z`` to ``h``, which may be ``z`` itself."""

    def slopes(self, h: Tensor, out: Tensor) -> None:
        """Write the derivative, a factor for each number, at states without NaN."""
        raise NotImplementedError

    @abstractmethod
    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        """Write to ``out``, which may be ``g`` itself, the gradient of ``z``, given that of ``h``."""

    def threshold_gradient(self, d: Tensor, h: Tensor) -> Tensor:
        """The gradient of the threshold, from the gradients (N, n) of the arguments."""
        raise NotImplementedError


class Linear(Kernel):
    """The identity."""

    def function(self, z: Tensor) -> Tensor:
        return z

    def apply(self, z: Tensor, h: Tensor) -> None:
        if z is not h:
            h.copy_(z)

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        if g is not out:
            out.copy_(g)


class Relu(Kernel):
    """The rectifier."""

    has_slopes: ClassVar[bool] = True

    def function(self, z: Tensor) -> Tensor:
        return torch.relu(z)

    def apply(self, z: Tensor, h: Tensor) -> None:
        torch.clamp_min(z, 0, out=h)  # half the price of a call of relu that takes a result

    def slopes(self, h: Tensor, out: Tensor) -> None:
        torch.sign(h, out=out)

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        torch.ops.aten.threshold_backward.grad_input(g, h, 0, grad_input=out)


class Tanh(Kernel):
    """The hyperbolic tangent."""

    has_slopes: ClassVar[bool] = True

    def function(self, z: Tensor) -> Tensor:
        return torch.tanh(z)

    def apply(self, z: Tensor, h: Tensor) -> None:
        torch.tanh(z, out=h)

    def slopes(self, h: Tensor, out: Tensor) -> None:
        one = h.new_ones(()).expand_as(h)
        torch.ops.aten.tanh_backward.grad_input(one, h, grad_input=out)  # which rounds once

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        torch.ops.aten.tanh_backward.grad_input(g, h, grad_input=out)


class ModRelu(Kernel):
    r"""Real modReLU.

    Where b is not positive it is :math:`z - \operatorname{clamp}(z, b, -b)`; a positive b is added times the sign of z.
    """

    has_slopes: ClassVar[bool] = True

    def __init__(self, threshold: Tensor | None, like: Tensor) -> None:
        super().__init__(threshold, like)
        assert threshold is not None
        b = threshold.detach()
        self.low, self.high = b.clamp(max=0), -b.clamp(max=0)
        self.scratch = torch.empty_like(like)
        self.grows = None if _none_positive(b) else b.clamp(min=0)

    def function(self, z: Tensor) -> Tensor:
        assert self.threshold is not None
        return mod_relu(z, self.threshold)

    def apply(self, z: Tensor, h: Tensor) -> None:
        torch.clamp(z, self.low, self.high, out=self.scratch)
        if self.grows is not None:
            self.scratch.addcmul_(torch.sgn(z), self.grows, value=-1)
        torch.sub(z, self.scratch, out=h)

    def slopes(self, h: Tensor, out: Tensor) -> None:
        torch.sign(h, out=out).square_()

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        assert self.threshold is not None
        torch.mul(g, torch.sign(h).square_(), out=out)  # the sign of NaN is 0
        out.masked_fill_((h == 0) & (self.threshold <= 0), 0)  # whatever g is

    def threshold_gradient(self, d: Tensor, h: Tensor) -> Tensor:
        return torch.sign(h).mul_(d).sum(0)


def _none_positive(b: Tensor) -> bool:
    """Whether that is known without a wait for the device, or for numbers that there are none of."""
    return can_look_at(b) and not bool((b > 0).any())


def can_look_at(x: Tensor) -> bool:
    """Whether to read a number of ``x`` is possible, and costs next to nothing."""
    return x.device.type == "cpu" and may_read_device() and not is_watched(x)


class ComplexModRelu(Kernel):
    r"""Complex modReLU with the smoothed modulus r: :math:`z \max(1 + b/r, 0)`."""

    keeps_argument: ClassVar[bool] = True

    def __init__(self, threshold: Tensor | None, like: Tensor) -> None:
        super().__init__(threshold, like)
        self.radial = like.real.new_zeros(like.shape[-1])

    def function(self, z: Tensor) -> Tensor:
        assert self.threshold is not None
        return mod_relu(z, self.threshold)

    def apply(self, z: Tensor, h: Tensor) -> None:
        assert self.threshold is not None
        torch.mul(z, _inverse_modulus(z).mul_(self.threshold).add_(1).relu_(), out=h)

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        assert self.threshold is not None
        inverse = _inverse_modulus(z)
        slope = (self.threshold * inverse).clamp_(min=-1)  # below, where nothing passes, it might be infinite
        scale = (slope + 1).relu_()
        # only the part of g along z feels a change of the modulus
        radial = (torch.view_as_real(z) * torch.view_as_real(g)).sum(-1).mul_(inverse).mul_(scale > 0)
        self.radial += radial.sum(0)
        torch.sub(g * scale, z * radial.mul_(slope).mul_(inverse), out=out)

    def threshold_gradient(self, d: Tensor, h: Tensor) -> Tensor:
        found, self.radial = self.radial, torch.zeros_like(self.radial)
        return found


def _inverse_modulus(z: Tensor) -> Tensor:
    return torch.view_as_real(z).square().sum(-1).add_(EPS**2).rsqrt_()


_REAL: dict[str, type[Kernel]] = {"linear": Linear, "relu": Relu, "tanh": Tanh, "modrelu": ModRelu}
_COMPLEX: dict[str, type[Kernel]] = {"linear": Linear, "modrelu": ComplexModRelu}


def kernel(activation: str, threshold: Tensor | None, like: Tensor) -> Kernel:
    """The kernel of that name for states like ``like``."""
    return (_COMPLEX if like.is_complex() else _REAL)[activation](threshold, like)
