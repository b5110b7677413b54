"""Delta rules on matrices in blocks of time, with a backward pass of their own."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import sees_every_step
from ...linalg.householder import unit_and_lengths, unit_gradient, wy_inverse
from ...linalg.precision import batched, double, without_autocast
from ..gradients import gradients_by_autograd
from .chunks import groups

GROUP_BYTES = 1 << 19  # of the keys of a group of blocks on a CPU, all tensors of which stay in the cache
KEPT = 9  # tensors of a group that the backward pass needs
LARGEST_DECAY = 1e3  # whose exponential is 0, also in double precision


class Rules(NamedTuple):
    """What the steps of all blocks need of the input."""

    q: Tensor  # (N, B, steps, h, d), of any length; they are scaled to length 1
    K: Tensor  # (N, B, steps, k, h, d), as well
    V: Tensor  # (N, B, steps, k, h, e)
    beta: Tensor  # (N, B, steps, k, h), real
    log_decay: Tensor | None  # (N, B, steps, h), real, at most 0


def delta_in_blocks(rules: Rules, H: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the readings :math:`y_t = q_t^{\mathsf H} H_t` of a state with delta rules, and the last state.

    Each step multiplies ``H`` by the exponential of ``log_decay`` and then applies its rules, the first one first:
    :math:`H \leftarrow H + \beta k (v^\top - k^{\mathsf H} H)`. In a block that starts with ``H``, the errors ``p`` of
    its rules, :math:`p_r^\top = v_r^\top - k_r^{\mathsf H} H_r`, solve one triangular system:

    .. math:: (I + \operatorname{tril}(\bar K K^\top, -1) B)\, p = V - \bar K H, \qquad H \leftarrow H + K^\top B p.

    Parameters
    ----------
    rules : Rules
        Queries, keys, values, strengths and decays in blocks. A step with strengths and decay 0 has no effect.
    H : Tensor, shape (B, h, d, e)

    Returns
    -------
    y : Tensor, shape (N steps, B, h, e)
    H : Tensor, shape (B, h, d, e)

    Notes
    -----
    The backward pass keeps the first states of the blocks, the errors and the triangular inverses. Derivatives of its
    gradients, and whatever sees every operation, run the same products as operations of torch.
    """
    if sees_every_step():
        return _forward(rules, H)[0]
    y, last = _Delta.apply(*rules, H)
    return y, last


class _Delta(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        rules, H = Rules(*inputs[:-1]), inputs[-1]
        outputs, kept = _forward(rules, H)
        ctx.save_for_backward(*rules, H, *(z for group in kept for z in group))
        return outputs

    @staticmethod
    def backward(ctx: Any, gy: Tensor, gH: Tensor) -> tuple[Tensor | None, ...]:
        q, K, V, beta, log_decay, H, *kept = ctx.saved_tensors  # once: a checkpoint returns them a single time
        rules = Rules(q, K, V, beta, log_decay)
        with without_autocast(q):
            if torch.is_grad_enabled() or batched(gy, gH):
                return tuple(gradients_by_autograd(_outputs, (*rules, H), ctx.needs_input_grad, (gy, gH)))
            return _backward(rules, H, kept, gy, gH)


def _outputs(*inputs: Any) -> tuple[Tensor, Tensor]:
    return _forward(Rules(*inputs[:-1]), inputs[-1])[0]


class _Group:
    """Some blocks that are worked on together, g of them: matrices for each block and head, n = g B h."""

    def __init__(self, rules: Rules, part: slice, lengths: Sequence[Tensor] = ()) -> None:
        q, K, beta = rules.q[part], rules.K[part], rules.beta[part]
        self.shape = K.shape  # (g, B, steps, k, h, d)
        queries, keys = q.transpose(2, 3).reshape(-1, q.shape[2], q.shape[-1]), self.rows(K)
        if lengths:
            self.lengths = tuple(lengths)
            self.q, self.K = (
                (z / largest).div_(length) for z, largest, length in ((queries, *lengths[:2]), (keys, *lengths[2:]))
            )
        else:
            (self.q, *of_q), (self.K, *of_K) = unit_and_lengths(queries), unit_and_lengths(keys)
            self.lengths = (*of_q, *of_K)  # of q (n, steps, 1) and K (n, R, 1), twice
        self.beta = self.rows(beta.unsqueeze(-1))  # (n, R, 1)
        steps, count = K.shape[2:4]
        of_step = torch.arange(steps, device=q.device)
        self.past = of_step.repeat_interleave(count) <= of_step.unsqueeze(-1)  # (steps, R)
        self.decays = None
        if rules.log_decay is not None:
            self.decays = _Decays(rules.log_decay[part].transpose(2, 3).reshape(-1, steps), count)

    def rows(self, z: Tensor) -> Tensor:
        """Return (g, B, steps, k, h, any) as (n, steps k, any)."""
        z = z.permute(0, 1, 4, 2, 3, 5)
        return z.reshape(z.shape[:3].numel(), z.shape[3:5].numel(), z.shape[-1])

    def of_rows(self, z: Tensor) -> Tensor:
        """Return (n, steps k, any) as (g, B, steps, k, h, any)."""
        g, B, steps, count, h, _ = self.shape
        return z.view(g, B, h, steps, count, z.shape[-1]).permute(0, 1, 3, 4, 2, 5)

    def of_steps(self, z: Tensor) -> Tensor:
        """Return (n, steps, any) as (g, B, steps, h, any)."""
        g, B, steps, _, h, _ = self.shape
        return z.view(g, B, h, steps, z.shape[-1]).transpose(2, 3)

    def each(self, z: Tensor) -> Sequence[Tensor]:
        """Return the parts of (n, ...) that belong to each block."""
        return z.chunk(self.shape[0]) if self.shape[0] > 1 else (z,)


class _Decays:
    """The decays between the steps of a block, for log decays (n, steps)."""

    def __init__(self, log_decay: Tensor, count: int) -> None:
        # sums in double precision, whose differences would lose digits in single; a larger decay leaves 0 as well, but
        # the decays of the steps after it would be lost in its sum
        dtype = log_decay.dtype
        logs = double(log_decay).clamp(min=-LARGEST_DECAY).cumsum(1)
        between = (logs.unsqueeze(2) - logs.unsqueeze(1)).clamp(max=0).exp().to(dtype)  # (n, steps, steps)
        self.of_step = logs.exp().to(dtype).unsqueeze(-1)  # (n, steps, 1): since the block began
        self.of_rule = self.of_step.repeat_interleave(count, 1)  # (n, R, 1)
        self.read = between.repeat_interleave(count, 2)  # (n, steps, R)
        self.rules = self.read.repeat_interleave(count, 1)  # (n, R, R)
        self.after = self.read[:, -1].unsqueeze(-1)  # (n, R, 1): until the block ends
        self.all = self.of_step[:, -1:]  # (n, 1, 1)

    def gradient(self, read: Tensor, keys: Tensor, seen: Tensor, gram: Tensor, tail: Tensor, state: Tensor) -> Tensor:
        """Return the gradient of the log decays (n, steps) from the products of all that decays with its gradient.

        A log decay receives the products of every pair of an earlier and a later event, of which no two cancel.
        """
        steps = (self.of_step.shape[1], -1)
        since_start = read.sum(-1) + keys.sum(-1).unflatten(1, steps).sum(2)  # (n, steps)
        between = seen.unflatten(2, steps).sum(3) + gram.unflatten(2, steps).sum(3).unflatten(1, steps).sum(2)
        until_end = tail.sum(-1).unflatten(1, steps).sum(2)  # (n, steps)
        from_start = torch.cat([since_start, state.sum((1, 2)).unsqueeze(1)], 1)  # (n, steps + 1)
        from_step = torch.cat([between, until_end.unsqueeze(1)], 1)  # (n, steps + 1, steps)
        pairs = torch.cat([from_start.unsqueeze(2), from_step], 2)  # (later, earlier)
        return pairs.flip(1).cumsum(1).flip(1)[:, :-1].tril().sum(2)


def _forward(rules: Rules, H: Tensor) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, ...]]]:
    """Return the outputs, and for each group what the backward pass needs."""
    kept: list[tuple[Tensor, ...]] = []
    shape, outputs = H.shape, []
    H = H.flatten(0, 1)
    for part in groups(rules.K, GROUP_BYTES):
        group = _Group(rules, part)
        keys, read, tail, D = group.K.conj(), group.q.conj(), group.K, group.decays
        gram, seen = keys @ group.K.mT, read @ group.K.mT
        if D is not None:
            gram, seen = gram * D.rules, seen * D.read
            keys, read, tail = keys * D.of_rule, read * D.of_step, tail * D.after
        seen, inverse = seen * group.past, wy_inverse(gram, group.beta)
        first, errors = [], []
        blocks = zip(*map(group.each, (keys, group.rows(rules.V[part]), inverse, group.beta, tail.mT)), strict=True)
        for c, (keys_c, V_c, inverse_c, beta_c, tail_c) in enumerate(blocks):
            first.append(H)
            p = inverse_c @ torch.baddbmm(V_c, keys_c, H, alpha=-1)
            errors.append(p)
            H = H if D is None else H * group.each(D.all)[c]
            H = torch.baddbmm(H, tail_c, beta_c * p)
        starts, p = _joined(first), _joined(errors)
        y = torch.baddbmm(read @ starts, seen, group.beta * p)  # (n, steps, e)
        outputs.append(group.of_steps(y).transpose(1, 2).flatten(0, 1))
        kept.append((starts, p, inverse, gram, seen, *group.lengths))
    return (_joined(outputs), H.unflatten(0, shape[:2])), kept


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _backward(rules: Rules, H: Tensor, kept: Sequence[Tensor], gy: Tensor, gH: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the rules and of the first state, from those of the outputs."""
    gradients = [None if z is None else torch.empty_like(z) for z in rules]
    steps = rules.K.shape[2]
    d, parts = gH.flatten(0, 1), groups(rules.K, GROUP_BYTES)
    for i in range(len(parts) - 1, -1, -1):
        of_part, part = kept[KEPT * i : KEPT * (i + 1)], parts[i]
        group = _Group(rules, part, of_part[5:])
        g = gy[part.start * steps : part.stop * steps].unflatten(0, (-1, steps))  # (g, steps, B, h, e)
        g = g.permute(0, 2, 3, 1, 4).reshape(-1, steps, gy.shape[-1])  # (n, steps, e)
        of_group, d = _group_backward(group, of_part[:5], g, d)
        for whole, gradient in zip(gradients, of_group, strict=True):
            if whole is not None and gradient is not None:
                whole[part] = gradient
    return (*gradients, d.view(H.shape))


def _group_backward(
    group: _Group, kept: Sequence[Tensor], g: Tensor, d: Tensor
) -> tuple[Sequence[Tensor | None], Tensor]:
    """Return the gradients of the rules of a group and of its first state, from those of readings and last state."""
    starts, p, inverse, gram, seen = kept
    K, q, beta, D = group.K, group.q, group.beta, group.decays
    keys, read, tail = K.conj(), q.conj(), K
    if D is not None:
        keys, read, tail = keys * D.of_rule, read * D.of_step, tail * D.after
    ends, of_s, of_z = [], [], []  # gradients of the states, of s = beta p, and of z, the right side
    blocks = zip(*map(group.each, (seen.mH @ g, tail.conj(), inverse.mH, beta, keys.mH, read.mH, g)), strict=True)
    for c, (seen_c, tail_c, inverse_c, beta_c, keys_c, read_c, g_c) in reversed(list(enumerate(blocks))):
        ends.append(d)
        of_s.append(torch.baddbmm(seen_c, tail_c, d))
        of_z.append(inverse_c @ (beta_c * of_s[-1]))
        d = torch.baddbmm(d if D is None else d * group.each(D.all)[c], keys_c, of_z[-1], alpha=-1)
        d = d.baddbmm_(read_c, g_c)
    d_end, ds, dz = (_joined(parts[::-1]) for parts in (ends, of_s, of_z))
    s = beta * p
    of_read, of_seen = g @ starts.mH, (g @ s.mH) * group.past  # (n, steps, d), (n, steps, R)
    of_gram = (dz @ p.mH).tril_(-1)  # (n, R, R): of gram * beta, with its sign changed
    of_beta = (ds * p.conj()).real.sum(-1) - (of_gram * gram.conj()).real.sum(1)
    of_gram = of_gram * beta.mT
    of_tail, of_decay = s.conj() @ d_end.mT, None  # (n, R, d)
    if D is None:
        of_K = of_tail.baddbmm_(dz.conj(), starts.mT, alpha=-1)
    else:
        of_keys = dz.conj() @ starts.mT  # with its sign changed
        products = ((of_read, read), (of_keys, -keys.conj()), (of_seen, seen), (of_gram, -gram), (of_tail, tail))
        of_decay = D.gradient(*((x * z.conj()).real for x, z in (*products, (d_end * D.all, starts))))
        of_seen, of_gram = of_seen * D.read, of_gram * D.rules
        of_read, of_K = of_read * D.of_step, of_tail.mul_(D.after) - of_keys * D.of_rule
    of_K = of_K.baddbmm_(of_gram.conj() + of_gram.mT, K, alpha=-1).baddbmm_(of_seen.mT, q)
    of_q = torch.baddbmm(of_read, of_seen, K.conj()).conj()
    return (
        group.of_steps(unit_gradient(group.q, *group.lengths[:2], of_q)),
        group.of_rows(unit_gradient(group.K, *group.lengths[2:], of_K)),
        group.of_rows(dz),
        group.of_rows(of_beta.unsqueeze(-1)).squeeze(-1),
        None if of_decay is None else group.of_steps(of_decay.unsqueeze(-1)).squeeze(-1),
    ), d
