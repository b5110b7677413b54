"""Adam on spheres in place: rotates a weight and its moment without copying them."""

from __future__ import annotations

import math
import operator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from .._kernels.loading import library
from .._kernels.steps import turn_by_angle, turn_by_length
from .._torch import fused_adam, is_watched
from ..manifolds import FixedNorm
from .batch import Batch
from .preconditions import is_like

_DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)
_FUSED_ON = ("cpu", "cuda")
_FEW = 4096  # entries below which stacking parameters is faster than updating them one after the other
_SHEARS_BELOW = 1.5  # largest angle in radians of a rotation by shears
_FARTHEST = 1e9  # largest angle in radians, so that its square does not overflow


def turns_in_place(batch: Batch, group: dict[str, Any], size: float) -> bool:
    """Return whether `turn` supports a batch and cannot fail for gradients up to ``size``.

    Options that it lacks, such as AMSGrad, use the general implementation, with which it agrees up to rounding.
    """
    m, p = batch.manifold, batch.params[0]
    if not isinstance(m, FixedNorm) or p.dtype not in _DTYPES or p.numel() < _FEW:
        return False
    if group["capturable"] or group["amsgrad"] or group["maximize"] or isinstance(group["lr"], Tensor):
        return False
    if not all(map(_has_own_memory, batch.params)):
        return False
    largest, by_angle = 1e-3 * torch.finfo(p.dtype).max ** 0.5, group["scale"] == "angle"
    # if a gradient is 0, 1 / eps and the rate divided by eps are factors of 0, and are squared
    steepest = max(1.0, float(group["lr"]) / (1 - group["betas"][0]))
    if not (size < largest and steepest < largest * group["eps"]):
        return False
    if not _have_own_moments(batch, m.axes, by_angle=by_angle):
        return False
    # torch's fused function counts steps in single precision
    if by_angle and not (fused_adam and p.device.type in _FUSED_ON and torch.finfo(p.dtype).bits == 32):
        return False
    radius = 1.0 if by_angle else m.radius
    return not isinstance(radius, str) and _angle_bound(radius, group) < _FARTHEST


def _has_own_memory(p: Tensor) -> bool:
    """Return whether a parameter is stored without gaps, and its gradient has the same form."""
    plain = p.is_contiguous() and not (p.is_conj() or p.is_neg())
    return plain and p.grad is not None and is_like(p.grad, p)


def _have_own_moments(batch: Batch, axes: tuple[int, ...], *, by_angle: bool) -> bool:
    """Return whether `_has_own_moments` is true for all; checked at the first step, and after a load."""
    held = [s.get(name) for s in batch.states for name in ("exp_avg", "exp_avg_sq")]
    known = batch.packed.get("moments", ())
    if len(known) == len(held) and all(map(operator.is_, held, known)):
        return True
    if not all(
        _has_own_moments(*each, axes, by_angle=by_angle) for each in zip(batch.params, batch.states, strict=True)
    ):
        return False
    batch.packed["moments"] = held
    return True


def _has_own_moments(p: Tensor, state: dict[str, Any], axes: tuple[int, ...], *, by_angle: bool) -> bool:
    """Return whether the moments do not exist or have the form of `turn`, whose kernels do not check shapes."""
    shape = (*p.shape, 2) if p.is_complex() else tuple(p.shape)
    axes = (*(k - 1 for k in axes), -1) if p.is_complex() else axes
    second = shape if by_angle else tuple(1 if k - len(shape) in axes else n for k, n in enumerate(shape))
    held = state.get("exp_avg"), state.get("exp_avg_sq")
    if held[0] is None and held[1] is None:
        return True
    kinds = [(p.dtype.to_real(), p.device, torch.strided, each) for each in (shape, second)]
    return all(
        isinstance(s, Tensor) and (s.dtype, s.device, s.layout, tuple(s.shape)) == kind and s.is_contiguous()
        for s, kind in zip(held, kinds, strict=True)
    )


def _angle_bound(radius: float, group: dict[str, Any]) -> float:
    """Return a bound of the angle of a step of Adam without bias correction, by the Cauchy-Schwarz inequality."""
    beta1, beta2 = group["betas"]
    if not beta1**2 < beta2:
        return math.inf
    # |m| <= (1 - b1) sum b1^k |c_k| and v = (1 - b2) sum b2^k |c_k|^2
    return float(group["lr"]) * (1 - beta1) / math.sqrt((1 - beta2) * (1 - beta1**2 / beta2)) / radius


def turn(batch: Batch, group: dict[str, Any]) -> None:
    """Make one step of `RiemannianAdam` for each parameter of a batch that `turns_in_place` has accepted."""
    m, steps = batch.manifold, batch.count(on_device=False)
    assert isinstance(m, FixedNorm) and isinstance(steps, int)
    every = m.polish_every if group["polish_every"] is None else group["polish_every"]
    kind = _ByAngle if group["scale"] == "angle" else _ByLength
    rule = kind(m, group, steps, polish=bool(every) and steps % every == 0)
    turned = [_prepared(p, s, m.axes, group) for p, s in zip(batch.params, batch.states, strict=True)]
    if (sizes := _compiled_sizes(turned[0])) is not None and not is_watched(*batch.params):
        x, g, first, second = zip(*(each[:4] for each in turned), strict=True)
        rule.turn_compiled(list(x), [slope.contiguous() for slope in g], list(first), list(second), sizes)
        increment_version(batch.params)
    else:
        for each in turned:
            scratch = batch.buffers.get("scratch")
            if scratch is None or scratch.shape != each.x.shape:
                scratch = batch.buffers["scratch"] = torch.empty_like(each.x)
            rule.turn(*each, scratch)
    batch.is_untouched()
    batch.trust()


class _Turned(NamedTuple):
    """A parameter, its gradient, its moments and the axes of its vectors; complex numbers are pairs of reals."""

    x: Tensor
    g: Tensor
    m: Tensor
    v: Tensor
    axes: tuple[int, ...]


def _prepared(p: Tensor, state: dict[str, Any], axes: tuple[int, ...], group: dict[str, Any]) -> _Turned:
    """Return the tensors for a step; moments that do not exist yet are 0."""
    x, g = p.detach(), p.grad
    assert g is not None
    if x.is_complex():
        x, g, axes = torch.view_as_real(x), torch.view_as_real(g.resolve_conj()), (*(k - 1 for k in axes), -1)
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(x)
        shape = [1 if k - x.ndim in axes else n for k, n in enumerate(x.shape)]
        state["exp_avg_sq"] = torch.zeros_like(x) if group["scale"] == "angle" else x.new_zeros(shape)
    return _Turned(x, g, state["exp_avg"], state["exp_avg_sq"], axes)


def _compiled_sizes(each: _Turned) -> list[int] | None:
    """Return the sizes before, of and after the vectors if the compiled step can be used: float32 on a CPU."""
    first, count, shape = min(each.axes) + each.x.ndim, len(each.axes), each.x.shape
    if each.x.dtype != torch.float32 or each.x.device.type != "cpu" or library() is None:
        return None
    if max(each.axes) - min(each.axes) != count - 1:
        return None
    return [math.prod(shape[:first]), math.prod(shape[first : first + count]), math.prod(shape[first + count :])]


class _Turn:
    """One step with the options of a group; complex numbers are pairs of reals."""

    def __init__(self, manifold: FixedNorm, group: dict[str, Any], steps: int, *, polish: bool) -> None:
        self.retraction, self.radius, self.polish = manifold.retraction, manifold.radius, polish
        self.group, self.steps = group, steps
        self.beta1, self.beta2 = group["betas"]
        self.root = math.sqrt(1 - self.beta2**steps)

    def polished(self, x: Tensor, axes: tuple[int, ...]) -> None:
        """Correct rounding drift, if this is due."""
        if not isinstance(self.radius, str) and (self.polish or self.retraction.self_correcting):
            x.mul_(self.radius / torch.linalg.vector_norm(x, dim=axes, keepdim=True))


class _ByLength(_Turn):
    """Moves by the geodesic or the retraction, along the direction of Adam with one second moment per vector."""

    def __init__(self, manifold: FixedNorm, group: dict[str, Any], steps: int, *, polish: bool) -> None:
        super().__init__(manifold, group, steps, polish=polish)
        self.rate = float(group["lr"]) / (1 - self.beta1**steps)
        self.length = float(manifold.radius)
        self.shears = _angle_bound(self.length, group) * self.root / (1 - self.beta1**steps) < _SHEARS_BELOW

    def turn_compiled(
        self, x: list[Tensor], g: list[Tensor], m: list[Tensor], v: list[Tensor], sizes: list[int]
    ) -> None:
        """Do the same as `turn`, for all parameters at once."""
        numbers = self.beta1, self.beta2, self.rate, self.root, self.group["eps"]
        turn_by_length(x, g, m, v, sizes, self.retraction.name, self.length, *numbers)

    def turn(self, x: Tensor, g: Tensor, m: Tensor, v: Tensor, axes: tuple[int, ...], scratch: Tensor) -> None:
        """Write the point to ``x`` and the transported moment to ``m``."""
        radial = torch.mul(x, g, out=scratch).sum(axes, keepdim=True)
        c = torch.addcmul(g, x, radial, value=-(self.length**-2), out=scratch)
        v.mul_(self.beta2).add_(torch.linalg.vector_norm(c, dim=axes, keepdim=True).square_(), alpha=1 - self.beta2)
        m.lerp_(c, 1 - self.beta1)
        a = self.rate / (v.sqrt().div_(self.root).add_(self.group["eps"]))  # the step is -a m
        lever = torch.linalg.vector_norm(m, dim=axes, keepdim=True).div_(self.length).square_()
        square = a.square() * lever
        sine, half = self.retraction.plane_rotation(square)
        if self.shears:
            outer, inner = (half / sine).mul_(a), (sine * a).mul_(lever)
            x.addcmul_(m, outer, value=-1)
            m.addcmul_(x, inner)
            x.addcmul_(m, outer, value=-1)
        else:
            cosine, along = 1 - square * half, sine * a
            y = torch.mul(x, cosine, out=scratch).addcmul_(m, along, value=-1)
            m.mul_(cosine).addcmul_(x, along * lever)
            x.copy_(y)
        self.polished(x, axes)


class _ByAngle(_Turn):
    """Rotates by the learning rate towards the direction of plain Adam, computed by torch's fused function."""

    def turn_compiled(
        self, x: list[Tensor], g: list[Tensor], m: list[Tensor], v: list[Tensor], sizes: list[int]
    ) -> None:
        """Do the same as `turn`, for all parameters at once."""
        radius = None if isinstance(self.radius, str) else self.radius
        numbers = self.beta1, self.beta2, float(self.group["lr"]), self.root, self.group["eps"]
        turn_by_angle(x, g, m, v, sizes, radius, *numbers)

    def turn(self, x: Tensor, g: Tensor, m: Tensor, v: Tensor, axes: tuple[int, ...], scratch: Tensor) -> None:
        """Write the point to ``x``, and the moments of the gradient to ``m`` and ``v``."""
        assert fused_adam is not None
        u, angle = scratch.zero_(), float(self.group["lr"])
        step = torch.full((), float(self.steps), device=x.device)
        options = {"lr": 1.0, "beta1": self.beta1, "beta2": self.beta2, "eps": self.group["eps"]}
        flags = {"weight_decay": 0.0, "amsgrad": False, "maximize": False, "grad_scale": None, "found_inf": None}
        fused_adam([u], [g.contiguous()], [m], [v], [], [step], **options, **flags)
        # its length has no effect; at 1 no square underflows
        u.div_(torch.linalg.vector_norm(u, math.inf, dim=axes, keepdim=True).clamp_(min=torch.finfo(u.dtype).tiny))
        size = torch.linalg.vector_norm(x, dim=axes, keepdim=True) if isinstance(self.radius, str) else self.radius
        radial = (x * u).sum(axes, keepdim=True).div_(size)
        u.addcmul_(x, radial / size, value=-1)
        inside = torch.linalg.vector_norm(u, dim=axes, keepdim=True)
        none = inside <= 8 * torch.finfo(x.dtype).eps * torch.hypot(inside, radial)
        # uses a small difference: in single precision, rounding errors of a cosine would accumulate over steps
        x.addcmul_(x, torch.where(none, 0.0, -2 * math.sin(0.5 * angle) ** 2).to(x.dtype))
        x.addcmul_(u, torch.where(none, 0.0, math.sin(angle) * size / inside))
        self.polished(x, axes)
