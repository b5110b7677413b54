"""Delta rules on matrices in blocks of time, with a hand-written backward pass."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._torch import sees_every_step
from ...linalg.householder import divided, unit_and_lengths, unit_gradient, wy_inverse
from ...linalg.precision import batched, double, without_autocast
from ..gradients import gradients_by_autograd
from .chunks import groups

GROUP_BYTES = 1 << 19  # of the keys of a group of blocks, whose tensors fit into the CPU cache
KEPT = 5  # number of tensors of a group that the backward pass needs, except the first states
LARGEST_DECAY = 1e3  # its exponential is 0, also in double precision


class Rules(NamedTuple):
    """The projected inputs of the steps of all blocks."""

    q: Tensor  # (N, B, steps, h, d), of any length; scaled to length 1 later
    K: Tensor  # (N, B, steps, k, h, d), scaled to length 1 later
    V: Tensor  # (N, B, steps, k, h, e)
    beta: Tensor  # (N, B, steps, k, h), real
    log_decay: Tensor | None  # (N, B, steps, h), real, at most 0


def delta_in_blocks(rules: Rules, H: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return the outputs :math:`y_t = q_t^{\mathsf H} H_t` of a state with delta rules, and the last state.

    Each step multiplies ``H`` by the exponential of ``log_decay`` and then applies its rules in order: :math:`H
    \leftarrow H + \beta k (v^\top - k^{\mathsf H} H)`. In a block that starts with ``H``, the errors :math:`p_r^\top =
    v_r^\top - k_r^{\mathsf H} H_r` of its rules solve one triangular system:

    .. math:: (I + \operatorname{tril}(\bar K K^\top, -1) B)\, p = V - \bar K H, \qquad H \leftarrow H + K^\top B p.

    Parameters
    ----------
    rules : Rules
        Queries, keys, values, strengths and decays in blocks. A step with strengths and decay 0 has no effect.
    H : Tensor, shape (B, h, d, e)
        State before the first block.

    Returns
    -------
    y : Tensor, shape (N steps, B, h, e)
    H : Tensor, shape (B, h, d, e)

    Notes
    -----
    The backward pass keeps the first states of the blocks, the errors and the triangular inverses. Higher derivatives
    and tracing run the same products as torch operations.
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
        q, K, V, beta, log_decay, H, *kept = ctx.saved_tensors  # read once, because a checkpoint returns them only once
        rules = Rules(q, K, V, beta, log_decay)
        with without_autocast(q):
            if torch.is_grad_enabled() or batched(gy, gH):
                return tuple(gradients_by_autograd(_outputs, (*rules, H), ctx.needs_input_grad, (gy, gH)))
            return _backward(rules, H, kept, gy, gH)


def _outputs(*inputs: Any) -> tuple[Tensor, Tensor]:
    return _forward(Rules(*inputs[:-1]), inputs[-1])[0]


class _Group:
    """A group of g blocks that are computed together, with n = g B h matrices, one for each block and head.

    The queries of the steps and the keys of the R rules are the rows of one matrix, so that one product serves both.
    """

    def __init__(self, rules: Rules, part: slice, lengths: Sequence[Tensor] = ()) -> None:
        q, K, beta = rules.q[part], rules.K[part], rules.beta[part]
        self.shape = K.shape  # (g, B, steps, k, h, d)
        self.steps, count = K.shape[2:4]
        rows = torch.cat([q.transpose(2, 3).reshape(-1, self.steps, q.shape[-1]), self.rows(K)], 1)
        if lengths:
            self.largest, self.length = lengths
            self.A = divided(rows, self.largest).div_(self.length)
        else:
            self.A, self.largest, self.length = unit_and_lengths(rows)  # (n, steps + R, d), and twice (n, steps + R, 1)
        self.K = self.A[:, self.steps :]  # (n, R, d)
        self.beta = self.rows(beta.unsqueeze(-1))  # (n, R, 1)
        of_step = torch.arange(self.steps, device=q.device)
        of_rule = of_step.repeat_interleave(count)
        past = of_rule <= of_step.unsqueeze(-1)  # rules that a query reads
        earlier = torch.ones_like(past[:1]).expand(len(of_rule), -1).tril(-1)  # rules before a rule
        self.mask = torch.cat([past, earlier])  # (steps + R, R)
        self.decays = None
        if rules.log_decay is not None:
            log_decay = rules.log_decay[part].transpose(2, 3).reshape(-1, self.steps)
            self.decays = _Decays(log_decay, torch.cat([of_step, of_rule]), of_rule)

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
        """Return the parts of (n, ...) for each block."""
        return z.chunk(self.shape[0]) if self.shape[0] > 1 else (z,)


class _Decays:
    """The decays between the steps of a block, from log decays (n, steps) and the steps of rows and rules."""

    def __init__(self, log_decay: Tensor, of_row: Tensor, of_rule: Tensor) -> None:
        # double precision, because differences of sums would lose digits in single precision. Decays are clamped,
        # because a larger one would absorb the decays of later steps in the sum
        dtype = log_decay.dtype
        logs = double(log_decay).clamp(min=-LARGEST_DECAY).cumsum(1)
        between = (logs.unsqueeze(2) - logs.unsqueeze(1)).clamp(max=0).exp().to(dtype)  # (n, steps, steps)
        since = logs.exp().to(dtype)
        self.steps = log_decay.shape[1]
        self.since = since.index_select(1, of_row).unsqueeze(-1)  # (n, steps + R, 1): since the block began
        self.between = between.index_select(1, of_row).index_select(2, of_rule)  # (n, steps + R, R)
        self.after = self.between[:, self.steps - 1].unsqueeze(-1)  # (n, R, 1): until the block ends
        self.all = since[:, -1:].unsqueeze(-1)  # (n, 1, 1)

    def gradient(self, rows: Tensor, between: Tensor, tail: Tensor, state: Tensor) -> Tensor:
        """Return the gradient of the log decays (n, steps) from the products of decaying terms with their gradients.

        A log decay receives the products of all pairs of an earlier and a later event. No two of them cancel.
        """
        since_start = self._of_steps(rows.sum(-1))  # (n, steps)
        of_pairs = self._of_steps(between.unflatten(2, (self.steps, -1)).sum(3))  # (n, steps, steps)
        until_end = tail.sum(-1).unflatten(1, (self.steps, -1)).sum(2)  # (n, steps)
        from_start = torch.cat([since_start, state.unsqueeze(1)], 1)  # (n, steps + 1)
        from_step = torch.cat([of_pairs, until_end.unsqueeze(1)], 1)  # (n, steps + 1, steps)
        pairs = torch.cat([from_start.unsqueeze(2), from_step], 2)  # (later, earlier)
        return pairs.flip(1).cumsum(1).flip(1)[:, :-1].tril().sum(2)

    def _of_steps(self, z: Tensor) -> Tensor:
        """Return sums over the rows of each step, of (n, steps + R, ...)."""
        return z[:, : self.steps] + z[:, self.steps :].unflatten(1, (self.steps, -1)).sum(2)


def _forward(rules: Rules, H: Tensor) -> tuple[tuple[Tensor, Tensor], list[tuple[Tensor, ...]]]:
    """Return the outputs, and the tensors of each group that the backward pass needs."""
    kept: list[tuple[Tensor, ...]] = []
    shape, outputs, steps = H.shape, [], rules.K.shape[2]
    H = H.flatten(0, 1)
    for part in groups(rules.K, GROUP_BYTES):
        group = _Group(rules, part)
        rows, tail, D = group.A.conj(), group.K, group.decays
        gram = (rows @ group.K.mT) * group.mask
        if D is not None:
            gram, rows, tail = gram * D.between, rows * D.since, tail * D.after
        inverse = wy_inverse(gram[:, steps:], group.beta)
        decays = () if D is None else group.each(D.all)
        first, errors, readings = [], [], []
        blocks = zip(*map(group.each, (rows, group.rows(rules.V[part]), inverse, group.beta, gram, tail)), strict=True)
        for c, (rows_c, V_c, inverse_c, beta_c, gram_c, tail_c) in enumerate(blocks):
            first.append(H)
            held = rows_c @ H  # (B h, steps + R, e): the stored values of queries and keys at the start
            p = inverse_c @ (V_c - held[:, steps:])
            s = beta_c * p
            errors.append(p)
            readings.append(torch.baddbmm(held[:, :steps], gram_c[:, :steps], s))
            H = torch.baddbmm(H if D is None else H * decays[c], tail_c.mT, s)
        outputs.append(group.of_steps(_joined(readings)).transpose(1, 2).flatten(0, 1))
        kept.append((_joined(errors), inverse, gram, group.largest, group.length, *first))
    return (_joined(outputs), H.unflatten(0, shape[:2])), kept


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _backward(rules: Rules, H: Tensor, kept: Sequence[Tensor], gy: Tensor, gH: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients of the rules and of the first state, from those of the outputs."""
    gradients = [None if z is None else torch.empty_like(z) for z in rules]
    steps, stop, d = rules.K.shape[2], len(kept), gH.flatten(0, 1)
    for part in reversed(groups(rules.K, GROUP_BYTES)):
        start = stop - KEPT - (part.stop - part.start)
        of_part, stop = kept[start:stop], start
        g = gy[part.start * steps : part.stop * steps].unflatten(0, (-1, steps))  # (g, steps, B, h, e)
        group = _Group(rules, part, of_part[3:KEPT])
        of_group, d = _group_backward(group, of_part[:3], of_part[KEPT:], g.permute(0, 2, 3, 1, 4), d)
        for whole, gradient in zip(gradients, of_group, strict=True):
            if whole is not None and gradient is not None:
                whole[part] = gradient
    return (*gradients, d.view(H.shape))


def _group_backward(
    group: _Group, kept: Sequence[Tensor], first: Sequence[Tensor], gy: Tensor, d: Tensor
) -> tuple[Sequence[Tensor | None], Tensor]:
    """Return the gradients of the rules of a group and of its first state, from those of outputs and last state."""
    p, inverse, gram = kept
    A, K, beta, steps, D = group.A, group.K, group.beta, group.steps, group.decays
    rows, tail = (A.conj(), K) if D is None else (A.conj() * D.since, K * D.after)
    # gradients of the stored values of queries and keys, (n, steps + R, e)
    of_held = p.new_empty(*A.shape[:2], p.shape[-1])
    of_held.view(*gy.shape[:3], -1, p.shape[-1])[:, :, :, :steps] = gy
    s, of_s, of_rows, of_tail = beta * p, torch.empty_like(p), torch.empty_like(A), torch.empty_like(K)
    from_readings = gram[:, :steps].mH @ of_held[:, :steps]
    decays = () if D is None else group.each(D.all)
    of_states = []  # products of the states with their gradients
    blocks = zip(
        *map(group.each, (from_readings, tail.conj(), inverse.mH, -beta, rows.mH, s.conj())),
        *map(group.each, (of_s, of_held, of_rows, of_tail)),
        first,
        strict=True,
    )
    for c, (read_c, tail_c, inverse_c, beta_c, rows_c, s_c, of_s_c, of_held_c, of_rows_c, of_tail_c, H) in reversed(
        list(enumerate(blocks))
    ):
        torch.baddbmm(read_c, tail_c, d, out=of_s_c)
        of_held_c[:, steps:] = inverse_c @ (beta_c * of_s_c)
        torch.bmm(of_held_c, H.mH, out=of_rows_c)
        torch.bmm(s_c, d.mT, out=of_tail_c)
        if D is not None:
            d = d * decays[c]
            of_states.append((d * H.conj()).real.sum((1, 2)))
        d = torch.baddbmm(d, rows_c, of_held_c)
    of_errors = of_held[:, steps:]  # of V, with its sign changed
    of_beta = (p.conj() * torch.baddbmm(of_s, gram[:, steps:].mH, of_errors)).real.sum(-1, keepdim=True)
    of_gram, of_decay = (of_held @ s.mH) * group.mask, None  # (n, steps + R, R)
    if D is not None:
        pairs = ((of_rows, rows), (of_gram, gram), (of_tail, tail))
        of_row, between, until_end = ((x * z.conj()).real for x, z in pairs)
        of_decay = D.gradient(of_row, between, until_end, _joined(of_states[::-1]))
        of_gram, of_rows, of_tail = of_gram * D.between, of_rows * D.since, of_tail * D.after
    of_A = of_rows.baddbmm_(of_gram, K.conj()).conj()
    of_A[:, steps:] += of_tail.baddbmm_(of_gram.mT, A)
    of_A = unit_gradient(A, group.largest, group.length, of_A)
    return (
        group.of_steps(of_A[:, :steps]),
        group.of_rows(of_A[:, steps:]),
        group.of_rows(-of_errors),
        group.of_rows(of_beta).squeeze(-1),
        None if of_decay is None else group.of_steps(of_decay.unsqueeze(-1)).squeeze(-1),
    ), d
