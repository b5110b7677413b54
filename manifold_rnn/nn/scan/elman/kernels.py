"""In-place nonlinearities, forward and backward, in one or two passes over a state (B, n)."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from ....linalg.precision import is_readable
from ...activations import EPS, mod_relu
from ...cells.elman_form import Activation


class Kernel(ABC):
    """One nonlinearity, for states with the shape, dtype and device of ``like``."""

    keeps_argument: ClassVar[bool] = False  # whether the derivative needs the argument, not only the result
    has_slopes: ClassVar[bool] = False  # whether `slopes` is defined

    def __init__(self, threshold: Tensor | None, like: Tensor) -> None:
        self.threshold = threshold

    @abstractmethod
    def function(self, z: Tensor) -> Tensor:
        """Return the value by the plain definition, which autograd can differentiate."""

    @abstractmethod
    def apply(self, z: Tensor, h: Tensor) -> None:
        """Write the value at ``z`` to ``h``, which may be ``z`` itself."""

    def slopes(self, h: Tensor, out: Tensor) -> None:
        """Write the derivative at states without NaN, one factor for each entry."""
        raise NotImplementedError

    @abstractmethod
    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        """Write the gradient of ``z``, given that of ``h``, to ``out``, which may be ``g`` itself."""

    def threshold_gradient(self, d: Tensor, h: Tensor) -> Tensor:
        """Return the gradient of the threshold, from the gradients (N, n) of the arguments."""
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
        torch.clamp_min(z, 0, out=h)  # twice as fast as relu with an output argument

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
        torch.ops.aten.tanh_backward.grad_input(one, h, grad_input=out)  # rounds once

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        torch.ops.aten.tanh_backward.grad_input(g, h, grad_input=out)


class ModRelu(Kernel):
    r"""Real modReLU.

    For b at most 0, it is :math:`z - \operatorname{clamp}(z, b, -b)`. For a positive b, b times the sign of z is added.
    """

    has_slopes: ClassVar[bool] = True

    def __init__(self, threshold: Tensor | None, like: Tensor) -> None:
        super().__init__(threshold, like)
        assert threshold is not None
        b = threshold.detach()
        self.low, self.high = b.clamp(max=0), -b.clamp(max=0)
        self.scratch = torch.empty_like(like)
        self.growth = None if _is_known_nonpositive(b) else b.clamp(min=0)

    def function(self, z: Tensor) -> Tensor:
        assert self.threshold is not None
        return mod_relu(z, self.threshold)

    def apply(self, z: Tensor, h: Tensor) -> None:
        torch.clamp(z, self.low, self.high, out=self.scratch)
        if self.growth is not None:
            self.scratch.addcmul_(torch.sgn(z), self.growth, value=-1)
        torch.sub(z, self.scratch, out=h)

    def slopes(self, h: Tensor, out: Tensor) -> None:
        torch.sign(h, out=out).square_()

    def backward(self, g: Tensor, z: Tensor, h: Tensor, out: Tensor) -> None:
        assert self.threshold is not None
        torch.mul(g, torch.sign(h).square_(), out=out)  # the sign of NaN is 0
        out.masked_fill_((h == 0) & (self.threshold <= 0), 0)  # also where g is not finite

    def threshold_gradient(self, d: Tensor, h: Tensor) -> Tensor:
        return torch.sign(h).mul_(d).sum(0)


def _is_known_nonpositive(b: Tensor) -> bool:
    """Return whether no entry is positive. False if the answer would have to wait for the device."""
    return is_readable(b) and not bool((b > 0).any())


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
        slope = (self.threshold * inverse).clamp_(min=-1)  # below -1 the unit is off, and the slope may be infinite
        scale = (slope + 1).relu_()
        # only the component of g along z changes with the modulus; z has length 1 first, since z * g may overflow
        phase = torch.view_as_real(z) * inverse.unsqueeze(-1)
        radial = (phase * torch.view_as_real(g)).sum(-1).mul_(scale > 0)
        self.radial += radial.sum(0)
        torch.sub(g * scale, torch.view_as_complex(phase.mul_(radial.mul_(slope).unsqueeze(-1))), out=out)

    def threshold_gradient(self, d: Tensor, h: Tensor) -> Tensor:
        total, self.radial = self.radial, torch.zeros_like(self.radial)
        return total


def _inverse_modulus(z: Tensor) -> Tensor:
    """Return ``1 / r`` with the smoothed modulus r of complex numbers. No square overflows."""
    return torch.hypot(z.real, z.imag).hypot_(z.real.new_full((), EPS)).reciprocal_()


_REAL: dict[Activation, type[Kernel]] = {"linear": Linear, "relu": Relu, "tanh": Tanh, "modrelu": ModRelu}
_COMPLEX: dict[Activation, type[Kernel]] = {"linear": Linear, "modrelu": ComplexModRelu}


def kernel_class(activation: Activation, *, is_complex: bool) -> type[Kernel]:
    """Return the kernel class of an activation for real or complex states."""
    return (_COMPLEX if is_complex else _REAL)[activation]


def kernel(activation: Activation, threshold: Tensor | None, like: Tensor) -> Kernel:
    """Return the kernel of an activation for states of the shape, dtype and device of ``like``."""
    return kernel_class(activation, is_complex=like.is_complex())(threshold, like)
