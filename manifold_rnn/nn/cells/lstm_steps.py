"""Hand-written steps of an LSTM."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..products import add_outer
from .base import State
from .gated_form import BackwardPart, GatedSteps, Sizes, blocks, sigmoid_factor, tanh_factor


class LSTMSteps(GatedSteps):
    """Steps with the inputs of the gates i, f, g and o. They keep the values of the gates."""

    @staticmethod
    def sizes(weights: Sequence[Tensor], numbers: Sequence[float]) -> Sizes:
        n = weights[0].shape[-1]
        return Sizes(4 * n, 4 * n, (n, n))

    def plain(self, u: Tensor, state: State) -> State:
        h, c = state
        i, f, g, o = (u + h @ self.weights[0].mT).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def forward(self, K: Tensor, states: Sequence[Tensor]) -> None:
        (h, *next_h), (c, *next_c) = (part.unbind(0) for part in states)
        n, tanh_c = h.shape[-1], torch.empty_like(h)
        if self.compiled is not None:
            step = self.compiled["lstm_forward"]
            for u, h_t, c_t in zip(K, next_h, next_c, strict=True):
                z = self.product.forward(u, h)
                step(*(p.data_ptr() for p in (z, u, c, c_t, h_t)), *h.shape)
                h, c = h_t, c_t
            return
        for u, i, f, g, o, h_t, c_t in zip(K.unbind(0), *blocks(K, 4), next_h, next_c, strict=True):
            z = self.product.forward(u, h)
            value = self.tanh(z[:, 2 * n : 3 * n], tanh_c)
            torch.sigmoid(z, out=u)
            g.copy_(value)
            torch.mul(f, c, out=c_t).addcmul_(i, g)
            self.tanh(c_t, tanh_c)
            torch.mul(o, tanh_c, out=h_t)
            h, c = h_t, c_t

    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        K, states, gK, before, sums = part
        (gh, gc), (H, C) = gradients, states
        if self.compiled is not None:
            step = self.compiled["lstm_backward"]
            gh, gc = gh.contiguous(), gc.contiguous()
            for k, c, c_t, g_t, g_before in reversed(list(zip(K, C[:-1], C[1:], gK, before, strict=True))):
                step(*(p.data_ptr() for p in (k, c, c_t, gh, gc, g_t)), *gh.shape)
                gh = self.product.backward(g_before, g_t, gh)
            add_outer(sums[0], gK.flatten(0, 1), H[:-1].flatten(0, 1))
            return [gh, gc]
        n = H.shape[-1]
        (i, f, g, o), factors = K.chunk(4, -1), torch.empty_like(K)
        of_i, of_f, of_g, of_o = factors.chunk(4, -1)  # derivatives of c, and of h for o
        tanh_c = self.tanh(C[1:], torch.empty_like(C[1:]))
        sigmoid_factor(g, i, of_i)
        sigmoid_factor(C[:-1], f, of_f)
        tanh_factor(i, g, of_g)
        sigmoid_factor(tanh_c, o, of_o)
        tanh_factor(o, tanh_c, tanh_c)  # the gradient of c from that of h
        along, wide = gc.unsqueeze(1), (2, (4, n))
        of_c, gK_c = (z.unflatten(*wide)[:, :, :3].unbind(0) for z in (factors, gK))  # (B, 3, n)
        steps = zip(f.unbind(0), tanh_c, of_c, of_o, gK, gK_c, gK[..., 3 * n :], before, strict=True)
        for f_t, through_t, of_c_t, of_o_t, g_t, g_c, g_o, g_before in reversed(list(steps)):
            gc.addcmul_(gh, through_t)
            torch.mul(along, of_c_t, out=g_c)
            torch.mul(gh, of_o_t, out=g_o)
            gc.mul_(f_t)
            gh = self.product.backward(g_before, g_t, gh)
        add_outer(sums[0], gK.flatten(0, 1), H[:-1].flatten(0, 1))
        return [gh, gc]
