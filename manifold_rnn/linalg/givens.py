"""Layers of plane rotations of rows. The adjoint inverts the layers instead of storing their inputs."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .precision import applied

Layers: TypeAlias = tuple[tuple[int, int, int], ...]  # per layer: first coordinate, distance in a pair, pairs
_Layer: TypeAlias = tuple[tuple[int, int, int], Tensor, Tensor, Tensor | None]


def rotated(h: Tensor, angles: Tensor, phases: Tensor | None, layers: Layers) -> Tensor:
    r"""Rotate every row of ``h``, shape (..., B, n), by one layer after the other.

    A pair (a, b) becomes :math:`(c\,a - s\,e^{i\phi} b,\; s\,a + c\,e^{i\phi} b)`, with the cosine c and sine s of its
    angle. ``angles`` and ``phases`` have shape (..., R), with those of the first layer first. The adjoint inverts the
    layers to recover their inputs, so its memory does not grow with their number.
    """
    if not layers:
        return h
    batch = torch.broadcast_shapes(h.shape[:-2], angles.shape[:-1])
    wide = (None if p is None else p.expand(*batch, -1) for p in (angles, phases))
    y: Tensor = applied(_Rotate, h.expand(*batch, -1, -1), *wide, layers)
    return y


class _Rotate(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, angles: Tensor, phases: Tensor | None, layers: Layers) -> Tensor:
        for place, c, s, turn in _placed(angles, phases, layers):
            before, a, b, after = _pairs(h, place)
            b = b if turn is None else turn * b
            h = _joined(before, c * a - s * b, s * a + c * b, after)
        return h

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None, Layers], output: Tensor) -> None:
        _, angles, phases, ctx.layers = inputs
        ctx.save_for_backward(output, angles, phases)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        h, angles, phases = ctx.saved_tensors
        by_angle: list[Tensor] = []
        by_phase: list[Tensor] = []
        for place, c, s, turn in reversed(list(_placed(angles, phases, ctx.layers))):
            (before, p, q, after), (g_before, g_p, g_q, g_after) = _pairs(h, place), _pairs(g, place)
            by_angle.append(_over_rows((g_q.conj() * p - g_p.conj() * q).real))
            a, b, g_a, g_b = c * p + s * q, c * q - s * p, c * g_p + s * g_q, c * g_q - s * g_p
            if turn is not None:
                by_phase.append(_over_rows((g_b * b.conj()).imag))
                b, g_b = turn.conj() * b, turn.conj() * g_b
            h, g = _joined(before, a, b, after), _joined(g_before, g_a, g_b, g_after)
        return g, torch.cat(by_angle[::-1], -1), torch.cat(by_phase[::-1], -1) if by_phase else None, None


def _placed(angles: Tensor, phases: Tensor | None, layers: Layers) -> Iterator[_Layer]:
    """Yield the position of each layer, and its cosines, sines and phases in the shape of its pairs and rows."""
    counts = [pairs for *_, pairs in layers]
    cosines, sines = (f(angles).unsqueeze(-2).split(counts, -1) for f in (torch.cos, torch.sin))
    turns: Any = [None] * len(layers) if phases is None else on_circle(phases).unsqueeze(-2).split(counts, -1)
    for place, c, s, turn in zip(layers, cosines, sines, turns, strict=True):
        shape = (-1, place[1])
        yield place, c.unflatten(-1, shape), s.unflatten(-1, shape), None if turn is None else turn.unflatten(-1, shape)


def _pairs(h: Tensor, place: tuple[int, int, int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the coordinates before the pairs, both members (..., B, groups, distance), and the coordinates after."""
    start, distance, pairs = place
    before, middle, after = h.split([start, 2 * pairs, h.shape[-1] - start - 2 * pairs], -1)
    a, b = middle.unflatten(-1, (-1, 2, distance)).unbind(-2)
    return before, a, b, after


def _joined(before: Tensor, a: Tensor, b: Tensor, after: Tensor) -> Tensor:
    return torch.cat([before, torch.stack([a, b], -2).flatten(-3), after], -1)


def _over_rows(x: Tensor) -> Tensor:
    return x.sum(-3).flatten(-2)


def on_circle(angle: Tensor) -> Tensor:
    r"""Return :math:`e^{i\theta}`."""
    return torch.polar(torch.ones_like(angle), angle)
