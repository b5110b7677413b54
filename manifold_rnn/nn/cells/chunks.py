"""Many steps of a linear recurrence with reflections at once: products of reflections in blocks of time."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ...linalg.householder import wy_factor
from ...linalg.precision import applied, double

REFLECTIONS = 8  # of a block, or half the size of the vectors; larger blocks cost more than they save, and lose digits
LARGEST_DECAY = 1e3  # whose exponential is 0, also in double precision


def reflect_in_blocks(u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> Tensor:
    r"""Return the states of :math:`h_t = H_{tk} \cdots H_{t1} h_{t-1} + u_t`, all of them.

    Within a block of steps the coefficients :math:`s_r = \beta_r k_r^{\mathsf H} g_r` of all reflections solve one
    triangular system, whose right side is the first state and the sums of the inputs. Only the first states of the
    blocks follow from one another.

    Parameters
    ----------
    u : Tensor, shape (T, B, n)
    K : Tensor, shape (T, B, k, n)
    beta : Tensor, shape (T, B, k), real
    h : Tensor, shape (B, n)

    Returns
    -------
    Tensor, shape (T, B, n)
    """
    states: Tensor = applied(_Reflect, u, K, beta, h)
    return states


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> Tensor:
        return _states(u, K, beta, h)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor], output: Tensor) -> None:
        _, K, beta, h = inputs
        ctx.save_for_backward(K, beta, h, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        K, beta, h, states = ctx.saved_tensors
        # the adjoint of a step has its reflections in the other order; the first one acts on zero
        order = torch.arange(len(g), 0, -1, device=g.device) % len(g)
        reversed_K, reversed_beta = K.index_select(0, order).flip(2), beta.index_select(0, order).flip(2)
        adjoint = reflect_in_blocks(g.flip(0), reversed_K, reversed_beta, torch.zeros_like(h)).flip(0)
        z, before = torch.cat([h.unsqueeze(0), states[:-1]]), []
        for k, strength in zip(K.unbind(2), beta.split(1, 2), strict=True):
            a = _dot(k, z)
            before.append((z, a))
            z = torch.addcmul(z, strength * a, k, value=-1)
        K_gradient, beta_gradient, d = [], [], adjoint
        for k, strength, (z, a) in zip(K.unbind(2)[::-1], beta.split(1, 2)[::-1], before[::-1], strict=True):
            c = _dot(k, d)
            K_gradient.append(torch.addcmul((-strength * a.conj()) * d, strength * c.conj(), z, value=-1))
            beta_gradient.append(-(a * c.conj()).real)
            d = torch.addcmul(d, strength * c, k, value=-1)
        return adjoint, torch.stack(K_gradient[::-1], 2), torch.cat(beta_gradient[::-1], 2), d[0]


def _dot(k: Tensor, z: Tensor) -> Tensor:
    return (k.conj() * z).sum(-1, keepdim=True)


def _states(u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> Tensor:
    T, count = len(u), K.shape[2]
    steps = block_steps(K)
    # N blocks: (N, B, steps, n), (N, B, steps * k, n), (N, B, steps * k)
    u, K, beta = in_blocks(u, steps), in_blocks(K, steps).flatten(2, 3), in_blocks(beta, steps).flatten(2, 3)
    conj = K.conj()
    factor = wy_factor(K, beta)
    of_step = torch.arange(steps, device=u.device)
    of_rule = of_step.repeat_interleave(count)
    later = of_rule.unsqueeze(-1) > of_step  # (steps * k, steps): whether a reflection acts on the input of a step
    inside = ((conj @ u.mT) * later).sum(-1, keepdim=True)
    sums = torch.ones_like(u[0, 0, :, :1]).expand(-1, steps).tril() @ u
    first, coefficients = [], []
    state = h.unsqueeze(-1)  # (B, n, 1)
    for K_c, conj_c, factor_c, inside_c, sum_c in zip(
        K.mT, conj, factor, inside, sums[:, :, -1].unsqueeze(-1), strict=True
    ):
        first.append(state)
        s = factor_c @ torch.baddbmm(inside_c, conj_c, state)
        coefficients.append(s)
        state = torch.baddbmm(state + sum_c, K_c, s, alpha=-1)
    changes = (torch.stack(coefficients).mT * ~later.mT) @ K  # (N, B, steps, n)
    states = torch.stack(first).mT + sums - changes
    return states.transpose(1, 2).flatten(0, 1)[:T]


def delta_in_blocks(
    q: Tensor, K: Tensor, V: Tensor, beta: Tensor, log_decay: Tensor | None, H: Tensor
) -> tuple[Tensor, Tensor]:
    r"""Return the readings :math:`y_t = q_t^{\mathsf H} H_t` of a state with delta rules, and the last state.

    Each step multiplies ``H`` by the exponential of ``log_decay`` and then applies its rules, the first row of ``K``
    first: :math:`H \leftarrow H + \beta k (v^\top - k^{\mathsf H} H)`.

    Parameters
    ----------
    q : Tensor, shape (T, B, h, d)
    K : Tensor, shape (T, B, h, k, d)
    V : Tensor, shape (T, B, h, k, e)
    beta : Tensor, shape (T, B, h, k), real
    log_decay : Tensor, shape (T, B, h), real, at most 0, optional
    H : Tensor, shape (B, h, d, e)

    Returns
    -------
    y : Tensor, shape (T, B, h, e)
    H : Tensor, shape (B, h, d, e)
    """
    T, count = len(q), K.shape[3]
    steps = block_steps(K)
    q, K, V, beta = (_head_blocks(z, steps) for z in (q, K, V, beta))  # (N, B, h, steps, ...)
    K, V, beta = K.flatten(3, 4), V.flatten(3, 4), beta.flatten(3, 4)
    seen = q.conj() @ K.mT  # (N, B, h, steps, steps * k): what each step reads of each rule
    of_step = torch.arange(steps, device=q.device)
    of_rule = of_step.repeat_interleave(count)
    past = of_rule <= of_step.unsqueeze(-1)
    if log_decay is None:
        factor, seen, read, kept = wy_factor(K, beta), seen * past, q.conj(), K
        keys, last = K.conj(), None
    else:
        # sums in double precision, whose differences would lose digits in single; a larger decay leaves 0 as well, but
        # the decays of the steps after it would be lost in its sum
        logs = _head_blocks(double(log_decay).clamp(min=-LARGEST_DECAY), steps).cumsum(3)  # since the block began
        at_rule = logs.repeat_interleave(count, 3)

        def decay(since: Tensor) -> Tensor:
            return since.clamp(max=0).exp().to(beta.dtype)

        factor = wy_factor(K, beta, decay(at_rule.unsqueeze(-1) - at_rule.unsqueeze(-2)))
        seen = seen * past * decay(logs.unsqueeze(-1) - at_rule.unsqueeze(-2))
        read, keys = q.conj() * decay(logs).unsqueeze(-1), K.conj() * decay(at_rule).unsqueeze(-1)
        kept = K * decay(logs[..., -1:] - at_rule).unsqueeze(-1)
        last = decay(logs[..., -1])[..., None, None].unbind(0)
    own = factor @ V  # (N, B, h, steps * k, e)
    first, rules = [], []
    for c, (factor_c, own_c, kept_c) in enumerate(zip(factor @ keys, own, kept.mT, strict=True)):
        first.append(H)
        s = factor_c @ H - own_c
        rules.append(s)
        H = (H if last is None else H * last[c]) - kept_c @ s
    y = read @ torch.stack(first) - seen @ torch.stack(rules)  # (N, B, h, steps, e)
    return y.movedim(3, 1).flatten(0, 1)[:T], H


def block_steps(K: Tensor) -> int:
    """Return the number of steps of a block for vectors (T, ..., k, n)."""
    *_, count, size = K.shape
    return min(len(K), max(1, max(REFLECTIONS, size // 2) // count))


def in_blocks(z: Tensor, steps: int) -> Tensor:
    """Return (T, B, ...) as (N, B, steps, ...); the last block is filled with zeros, which are steps of no effect."""
    missing = -len(z) % steps
    z = F.pad(z, (0, 0) * (z.dim() - 1) + (0, missing)) if missing else z
    return z.unflatten(0, (-1, steps)).transpose(1, 2)


def _head_blocks(z: Tensor, steps: int) -> Tensor:
    """Return (T, B, h, ...) as (N, B, h, steps, ...)."""
    return in_blocks(z, steps).transpose(2, 3)
