"""Hand-written steps of a long expressive memory."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..products import add_outer, products_with
from .base import State
from .gated_form import BackwardPart, GatedSteps, Sizes, blocks, sigmoid_factor, tanh_factor


class LEMSteps(GatedSteps):
    r"""Steps with the inputs of a, c, z and y. They keep both gates times :math:`\Delta`, and both values of tanh."""

    def __init__(
        self, weights: Sequence[Tensor], state: State, numbers: Sequence[float], buffers: Sequence[Tensor]
    ) -> None:
        super().__init__(weights, state, numbers, buffers)
        (W,), (self.time_step,) = weights, numbers
        self.n = W.shape[-1]
        self.of_y, self.of_z = (products_with(part, len(state[0])) for part in (W[: 3 * self.n], W[3 * self.n :]))

    @staticmethod
    def sizes(weights: Sequence[Tensor], numbers: Sequence[float]) -> Sizes:
        n = weights[0].shape[-1]
        return Sizes(4 * n, 4 * n, (n, n))

    def plain(self, u: Tensor, state: State) -> State:
        (y, z), (W,), n, time_step = state, self.weights, self.n, self.time_step
        a, c, argument = (u[..., : 3 * n] + y @ W[: 3 * n].mT).chunk(3, -1)
        z = z + time_step * torch.sigmoid(c) * (torch.tanh(argument) - z)
        y = y + time_step * torch.sigmoid(a) * (torch.tanh(u[..., 3 * n :] + z @ W[3 * n :].mT) - y)
        return y, z

    def forward(self, K: Tensor, states: Sequence[Tensor]) -> None:
        (y, *next_y), (z, *next_z) = (part.unbind(0) for part in states)
        if self.compiled is not None:
            self._forward_by_library(K, states)
            return
        n, step = self.n, self.time_step
        arguments, gates = K[..., : 3 * n].contiguous(), K[..., : 2 * n]
        for argument, gates_t, (a, c, p, q), y_t, z_t in zip(
            arguments, gates, zip(*blocks(K, 4), strict=True), next_y, next_z, strict=True
        ):
            argument = self.of_y.forward(argument, y)
            torch.sigmoid(argument[:, : 2 * n], out=gates_t).mul_(step)
            z = torch.lerp(z, self.tanh(argument[:, 2 * n :], p), c, out=z_t)
            self.of_z.add_to(q, z)
            y = torch.lerp(y, self.tanh(q, q), a, out=y_t)

    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        _, states, gK, _, sums = part
        if self.compiled is not None:
            gradients = self._backward_by_library(part, gradients)
        else:
            gradients = self._backward_by_torch(part, gradients)
        (Y, Z), n = states, self.n
        add_outer(sums[0][: 3 * n], gK[..., : 3 * n].flatten(0, 1), Y[:-1].flatten(0, 1))
        add_outer(sums[0][3 * n :], gK[..., 3 * n :].flatten(0, 1), Z[1:].flatten(0, 1))
        return gradients

    def _backward_by_torch(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        K, states, gK, before, _ = part
        (gy, gz), (Y, Z), n = gradients, states, self.n
        (a, c, p, q), factors = K.chunk(4, -1), torch.empty_like(K)
        of_a, of_c, of_p, of_q = factors.chunk(4, -1)
        gates = K[..., : 2 * n]
        opening_a, opening_c = (gates / self.time_step).chunk(2, -1)
        sigmoid_factor(torch.sub(q, Y[:-1]).mul_(self.time_step), opening_a, of_a)
        sigmoid_factor(torch.sub(p, Z[:-1]).mul_(self.time_step), opening_c, of_c)
        tanh_factor(c, p, of_p)
        tanh_factor(a, q, of_q)
        rest_a, rest_c = (1 - gates).chunk(2, -1)
        wide = (2, (4, n))
        (of_y, g_y), (of_z, g_z) = (
            tuple(d.unflatten(*wide)[:, :, part] for d in (factors, gK)) for part in (slice(0, 4, 3), slice(1, 3))
        )  # (R, B, 2, n) each: of a and q, of c and p
        steps = zip(of_y, of_z, rest_a, rest_c, g_y, g_z, gK[..., : 3 * n], gK[..., 3 * n :], before, strict=True)
        for of_y_t, of_z_t, rest_a_t, rest_c_t, g_y_t, g_z_t, g_product, g_q, g_before in reversed(list(steps)):
            torch.mul(gy.unsqueeze(1), of_y_t, out=g_y_t)
            gz = self.of_z.backward(gz, g_q, gz)
            torch.mul(gz.unsqueeze(1), of_z_t, out=g_z_t)
            gy.mul_(rest_a_t)
            if g_before is not None:
                gy.add_(g_before)
            gy = self.of_y.backward(gy, g_product, gy)
            gz.mul_(rest_c_t)
        return [gy, gz]

    def _forward_by_library(self, K: Tensor, states: Sequence[Tensor]) -> None:
        assert self.compiled is not None
        (y, *next_y), (z, *next_z), n = *(part.unbind(0) for part in states), self.n
        forward, relax = self.compiled["lem_forward"], self.compiled["relax_forward"]
        for k, argument, q, y_t, z_t in zip(K, K[..., : 3 * n], K[..., 3 * n :], next_y, next_z, strict=True):
            self.of_y.add_to(argument, y)
            at = k.data_ptr()
            forward(at, z.data_ptr(), z_t.data_ptr(), *y.shape, self.time_step)
            z = z_t
            self.of_z.add_to(q, z)
            relax(at, q.data_ptr(), y.data_ptr(), y_t.data_ptr(), *y.shape, 4 * n)
            y = y_t

    def _backward_by_library(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        K, states, gK, before, _ = part
        assert self.compiled is not None
        (gy, gz), (Y, Z), n = (g.contiguous() for g in gradients), states, self.n
        relax, block = self.compiled["relax_backward"], n * K.element_size()
        steps = zip(K, gK, gK[..., : 3 * n], gK[..., 3 * n :], Y[:-1], Z[:-1], before, strict=True)
        for k, g, g_product, g_q, y, z, g_before in reversed(list(steps)):
            a, ga, sizes = k.data_ptr(), g.data_ptr(), (*gy.shape, 4 * n, self.time_step)
            relax(a, a + 3 * block, y.data_ptr(), gy.data_ptr(), ga, ga + 3 * block, *sizes)
            gz = self.of_z.backward(gz, g_q, gz)
            relax(a + block, a + 2 * block, z.data_ptr(), gz.data_ptr(), ga + block, ga + 2 * block, *sizes)
            if g_before is not None:
                gy.add_(g_before)
            gy = self.of_y.backward(gy, g_product, gy)
        return [gy, gz]
