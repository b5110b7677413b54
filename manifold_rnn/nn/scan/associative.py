"""A parallel scan of a diagonal linear recurrence. Its depth is logarithmic in the number of time steps."""

from typing import Any

import torch
from torch import Tensor

from ...errors import ShapeError
from ...linalg.precision import applied, double, without_autocast
from ..cells.elman_form import ElmanForm
from .base import Request
from .elman.backend import ElmanBackend


def associative(diag: Tensor, u: Tensor, h0: Tensor) -> Tensor:
    r"""Run a diagonal linear recurrence over time by parallel prefix.

    .. math:: h_t = d \circ h_{t-1} + u_t, \qquad t = 1, \dots, T.

    Two steps form one step of the same kind, :math:`h_{t+1} = d^2 \circ h_{t-1} + (d \circ u_t + u_{t+1})`. So every
    second state follows a recurrence of half the length, and the other states follow from these. This takes :math:`2
    \log_2 T` products of large tensors instead of T products of small ones.

    Parameters
    ----------
    diag : Tensor, shape (n,)
        The diagonal ``d``.
    u : Tensor, shape (T, B, n), T >= 1
        Projected inputs.
    h0 : Tensor, shape (B, n)
        State before the first step.

    Returns
    -------
    Tensor, shape (T, B, n)
        The states :math:`h_1, \dots, h_T`, in the promoted dtype of the arguments.

    Raises
    ------
    ShapeError
        If the shapes do not match, or there is no time step.

    Notes
    -----
    It takes about 2 T B n multiplications and additions, twice as many as the loop, and memory for the states. The
    backward pass is the same scan from the end with the conjugate of ``d``. It supports gradients of any order. Powers
    of ``d`` are computed in double precision, and each state is a sum of few terms. So for :math:`|d| \le 1` the error
    is below that of the loop. For larger moduli, the powers overflow before the states do. Use `reference` for them.
    Source: Blelloch (1990).

    Examples
    --------
    >>> h = mr.nn.scan.associative(torch.tensor([0.5]), torch.ones(3, 1, 1), torch.zeros(1, 1))
    >>> assert torch.equal(h.flatten(), torch.tensor([1.0, 1.5, 1.75]))
    """
    if u.ndim != 3 or not len(u) or u.shape[1:] != h0.shape or u.shape[2:] != diag.shape:
        raise ShapeError(
            "The shapes of the arguments of associative do not match.\n"
            "Expected diag (n,), u (T, B, n) with T >= 1 and h0 (B, n); "
            f"got {tuple(diag.shape)}, {tuple(u.shape)} and {tuple(h0.shape)}.\nMake batch and features agree."
        )
    dtype = torch.promote_types(torch.promote_types(diag.dtype, u.dtype), h0.dtype)
    states: Tensor = applied(_Scan, diag.to(dtype), u.to(dtype), h0.to(dtype))  # (T, B, n)
    return states


class _Scan(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(diag: Tensor, u: Tensor, h0: Tensor) -> Tensor:
        return _prefix(diag, torch.cat([(diag * h0 + u[0]).unsqueeze(0), u[1:]]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        diag, _, h0 = inputs
        ctx.save_for_backward(diag, h0, output)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        diag, h0, states = ctx.saved_tensors
        with without_autocast(g):
            d = diag.conj().resolve_conj()
            u_gradient: Tensor = applied(_Scan, d, g.flip(0), torch.zeros_like(h0)).flip(0)  # (T, B, n)
            products = torch.linalg.vecdot(states[:-1], u_gradient[1:], dim=0) + h0.conj() * u_gradient[0]  # (B, n)
            return products.sum(0), u_gradient, d * u_gradient[0]


def _prefix(diag: Tensor, h: Tensor) -> Tensor:
    """Replace inputs (T, B, n) by states in place. The recurrence starts from 0."""
    powers, p = [diag], double(diag)  # in double precision, because each squaring doubles the relative error
    while 2 ** len(powers) < len(h):
        p = p * p
        powers.append(p.to(diag.dtype))
    strides = [2**k for k in range(len(powers))]
    # at each multiple of 2s: the sum over the last 2s inputs
    for s, p in zip(strides, powers, strict=True):
        later = h[2 * s - 1 :: 2 * s]
        later += p * h[s - 1 :: 2 * s][: len(later)]
    # at each odd multiple t of s: the sum over earlier inputs is in h at t - s
    for s, p in zip(strides[::-1], powers[::-1], strict=True):
        later = h[3 * s - 1 :: 2 * s]
        later += p * h[2 * s - 1 :: 2 * s][: len(later)]
    return h


class Associative(ElmanBackend):
    """The parallel scan, for a linear cell whose recurrent matrix is diagonal."""

    name = "associative"

    def cannot_run(self, request: Request) -> str:
        form = request.elman_form
        if form is None or form.activation != "linear":
            return "the cell is not linear"
        return "" if request.diagonal else "the recurrent matrix is not known to be diagonal"

    def scan(self, form: ElmanForm, x: Tensor, h0: Tensor, request: Request) -> tuple[Tensor | None, Tensor]:
        y = associative(request.W.diagonal(), form.project(x), h0)
        return y, y[-1]
