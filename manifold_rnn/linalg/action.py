"""The action of a group on matrices with orthonormal columns, without squares that overflow or lose digits."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .norms import largest_part, without_vanishing
from .precision import applied, double, without_autocast
from .skew import skew

_Map = Callable[[Tensor], Tensor]


def moved_by_group(phi: _Map, x: Tensor, u: Tensor, inside: float = 1.0) -> Tensor:
    r"""Return :math:`\varphi(\Omega)\,x` with :math:`\Omega = u x^H - x u^H - s\, x \operatorname{skew}(x^H u) x^H`.

    With s = ``inside`` = 1 and a map ``phi`` of skew-Hermitian matrices, this is the curve of `retractions.Cayley` and
    `retractions.Exponential`. With s = 0 it is a factor of the Euclidean geodesic. It is computed in double precision
    in an orthonormal basis of the columns of ``x`` and ``u``. The matrix of ``Omega`` in this basis has the norm of
    ``u``, so no squares are needed.
    """
    y: Tensor = applied(_Action, double(x), double(u), phi, inside)
    return y.to(x.dtype)


class _Action(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, u: Tensor, phi: _Map, inside: float) -> Tensor:
        return _in_basis(_basis(x, u), x, u, phi, inside)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Map, float], output: Tensor) -> None:
        x, u, ctx.phi, ctx.inside = inputs
        ctx.save_for_backward(x, u)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, u = ctx.saved_tensors
        # the first derivative along g stays in the span of x, u and g; a second derivative may leave it
        again = torch.is_grad_enabled()
        Q = torch.eye(x.shape[-2], dtype=x.dtype, device=x.device) if again else _basis(x, u, g)
        with without_autocast(x):
            pull = torch.func.vjp(lambda x, u: _in_basis(Q, x, u, ctx.phi, ctx.inside), x, u)[1]
            gx, gu = (p if needed else None for p, needed in zip(pull(g), ctx.needs_input_grad, strict=False))
        return gx, gu, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], x: Tensor, u: Tensor, phi: _Map, inside: float) -> Any:
        x, u = (t if d is None else t.movedim(d, 0) for t, d in zip((x, u), in_dims[:2], strict=True))
        return applied(_Action, *torch.broadcast_tensors(x, u), phi, inside), 0


def _basis(*parts: Tensor) -> Tensor:
    """Return orthonormal columns whose span contains the columns of every part."""
    largest = list(map(largest_part, parts))
    even = [part.detach() / torch.where(size > 0, size, 1) for part, size in zip(parts, largest, strict=True)]
    return torch.linalg.qr(without_vanishing(torch.cat(torch.broadcast_tensors(*even), -1)))[0]


def _in_basis(Q: Tensor, x: Tensor, u: Tensor, phi: _Map, inside: float) -> Tensor:
    a, b = Q.mH @ x, Q.mH @ u
    K = b @ a.mH - a @ b.mH - inside * a @ skew(x.mH @ u) @ a.mH
    return Q @ (phi(K) @ a)
