"""Reflections of vectors in blocks of time, with a hand-written backward pass."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..._torch import sees_every_step
from ...linalg.householder import divided, unit_and_lengths, unit_gradient, wy_inverse
from ...linalg.precision import batched, without_autocast
from ..gradients import gradients_by_autograd
from .chunks import groups

GROUP_BYTES = 1 << 20  # of the vectors of a group of blocks, whose tensors fit into the CPU cache
KEPT = 5  # number of tensors of a group that the backward pass needs


def reflect_in_blocks(u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> Tensor:
    r"""Return all states of :math:`h_t = H_{tk} \cdots H_{t1} h_{t-1} + u_t`.

    In a block of steps that starts with ``h``, the coefficients :math:`p_r = k_r^{\mathsf H} g_r` of all reflections
    solve one triangular system. Its right side uses the states without reflections, which are :math:`h` plus a sum of
    inputs:

    .. math:: (I + \operatorname{tril}(\bar K K^\top, -1) B)\, p = z, \qquad
        z_r = k_r^{\mathsf H} \Bigl(h + \sum_{\tau < t(r)} u_\tau\Bigr), \qquad
        h_t = h + \sum_{\tau \le t} \Bigl(u_\tau - \sum_{r: t(r) = \tau} \beta_r p_r k_r\Bigr).

    Parameters
    ----------
    u : Tensor, shape (N, B, steps, n)
        Projected inputs, in blocks of time.
    K : Tensor, shape (N, B, steps, k, n)
        Vectors of the reflections.
    beta : Tensor, shape (N, B, steps, k), real
        Strengths of the reflections.
    h : Tensor, shape (B, n)
        State before the first block.

    Returns
    -------
    Tensor, shape (N steps, B, n)
    """
    if sees_every_step():
        return _forward(u, K, beta, h)[0]
    states: Tensor = _Reflect.apply(u, K, beta, h)
    return states


class _Reflect(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> Tensor:
        states, kept = _forward(u, K, beta, h)
        ctx.save_for_backward(u, K, beta, h, states, *(z for group in kept for z in group))
        return states

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        u, K, beta, h, states, *kept = ctx.saved_tensors  # read once, because a checkpoint returns them only once
        with without_autocast(u):
            if torch.is_grad_enabled() or batched(g):
                return tuple(gradients_by_autograd(_outputs, (u, K, beta, h), ctx.needs_input_grad, (g,)))
            return _backward(K, beta, h, states, kept, g)


def _outputs(u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> tuple[Tensor]:
    return (_forward(u, K, beta, h)[0],)


def _masks(u: Tensor, steps: int, count: int) -> tuple[Tensor, Tensor]:
    """Return masks of pairs of steps, and of steps and reflections, in which the second is not after the first."""
    up_to = u.new_ones(steps, steps).tril()
    return up_to, up_to.repeat_interleave(count, 1)  # (steps, steps), (steps, R)


def _forward(u: Tensor, K: Tensor, beta: Tensor, h: Tensor) -> tuple[Tensor, list[tuple[Tensor, ...]]]:
    """Return the states, and the tensors of each group that the backward pass needs."""
    kept: list[tuple[Tensor, ...]] = []
    h, outputs = h.unsqueeze(1), []  # states as rows, (B, 1, n)
    steps, count = K.shape[2:4]
    up_to, earlier = _masks(u, steps, count)
    for part in groups(K, GROUP_BYTES):
        g = part.stop - part.start
        u_g, beta_g = u[part].flatten(0, 1), beta[part].flatten(0, 1)  # (g B, ...)
        K_g, largest, length = unit_and_lengths(K[part].flatten(0, 1))
        rows, strengths = K_g.flatten(1, 2), beta_g.flatten(1).unsqueeze(1)  # (g B, R, n), (g B, 1, R)
        lower = (rows.conj() @ rows.mT).tril(-1)
        inverse = wy_inverse(lower, strengths.mT)
        sums = up_to @ u_g  # of the inputs up to each step
        before = (sums - u_g).unsqueeze(2)
        inside = (before * K_g.conj()).sum(-1).flatten(1).unsqueeze(1)  # (g B, 1, R)
        first, coefficients = [], []
        for rows_c, inverse_c, strengths_c, inside_c, sum_c in zip(
            *(z.chunk(g) for z in (rows, inverse.mT, strengths, inside, sums[:, -1:])), strict=True
        ):
            first.append(h)
            p = torch.baddbmm(inside_c, h, rows_c.mH) @ inverse_c
            coefficients.append(p)
            h = torch.baddbmm(h + sum_c, strengths_c * p, rows_c, alpha=-1)
        p = torch.cat(coefficients)
        states = torch.baddbmm(sums + torch.cat(first), earlier * (strengths * p), rows, alpha=-1)  # (g B, steps, n)
        outputs.append(states.unflatten(0, (g, -1)).transpose(1, 2).flatten(0, 1))
        kept.append((p, inverse, lower, largest, length))
    return torch.cat(outputs), kept


def _backward(
    K: Tensor, beta: Tensor, h: Tensor, states: Tensor, kept: Sequence[Tensor], g: Tensor
) -> tuple[Tensor, ...]:
    """Return the gradients of inputs, vectors, strengths and first state, from those of the states."""
    N, B, steps, count, n = K.shape
    of_u, of_K, of_beta = K.new_empty(N, B, steps, n), torch.empty_like(K), torch.empty_like(beta)
    up_to, earlier = _masks(K, steps, count)
    later, after = up_to.mT, 1 - earlier
    d, parts = torch.zeros_like(h).unsqueeze(1), groups(K, GROUP_BYTES)  # of the state at the end, as rows (B, 1, n)
    for i in range(len(parts) - 1, -1, -1):
        part, (p, inverse, lower, largest, length) = parts[i], kept[KEPT * i : KEPT * (i + 1)]
        begin, end, size = part.start * steps, part.stop * steps, part.stop - part.start
        K_g, beta_g = divided(K[part].flatten(0, 1), largest).div_(length), beta[part].flatten(0, 1)  # (g B, ...)
        rows, strengths = K_g.flatten(1, 2), beta_g.flatten(1).unsqueeze(1)  # (g B, R, n), (g B, 1, R)
        sums = later @ _blocks_of(g[begin:end], steps)  # of the gradients from each step on
        inside = (sums.unsqueeze(2) * K_g.conj()).sum(-1).flatten(1).unsqueeze(1)  # (g B, 1, R)
        ends, of_s, of_z = [], [], []  # of s = beta p and of z, the right side
        blocks = zip(*(z.chunk(size) for z in (rows, inverse.conj(), strengths, inside, sums[:, :1])), strict=True)
        for rows_c, inverse_c, strengths_c, inside_c, sum_c in reversed(list(blocks)):
            ends.append(d)
            of_s.append(torch.baddbmm(inside_c, d, rows_c.mH, beta=-1, alpha=-1))
            of_z.append((strengths_c * of_s[-1]) @ inverse_c)
            d = torch.baddbmm(d + sum_c, of_z[-1], rows_c)
        ds, dz = torch.cat(of_s[::-1]), torch.cat(of_z[::-1])  # (g B, 1, R)
        du = torch.baddbmm(sums + torch.cat(ends[::-1]), after * dz, rows)
        of_u[part] = du.unflatten(0, (size, B))
        of_beta[part] = ((ds - dz @ lower.conj()) * p.conj()).real.view(size, B, steps, count)
        before = states[begin - 1 : end - 1] if begin else torch.cat([h.unsqueeze(0), states[: end - 1]])
        coefficients = ((strengths * p).view(-1, steps, count, 1), dz.view(-1, steps, count, 1))
        dK = _vector_gradients(K_g, *coefficients, _blocks_of(before, steps), du)
        of_K[part] = unit_gradient(K_g, largest, length, dK).unflatten(0, (size, B))
    return of_u, of_K, of_beta, d.squeeze(1)


def _blocks_of(z: Tensor, steps: int) -> Tensor:
    """Return (g steps, B, n) as (g B, steps, n)."""
    return z.unflatten(0, (-1, steps)).transpose(1, 2).flatten(0, 1)


def _vector_gradients(K: Tensor, s: Tensor, dz: Tensor, h: Tensor, d: Tensor) -> Tensor:
    """Return the gradients of unit vectors (n, steps, k, size), for states before and gradients after the reflections.

    ``s`` and ``dz`` (n, steps, k, 1) are the coefficients by which a reflection changes states and gradients.
    """
    out, last = torch.empty_like(K), K.shape[2] - 1
    for r in range(last + 1):
        torch.mul(h, dz[:, :, r].conj(), out=out[:, :, r])
        if r < last:
            h = torch.addcmul(h, s[:, :, r], K[:, :, r], value=-1)
    for r in range(last, -1, -1):
        out[:, :, r].addcmul_(s[:, :, r].conj(), d, value=-1)
        if r:
            d = torch.addcmul(d, dz[:, :, r], K[:, :, r])
    return out
