"""Hand-written steps of a non-saturating recurrent unit, for heads whose directions are outer products."""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..products import Products, add_outer
from .base import State
from .gated_form import BackwardPart, GatedSteps, Sizes
from .nru_heads import SMALLEST, memory_changes, split_heads


class NRUSteps(GatedSteps):
    r"""Steps with the inputs of h and of the map of ``a``. They keep the values of both.

    If the number of heads divides :math:`s`, each direction is an outer product of a part of p, (s/k,), and of q, (s,).
    Its norm is the product of their norms. So the sum over the heads needs only one outer product.
    """

    has_cutoffs: ClassVar[bool] = True

    def __init__(
        self, weights: Sequence[Tensor], state: State, numbers: Sequence[float], buffers: Sequence[Tensor]
    ) -> None:
        super().__init__(weights, state, numbers, buffers)
        W, Wm, maps = weights
        self.n, self.heads = len(W), int(numbers[0])
        self.side = (len(maps) - 2 * self.heads) // 4
        self.of_state = Products(torch.cat([W, Wm], 1))
        self.of_a = Products(maps)
        self.signs = W.new_tensor([[1.0], [-1.0]]) / self.heads  # of writing and of erasing

    @staticmethod
    def sizes(weights: Sequence[Tensor], numbers: Sequence[float]) -> Sizes:
        (W, _, maps), heads = weights, int(numbers[0])
        n, side = W.shape[-1], (len(maps) - 2 * heads) // 4
        return Sizes(n + len(maps), n, (n, side // heads * side))

    def plain(self, u: Tensor, state: State) -> State:
        (h, c), (W, Wm, maps), n = state, self.weights, self.n
        h = torch.relu(u[..., :n] + h @ W.mT + c @ Wm.mT)
        z = u[..., n:] + torch.cat([h, c], -1) @ maps.mT
        written, erased = memory_changes(*split_heads(z, self.heads, c.shape[-1])).unbind(-2)
        return h, c + written - erased

    def forward(self, K: Tensor, states: Sequence[Tensor]) -> None:
        H, C = states
        n, M = self.n, C.shape[-1]
        both = K.new_empty(len(H[0]), n + M)  # h and c before the step, then h after it
        left, right = both[:, :n], both[:, n:]
        left.copy_(H[0])
        right.copy_(C[0])
        for u, z, h_t, c, c_t in zip(K[..., :n], K[..., n:], H[1:], C[:-1], C[1:], strict=True):
            self.of_state.forward(u, both)
            torch.clamp_min(u, 0, out=h_t)
            left.copy_(h_t)
            self.of_a.forward(z, both)
            self._write(z, c, c_t)
            right.copy_(c_t)

    def _write(self, z: Tensor, c: Tensor, next_c: Tensor) -> None:
        """Write the next memory to ``next_c``."""
        if self.compiled is None:
            torch.add(c, _heads(z, self.heads, self.side).change(self.signs), out=next_c)
            return
        sizes = len(c), self.heads, self.side, z.stride(0)
        if self.compiled["nru_forward"](z.data_ptr(), c.data_ptr(), next_c.data_ptr(), *sizes, SMALLEST):
            raise MemoryError("The steps of an NRU could not allocate their buffers. Use a smaller batch.")

    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        K, states, gK, before, sums = part
        (gh, gc), (H, C), n = gradients, states, self.n
        k, s = self.heads, self.side
        adjoint = _adjoint(K[..., n:], k, s, self.signs)
        slopes = torch.sign(H[1:])
        joint = torch.empty_like(gh, memory_format=torch.contiguous_format).new_empty(len(gh), n + gc.shape[-1])
        of_h, of_c = joint[:, :n], joint[:, n:]
        strengths = gK[..., n : n + 2 * k].unflatten(-1, (2, k))
        factors = gK[..., n + 2 * k :].unflatten(-1, (2, 2, s))
        steps = zip(*adjoint, slopes, gK[..., :n], gK[..., n:], strengths, factors, before, strict=True)
        for q, rows, v, along, psi, slope, g_h, g_z, g_strengths, g_factors, g_before in reversed(list(steps)):
            G = gc.view(-1, 1, s // k, s)  # the memory as a matrix
            gw = (q.unsqueeze(2) * G).sum(-1, keepdim=True)  # (B, 2, s/k, 1)
            of_rows = (rows @ gw).squeeze(-1)  # (B, 2, k + s)
            g_strengths.copy_(of_rows[..., :k])
            g_factors[:, :, 0] = of_rows[..., k:]
            of_psi = (along.unsqueeze(2) @ gw).squeeze(-1)  # (B, 2, 1)
            torch.addcmul((v.unsqueeze(-1) * G).sum(2), of_psi, psi, value=-1, out=g_factors[:, :, 1])
            torch.mm(g_z, self.of_a.conjugate, out=joint)
            gh.add_(of_h)
            gc.add_(of_c)
            torch.mul(gh, slope, out=g_h)
            torch.mm(g_h, self.of_state.conjugate, out=joint)
            gh = of_h.clone() if g_before is None else of_h + g_before
            gc.add_(of_c)
        state_rows, map_rows = (g.flatten(0, 1) for g in (gK[..., :n], gK[..., n:]))
        h, c = (part.flatten(0, 1) for part in (H[:-1], C[:-1]))
        add_outer(sums[0], state_rows, h)
        add_outer(sums[1], state_rows, c)
        add_outer(sums[2], map_rows, torch.cat([H[1:].flatten(0, 1), c], 1))
        return [gh, gc]


class _Heads(NamedTuple):
    """The heads that write to the memory and erase from it, from values (..., 2k + 4s) of the map of ``a``."""

    strengths: Tensor  # (..., 2, k)
    norms: Tensor  # (..., 2, 2, k): of each part of p, and k times that of q
    units: Tensor  # (..., 2, 2, k, s/k): p and q divided by them
    fades: Tensor  # (..., 2, k): 1, or below for a product with a norm below half the smallest one

    def weights(self) -> Tensor:
        """Return the sum of the parts of p, (..., 2, s/k). Its outer product with q is the change of the memory."""
        return ((self.strengths * self.fades).unsqueeze(-1) * self.units[..., 0, :, :]).sum(-2)

    def change(self, signs: Tensor) -> Tensor:
        """Return the change of the memory, (..., M)."""
        w = self.weights() * signs
        q = self.units[..., 1, :, :].flatten(-2)  # (..., 2, s)
        return (w.mT @ q).flatten(-2)


def _heads(z: Tensor, k: int, s: int) -> _Heads:
    strengths, factors = z.split([2 * k, 4 * s], -1)
    factors = factors.unflatten(-1, (2, 2, k, s // k))
    size = factors.abs()
    largest = size.amax(-1)
    largest[..., 1, :] = largest[..., 1, :].amax(-1, keepdim=True)
    largest.clamp_min_(torch.finfo(z.dtype).tiny)
    size.div_(largest.unsqueeze(-1))  # so that fifth powers do not overflow
    fifth = size.square().square_().mul_(size).sum(-1)
    fifth[..., 1, :] = fifth[..., 1, :].sum(-1, keepdim=True)
    norms = fifth.pow_(0.2).mul_(largest)
    product = norms[..., 0, :] * norms[..., 1, :]
    fades = product.mul_(2 / SMALLEST).clamp_max_(1)
    norms.clamp_min_(torch.finfo(z.dtype).tiny)
    return _Heads(strengths.unflatten(-1, (2, k)), norms, factors / norms.unsqueeze(-1), fades)


class _Adjoint(NamedTuple):
    """Coefficients that map the gradient ``G`` of the memory, a matrix (s/k, s), to that of the map of ``a``."""

    q: Tensor  # (..., 2, s): of norm 1, with its sign and a factor 1/k
    rows: Tensor  # (..., 2, k (1 + s/k), s/k): from G q to the gradients of the strengths, then of p
    v: Tensor  # (..., 2, s/k): G v is the gradient of q
    along: Tensor  # (..., 2, s/k): whose product with G q takes the part along the next from it
    psi: Tensor  # (..., 2, s)


def _adjoint(z: Tensor, k: int, s: int, signs: Tensor) -> _Adjoint:
    strengths, norms, units, fades = _heads(z, k, s)
    p, q = units[..., 0, :, :], units[..., 1, :, :].flatten(-2)  # (..., 2, k, s/k), (..., 2, s)
    of_p, of_q = norms[..., 0, :], norms[..., 1, :]
    whole = (fades == 1).to(z.dtype)
    over_p = torch.where(fades == 1, 1 / of_p, of_q * (2 / SMALLEST))
    over_q = torch.where(fades == 1, 1 / of_q, of_p * (2 / SMALLEST))
    phi = p.square().square_().mul_(torch.sgn(p)).mul_(whole.unsqueeze(-1))
    of_factors = torch.eye(s // k, dtype=z.dtype, device=z.device) - phi.unsqueeze(-1) * p.unsqueeze(-2)
    of_factors.mul_((strengths * over_p)[..., None, None])  # (..., 2, k, s/k, s/k)
    of_strengths = p * fades.unsqueeze(-1)
    rows = torch.cat([of_strengths, of_factors.flatten(-3, -2)], -2)
    v = ((strengths * over_q).unsqueeze(-1) * p).sum(-2) * signs
    along = ((strengths * whole / of_q).unsqueeze(-1) * p).sum(-2)
    psi = q.square().square_().mul_(torch.sgn(q))
    return _Adjoint(q * signs, rows, v, along, psi)
