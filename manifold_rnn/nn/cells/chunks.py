"""Many steps of a linear recurrence with reflections at once: products of reflections in blocks of time."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ...linalg.householder import wy_factor

REFLECTIONS = 32  # of a block; the triangles of larger ones cost more than the steps that they save


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
    T, count = len(u), K.shape[2]
    steps = block_steps(count)
    # N blocks: (N, B, steps, n), (N, B, steps * k, n), (N, B, steps * k)
    u, K, beta = (in_blocks(z, steps) for z in (u, K, beta))
    sums = u.cumsum(2)
    K, beta = K.flatten(2, 3), beta.flatten(2, 3)
    factor = wy_factor(K, beta)
    before = (sums - u).repeat_interleave(count, 2)  # the inputs of a block before the step of each reflection
    inside = torch.linalg.vecdot(K, before).unsqueeze(-1)
    first, coefficients = [], []
    state = h.unsqueeze(-1)  # (B, n, 1)
    for K_c, conj_c, factor_c, inside_c, sum_c in zip(
        K.mT, K.conj(), factor, inside, sums[:, :, -1].unsqueeze(-1), strict=True
    ):
        first.append(state)
        s = factor_c @ torch.baddbmm(inside_c, conj_c, state)
        coefficients.append(s)
        state = torch.baddbmm(state + sum_c, K_c, s, alpha=-1)
    changes = (torch.stack(coefficients) * K).unflatten(2, (steps, count)).sum(3).cumsum(2)
    states = torch.stack(first).mT + sums - changes  # (N, B, steps, n)
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
    steps = block_steps(count)
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
        logs = _head_blocks(log_decay, steps).cumsum(3)  # (N, B, h, steps): since the block began
        at_rule = logs.repeat_interleave(count, 3)
        between = (at_rule.unsqueeze(-1) - at_rule.unsqueeze(-2)).clamp(max=0).exp()
        factor = wy_factor(K, beta, between)
        seen = seen * past * (logs.unsqueeze(-1) - at_rule.unsqueeze(-2)).clamp(max=0).exp()
        read, keys = q.conj() * logs.exp().unsqueeze(-1), K.conj() * at_rule.exp().unsqueeze(-1)
        kept = K * (logs[..., -1:] - at_rule).exp().unsqueeze(-1)
        last = logs[..., -1].exp()[..., None, None].unbind(0)
    own = factor @ V  # (N, B, h, steps * k, e)
    first, rules = [], []
    for c, (factor_c, own_c, kept_c) in enumerate(zip(factor @ keys, own, kept.mT, strict=True)):
        first.append(H)
        s = factor_c @ H - own_c
        rules.append(s)
        H = (H if last is None else H * last[c]) - kept_c @ s
    y = read @ torch.stack(first) - seen @ torch.stack(rules)  # (N, B, h, steps, e)
    return y.movedim(3, 1).flatten(0, 1)[:T], H


def block_steps(count: int) -> int:
    """Return the number of steps of a block, for this number of reflections in each step."""
    return max(1, REFLECTIONS // count)


def in_blocks(z: Tensor, steps: int) -> Tensor:
    """Return (T, B, ...) as (N, B, steps, ...); the last block is filled with zeros, which are steps of no effect."""
    missing = -len(z) % steps
    z = F.pad(z, (0, 0) * (z.dim() - 1) + (0, missing)) if missing else z
    return z.unflatten(0, (-1, steps)).transpose(1, 2)


def _head_blocks(z: Tensor, steps: int) -> Tensor:
    """Return (T, B, h, ...) as (N, B, h, steps, ...)."""
    return in_blocks(z, steps).transpose(2, 3)
