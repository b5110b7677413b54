r"""Forward-mode derivatives of functions with a custom adjoint, computed as the transpose of that adjoint.

An adjoint is linear in the gradient it receives, so its own adjoint is the forward-mode derivative:

.. math:: J t = \bigl(v \mapsto J^* v\bigr)^* t.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .._torch import enable_forward_mode, without_tangent


@functools.cache
def with_forward_mode(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """Return the function with a ``jvp``. It is a separate class, since compiled code rejects functions with one."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        kept = _Kept(ctx)
        function.setup_context(kept, inputs, output)
        results = output if isinstance(output, tuple) else (output,)
        ctx.results = [
            None if result is None or id(result) in kept.constant else (result.shape, result.dtype, result.device)
            for result in results
        ]

    def jvp(ctx: Any, *tangents: Any) -> Any:
        with enable_forward_mode():  # torch disables it here and would lose an outer forward mode
            changes = _pushed(function, ctx, tangents)
        return changes if len(changes) > 1 else changes[0]

    def forward(*args: Any) -> Any:
        results = function.forward(*args)  # results that are views would make their tangents views
        return tuple(map(_cloned, results)) if isinstance(results, tuple) else _cloned(results)

    body = {
        "forward": staticmethod(forward),
        "setup_context": staticmethod(setup_context),
        "jvp": staticmethod(jvp),
        "__module__": function.__module__,
    }
    return type(function.__name__, (function,), body)


def _cloned(result: Tensor | None) -> Tensor | None:
    return None if result is None else result.clone()


def _pushed(function: type[torch.autograd.Function], ctx: Any, tangents: tuple[Any, ...]) -> tuple[Tensor | None, ...]:
    zeros = [None if r is None else torch.zeros(r[0], dtype=r[1], device=r[2]) for r in ctx.results]
    moving = [i for i, t in enumerate(tangents) if isinstance(t, Tensor)]
    if not moving or not any(z is not None for z in zeros):
        return tuple(zeros)
    seen = _Seen(ctx, tuple(i in moving for i in range(len(tangents))))
    effective: list[int] = []  # indices of inputs with a derivative

    def adjoint(*gradients: Tensor) -> tuple[Tensor, ...]:
        given: Iterator[Tensor] = iter(gradients)
        pulled: Any = function.backward(seen, *(None if z is None else next(given) for z in zeros))
        pulled = pulled if isinstance(pulled, tuple) else (pulled,)
        effective.extend(i for i in moving if pulled[i] is not None)
        return tuple(pulled[i] for i in effective)

    transpose = torch.func.vjp(adjoint, *(z for z in zeros if z is not None))[1]
    pushed: Iterator[Tensor] = iter(transpose(tuple(tangents[i] for i in effective)))
    return tuple(None if z is None else next(pushed) for z in zeros)


class _Kept:
    """A context that saves the same tensors for both modes, and records which results have no derivative."""

    def __init__(self, ctx: Any) -> None:
        vars(self).update(ctx=ctx, constant=set())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.ctx, name, value)

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        self.ctx.save_for_backward(*tensors)
        self.ctx.save_for_forward(*tensors)

    def mark_non_differentiable(self, *results: Tensor) -> None:
        self.ctx.mark_non_differentiable(*results)
        self.constant.update(map(id, results))


class _Seen:
    """A context in which inputs with a tangent need a gradient, and saved tensors are constants."""

    def __init__(self, ctx: Any, needs_input_grad: tuple[bool, ...]) -> None:
        self.ctx, self.needs_input_grad = ctx, needs_input_grad
        self.saved_tensors = tuple(None if x is None else without_tangent(x) for x in ctx.saved_tensors)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.ctx, name)
