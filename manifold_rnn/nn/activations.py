"""Nonlinearities of real and complex units."""

import math

import torch
from torch import Tensor, nn

from .kinds import KeepsReal

EPS = math.sqrt(1e-5)


def mod_relu(z: Tensor, bias: Tensor, eps: float = EPS) -> Tensor:
    r"""Rectify the modulus and keep the sign, or the phase.

    .. math:: \operatorname{modReLU}(x) = \operatorname{sign}(x) \max(|x| + b, 0)

    This formula is exact for real ``x``. For complex ``z`` the modulus is smoothed:

    .. math:: \operatorname{modReLU}(z) = \frac{z}{r} \max(r + b, 0), \qquad r = \sqrt{|z|^2 + \epsilon^2}.

    Parameters
    ----------
    z : Tensor, shape (..., n)
        Real or complex.
    bias : Tensor, shape (n,), real
        Bias of the modulus. If it is zero, the map is the identity.
    eps : float
        Smoothing of a complex modulus. 0 gives the exact function. It has no effect on real numbers. If the bias is at
        most 0, smoothing changes the result by at most eps. The effect of a positive bias vanishes as ``|z|`` falls
        below eps.

    Returns
    -------
    Tensor, shape (..., n)
        Same dtype as ``z``.

    Notes
    -----
    Where :math:`|z| + b > 0`, the real 2 x 2 Jacobian of the exact map has the singular values 1 (radial) and :math:`|1
    + b/|z||` (tangential). With a positive bias, the second one is unbounded at the origin. Smoothing bounds it by
    about :math:`1 + b/\epsilon`. At zero the value is zero and the gradient is finite. Without smoothing, all gradients
    at zero are zero, including that of the bias. Source: Arjovsky, Shah and Bengio (2016). The smoothing of Maduranga,
    Helfrich and Ye (2019) divides by ``r + eps**2`` instead.

    Examples
    --------
    >>> y = mr.nn.mod_relu(torch.tensor([-2.0, 0.0, 0.5]), bias=torch.tensor(-1.0))
    >>> assert torch.equal(y, torch.tensor([-1.0, 0.0, 0.0]))
    """
    if not z.is_complex():
        return z.sgn() * torch.relu(z.abs() + bias)
    if eps == 0:
        nonzero = z != 0
        # scale by powers of two, so that no modulus is subnormal or infinite
        scale = torch.where(torch.maximum(z.real.abs(), z.imag.abs()).detach() < 1, 2.0**64, 0.25)
        scaled = torch.where(nonzero, z * scale, 1)
        r = torch.hypot(scaled.real, scaled.imag)
        return _moved(z, _divided(scaled, r), bias, ~nonzero | (r / scale + bias <= 0))
    quarter, r = _modulus(z, eps)
    return _moved(z, _divided(quarter, r), bias, r.detach() <= -0.25 * bias.detach())


def _moved(z: Tensor, phase: Tensor, bias: Tensor, off: Tensor) -> Tensor:
    """Add the bias along the phase, 0 where a unit is off. No product of large numbers occurs, also in gradients."""
    finite = bias.clamp(min=torch.finfo(bias.dtype).min)  # -inf times a gradient of 0 would be NaN
    return torch.where(off, 0, z + phase * finite)


def _modulus(z: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r"""Return ``z / 4`` and :math:`\sqrt{|z|^2 + \epsilon^2} / 4`. No ``z`` makes them overflow.

    No square underflows or overflows. With a positive ``eps``, no gradient divides 0 by 0.
    """
    quarter = 0.25 * z
    smallest = quarter.real.new_full((), 0.25 * eps)
    return quarter, torch.hypot(quarter.real, torch.hypot(quarter.imag, smallest))


def _divided(z: Tensor, r: Tensor) -> Tensor:
    """Divide complex numbers by real ones; torch has no division for half precision."""
    return torch.view_as_complex(torch.view_as_real(z) / r.unsqueeze(-1))


class ModReLU(KeepsReal):
    r"""`mod_relu` with a trained bias for each unit.

    .. math:: y = \frac{z}{|z|} \max(|z| + b, 0), \qquad b \sim U(-0.01, 0.01) \text{ at initialization.}

    Parameters
    ----------
    features : int
        Number of units ``n``, the last axis of the input.
    eps : float
        Smoothing of a complex modulus. See `mod_relu`.
    device : torch.device, optional
        Device of the bias. Default: torch's default device.
    dtype : torch.dtype, optional
        Dtype of the input. The bias is always real.

    Notes
    -----
    It maps shape (..., n) to (..., n), real or complex. In the published networks this bias is the only bias of the
    cell. ``RNN(..., nonlinearity="modrelu")`` has one such bias for every level and direction, and no additive bias.

    Examples
    --------
    >>> z = torch.randn(2, 5, dtype=torch.complex64)
    >>> assert mr.nn.ModReLU(5)(z).shape == (2, 5)
    """

    def __init__(
        self,
        features: int,
        *,
        eps: float = EPS,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.eps = eps
        self.bias = nn.Parameter(torch.empty(features, device=device, dtype=dtype and dtype.to_real()))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the bias again."""
        nn.init.uniform_(self.bias, -0.01, 0.01)

    def forward(self, z: Tensor) -> Tensor:
        """Return the rectified ``z``."""
        return mod_relu(z, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Show the number of units."""
        return f"{self.bias.numel()}, eps={self.eps:.3g}"


def mod_tanh(z: Tensor) -> Tensor:
    r"""Squash the modulus and keep the sign, or the phase.

    .. math:: \operatorname{modtanh}(z) = \frac{z}{|z|} \tanh |z|,

    which is tanh for real ``z``. Unlike the complex tanh it has no poles, and its modulus is below 1.

    Parameters
    ----------
    z : Tensor
        Real or complex.

    Returns
    -------
    Tensor
        Same shape and dtype as ``z``.

    Notes
    -----
    The singular values of its real 2 x 2 Jacobian are :math:`1 - \tanh^2 |z|` (radial) and :math:`\tanh |z| / |z|`
    (tangential), both at most 1. Value and gradient are accurate for every ``z``, from subnormal to the largest
    numbers.

    Examples
    --------
    >>> y = mr.nn.mod_tanh(torch.tensor([0j, 3j]))
    >>> assert torch.allclose(y, torch.tensor([0.0, 3.0]).tanh() * 1j)
    """
    if not z.is_complex():
        return torch.tanh(z)
    finfo = torch.finfo(z.dtype)
    quarter = 0.25 * z  # scaled, so that the modulus is finite
    # away from subnormal numbers, where the derivative of a modulus is NaN; below sqrt(eps), tanh(r) is r
    r = (quarter + finfo.tiny**0.5).abs().clamp(min=0.25 * finfo.eps**0.5)
    return _divided(quarter, r) * torch.tanh(4 * r)


def split_relu(z: Tensor) -> Tensor:
    r"""Rectify the real and the imaginary part separately.

    .. math:: z \mapsto \max(\operatorname{Re} z, 0) + i \max(\operatorname{Im} z, 0).

    Parameters
    ----------
    z : Tensor
        Real or complex. For real numbers this is relu.

    Returns
    -------
    Tensor
        Same shape and dtype as ``z``.

    Notes
    -----
    It does not keep the phase. Source: Trabelsi et al. (2018).

    Examples
    --------
    >>> assert torch.equal(mr.nn.split_relu(torch.tensor([1 - 2j, -1 + 2j])), torch.tensor([1 + 0j, 2j]))
    """
    return torch.complex(torch.relu(z.real), torch.relu(z.imag)) if z.is_complex() else torch.relu(z)


def gate(z: Tensor) -> Tensor:
    r"""Return the logistic sigmoid of the real part, used as a gate.

    .. math:: g = \sigma(\operatorname{Re} z) \in (0, 1).

    Parameters
    ----------
    z : Tensor
        Real or complex.

    Returns
    -------
    Tensor, real
        Same shape as ``z``.

    Examples
    --------
    >>> assert torch.equal(mr.nn.gate(torch.tensor([5j, 0j])), torch.tensor([0.5, 0.5]))
    """
    return torch.sigmoid(z.real)


def real_features(z: Tensor) -> Tensor:
    r"""Concatenate real and imaginary parts, for a layer or readout of real numbers.

    .. math:: z \mapsto [\operatorname{Re} z, \operatorname{Im} z].

    Parameters
    ----------
    z : Tensor, shape (..., n)
        Real or complex features.

    Returns
    -------
    Tensor, shape (..., 2n), real
        A real ``z`` is returned unchanged, with its shape.

    Examples
    --------
    >>> x = mr.nn.real_features(torch.tensor([1 + 2j]))
    >>> assert torch.equal(x, torch.tensor([1.0, 2.0]))
    """
    return torch.cat([z.real, z.imag], -1) if z.is_complex() else z
