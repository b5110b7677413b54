"""Hand-written steps of a GRU and of a GORU."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..activations import mod_relu
from ..products import add_outer
from .base import State
from .gated_form import BackwardPart, GatedForm, GatedSteps, Sizes, blocks, sigmoid_factor, tanh_factor


class ResetSteps(GatedSteps):
    r"""Steps :math:`h_t = n_t + z_t \circ (h_{t-1} - n_t)` with :math:`n_t = f(u_n + r_t \circ v_t)`.

    The inputs are those of r, z and :math:`v_t = W_n h_{t-1} + b'`, followed by :math:`u_n`. The steps keep the values
    of r, z, v and n.
    """

    @staticmethod
    def sizes(weights: Sequence[Tensor], numbers: Sequence[float]) -> Sizes:
        n = weights[0].shape[-1]
        return Sizes(4 * n, 3 * n, (n,))

    @abstractmethod
    def candidate(self, z: Tensor) -> None:
        """Apply ``f`` in place."""

    @abstractmethod
    def slopes(self, g: Tensor, n: Tensor, out: Tensor) -> None:
        """Write ``g`` times the derivative of ``f`` to ``out``. ``n`` is the value of ``f``."""

    def threshold(self) -> Tensor | None:
        """Return the bias if ``f`` is modReLU, or None if it is tanh."""
        return None

    def forward(self, K: Tensor, states: Sequence[Tensor]) -> None:
        h, *next_h = states[0].unbind(0)
        n = h.shape[-1]
        if self.compiled is not None:
            step, bias = self.compiled["reset_forward"], self.threshold()
            at = None if bias is None else bias.data_ptr()
            for k, argument, h_t in zip(K, K[..., : 3 * n], next_h, strict=True):
                self.product.add_to(argument, h)
                step(k.data_ptr(), at, h.data_ptr(), h_t.data_ptr(), *h.shape)
                h = h_t
            return
        _, z, v, u = blocks(K, 4)
        r, gates, arguments = (K[..., : i * n].unbind(0) for i in (1, 2, 3))
        for r_t, z_t, v_t, u_t, gates_t, argument, h_t in zip(r, z, v, u, gates, arguments, next_h, strict=True):
            self.product.add_to(argument, h)
            gates_t.sigmoid_()
            self.candidate(u_t.addcmul_(r_t, v_t))
            h = torch.lerp(u_t, h, z_t, out=h_t)

    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        K, states, gK, before, sums = part
        (gh,), (H,) = gradients, states
        count = H.shape[-1]
        (r, z, v, n), factors = K.chunk(4, -1), torch.empty_like(K)
        of_r, of_z, of_v, of_n = factors.chunk(4, -1)
        sigmoid_factor(H[:-1] - n, z, of_z)
        self.slopes(1 - z, n, of_n)
        torch.mul(of_n, r, out=of_v)
        sigmoid_factor(of_n * v, r, of_r)
        wide, rest = (2, (4, count)), torch.empty_like(gh)
        steps = zip(z, factors.unflatten(*wide), gK.unflatten(*wide), gK[..., : 3 * count], before, strict=True)
        for z_t, factors_t, g_t, g_product, g_before in reversed(list(steps)):
            torch.mul(gh.unsqueeze(1), factors_t, out=g_t)
            torch.mul(gh, z_t, out=rest)
            if g_before is not None:
                rest.add_(g_before)
            gh = self.product.backward(rest, g_product, gh)
        add_outer(sums[0], gK[..., : 3 * count].flatten(0, 1), H[:-1].flatten(0, 1))
        return [gh]


class GRUSteps(ResetSteps):
    """The steps of a GRU."""

    def plain(self, u: Tensor, state: State) -> State:
        (h,), (W,) = state, self.weights
        *arguments, u_n = u.chunk(4, -1)
        r, z, v = (a + b for a, b in zip(arguments, (h @ W.mT).chunk(3, -1), strict=True))
        n = torch.tanh(u_n + torch.sigmoid(r) * v)
        return (n + torch.sigmoid(z) * (h - n),)

    def candidate(self, z: Tensor) -> None:
        self.tanh(z, z)

    def slopes(self, g: Tensor, n: Tensor, out: Tensor) -> None:
        tanh_factor(g, n, out)


class GORUSteps(ResetSteps):
    """The steps of a GORU, whose second weight is the bias of modReLU."""

    has_cutoffs: ClassVar[bool] = True

    def plain(self, u: Tensor, state: State) -> State:
        (h,), (W, bias) = state, self.weights
        *arguments, u_n = u.chunk(4, -1)
        r, z, v = (a + b for a, b in zip(arguments, (h @ W.mT).chunk(3, -1), strict=True))
        n = mod_relu(u_n + torch.sigmoid(r) * v, bias)
        return (n + torch.sigmoid(z) * (h - n),)

    def candidate(self, z: Tensor) -> None:
        torch.mul(z.abs().add_(self.weights[1]).clamp_min_(0), torch.sgn(z), out=z)

    def threshold(self) -> Tensor | None:
        W, bias = self.weights
        # in the layout that the compiled library reads
        return bias.to(W).expand(W.shape[-1]).contiguous().resolve_neg()

    def slopes(self, g: Tensor, n: Tensor, out: Tensor) -> None:
        torch.mul(torch.sgn(n).square_(), g, out=out)

    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        results = super().backward(part, gradients)
        n = part.states[0].shape[-1]
        part.sums[1] += (torch.sgn(part.K[..., 3 * n :]) * part.gK[..., 3 * n :]).sum((0, 1))
        return results


def reset_form(
    steps: type[ResetSteps],
    V: Tensor,
    bias: Tensor | None,
    weights: tuple[Tensor, ...],
    product_bias: Tensor | None = None,
) -> GatedForm:
    """Return the form of a cell with ``V`` (3n, m), its bias, and another bias of the product with W."""
    n = len(V) // 3

    def arrange(u: Tensor) -> Tensor:
        u = torch.cat([u[..., : 2 * n], torch.zeros_like(u[..., :n]), u[..., 2 * n :]], -1)
        return u if product_bias is None else u + F.pad(product_bias, (0, n))

    has_bias = bias is not None or product_bias is not None
    offset = arrange(V.new_zeros(3 * n) if bias is None else bias) if has_bias else None
    return GatedForm(steps, V, offset, weights, gap=(2 * n, 3 * n), arrange=arrange)
