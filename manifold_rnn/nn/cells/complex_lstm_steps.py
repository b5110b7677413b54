"""Hand-written steps of a complex LSTM, in real numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..activations import mod_tanh, real_features
from ..products import add_outer
from .base import State
from .gated_form import BackwardPart, GatedForm, GatedSteps, Sizes, sigmoid_factor


class ComplexLSTMSteps(GatedSteps):
    """Steps with real and imaginary parts side by side. Only the gate g has inputs with both parts.

    The imaginary parts of the arguments of the other gates have no effect, so they are not computed. The backward pass
    keeps the values of the gates and the argument of ``g``.
    """

    @staticmethod
    def sizes(weights: Sequence[Tensor], numbers: Sequence[float]) -> Sizes:
        n = weights[0].shape[-1] // 2
        return Sizes(5 * n, 5 * n, (2 * n, 2 * n))

    def plain(self, u: Tensor, state: State) -> State:
        h, c = state
        i, f, o, re, im = (u + h @ self.weights[0].mT).chunk(5, -1)
        g = mod_tanh(torch.complex(re, im))
        c = torch.sigmoid(f) * _complex(c) + torch.sigmoid(i) * g
        return _parts(torch.sigmoid(o) * mod_tanh(c)), _parts(c)

    def forward(self, K: Tensor, states: Sequence[Tensor]) -> None:
        if self.compiled is not None:
            step, (h, *next_h), (c, *next_c) = self.compiled["complex_lstm_forward"], *states
            for u, h_t, c_t in zip(K, next_h, next_c, strict=True):
                z = self.product.forward(u, h)
                step(*(p.data_ptr() for p in (z, u, c, c_t, h_t)), len(h), h.shape[1] // 2)
                h, c = h_t, c_t
            return
        (h, *next_h), (c, *next_c) = (part.unflatten(-1, (2, -1)).unbind(0) for part in states)
        n = h.shape[-1]
        gates = K[..., : 3 * n].unflatten(-1, (3, 1, n)).unbind(0)
        rows = states[0].unbind(0)
        for u, gates_t, h_row, h_t, c_t in zip(K.unbind(0), gates, rows[:-1], next_h, next_c, strict=True):
            z = self.product.forward(u, h_row)
            if z is not u:
                u.copy_(z)
            i, f, o = gates_t.sigmoid_().unbind(1)  # (B, 1, n) each
            g = u[:, 3 * n :].unflatten(-1, (2, n))
            torch.mul(f, c, out=c_t)
            quarter, r, tanh_r = self.scale(g)
            c_t.addcmul_(i * tanh_r / r, quarter)
            quarter, r, tanh_r = self.scale(c_t)
            torch.mul(o * tanh_r / r, quarter, out=h_t)
            c = c_t

    def backward(self, part: BackwardPart, gradients: Sequence[Tensor]) -> list[Tensor]:
        K, states, gK, before, sums = part
        gh, gc = gradients
        H, C = states
        n = gh.shape[-1] // 2
        C = C.unflatten(-1, (2, n))  # (R + 1, B, 2, n)
        gates, argument = K[..., : 3 * n].unflatten(-1, (3, 1, n)), K[..., 3 * n :].unflatten(-1, (2, n))
        i, f, o = gates.unbind(2)  # (R, B, 1, n)
        value_g, diagonal_g, across_g = self.jacobian(argument, i)
        value_c, diagonal_c, across_c = self.jacobian(C[1:], o)
        of_gates = K.new_empty(*K.shape[:2], 3, 2, n)
        sigmoid_factor(value_g, i.expand_as(value_g), of_gates[:, :, 0])
        sigmoid_factor(C[:-1], f.expand_as(value_g), of_gates[:, :, 1])
        sigmoid_factor(value_c, o.expand_as(value_c), of_gates[:, :, 2])
        gc = gc.unflatten(-1, (2, n))
        (gc_re, gc_im), both = gc.unbind(1), gc.new_empty(len(gc), 3, 2, n)
        steps = zip(
            f.unbind(0),
            of_gates,
            diagonal_g,
            across_g.squeeze(2),
            diagonal_c,
            across_c.squeeze(2),
            gK,
            gK[..., : 3 * n].unflatten(-1, (3, n)),
            gK[..., 3 * n :].unflatten(-1, (2, n)),
            *gK[..., 3 * n :].chunk(2, -1),
            before,
            strict=True,
        )
        for f_t, of_gates_t, diag_g, off_g, diag_c, off_c, g_t, g_gates, g_g, g_re, g_im, g_before in reversed(
            list(steps)
        ):
            g = gh.unflatten(-1, (2, n))
            gc.addcmul_(g, diag_c)
            gc_re.addcmul_(g[:, 1], off_c)
            gc_im.addcmul_(g[:, 0], off_c)
            torch.mul(gc.unsqueeze(1), of_gates_t[:, :2], out=both[:, :2])
            torch.mul(g, of_gates_t[:, 2], out=both[:, 2])
            torch.add(both[:, :, 0], both[:, :, 1], out=g_gates)
            torch.mul(gc, diag_g, out=g_g)
            g_re.addcmul_(gc_im, off_g)
            g_im.addcmul_(gc_re, off_g)
            gc.mul_(f_t)
            gh = self.product.backward(g_before, g_t, gh)
        add_outer(sums[0], gK.flatten(0, 1), H[:-1].flatten(0, 1))
        return [gh, gc.flatten(1)]

    def scale(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Return a quarter of parts (..., 2, n), and :math:`r = |z| / 4` and :math:`\tanh(4r)`, each (..., 1, n).

        A modulus has a lower bound, below which tanh is the identity, as in `mod_tanh`.
        """
        quarter = 0.25 * z
        re, im = quarter.split(1, -2)
        r = torch.hypot(re, im).clamp_(min=0.25 * torch.finfo(z.dtype).eps ** 0.5)
        size = 4 * r
        return quarter, r, self.tanh(size, size)

    def jacobian(self, z: Tensor, opening: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the value of mod_tanh, and its Jacobian times the value of a gate: the diagonal, and the rest.

        The Jacobian is symmetric. The values and the diagonal are (..., 2, n), the rest is (..., 1, n).
        """
        quarter, r, tanh_r = self.scale(z)
        unit, scale = quarter.div_(r), (tanh_r / r).mul_(0.25)
        # in this order, because a large number has a tiny scale
        slope = (1 - tanh_r.square()).sub_(scale).mul_(opening)
        across = (unit[..., :1, :] * unit[..., 1:, :]).mul_(slope)
        diagonal = torch.addcmul(scale * opening, unit.square(), slope)
        return unit.mul_(tanh_r), diagonal, across


def complex_lstm_form(V: Tensor, bias: Tensor | None, W: Tensor) -> GatedForm:
    """Return the form of a complex LSTM with the weights ``V`` (4n, m) and ``W`` (4n, n), of real numbers."""

    def leave(y: Tensor | None, state: State) -> tuple[Tensor | None, State]:
        return None if y is None else _complex(y), tuple(_complex(part) for part in state)

    offset = None if bias is None else _needed(bias.real, bias.imag)
    return GatedForm(
        ComplexLSTMSteps,
        _rows(V),
        offset,
        (_rows(W),),
        arrange=_arrange,
        prepare=_real_inputs,
        enter=lambda state: tuple(map(_parts, state)),
        leave=leave,
    )


def _real_inputs(x: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return [Re x, Im x], or real inputs unchanged, and the columns of ``V`` for them."""
    assert V is not None
    if x.is_complex():
        return real_features(x).to(V.dtype), V
    return x.to(V.dtype), V[:, : x.shape[-1]]


def _rows(W: Tensor) -> Tensor:
    """Return the real matrix (5n, 2m) that maps [Re x, Im x] to the inputs of the steps."""
    return _needed(torch.cat([W.real, -W.imag], 1), torch.cat([W.imag, W.real], 1))


def _needed(re: Tensor, im: Tensor) -> Tensor:
    """Return the parts of (4n, ...), the blocks i, f, g and o, that the steps use: (5n, ...)."""
    i, f, g, o = re.chunk(4)
    return torch.cat([i, f, o, g, im.chunk(4)[2]])


def _arrange(u: Tensor) -> Tensor:
    return _needed(u.real.movedim(-1, 0), u.imag.movedim(-1, 0)).movedim(0, -1)


def _complex(z: Tensor) -> Tensor:
    return torch.complex(*z.chunk(2, -1))


def _parts(z: Tensor) -> Tensor:
    return torch.cat([z.real, z.imag], -1)
