"""Optimizer steps as torch operators, in place and in single precision."""

import ctypes
from collections.abc import Sequence

import torch
from torch import Tensor

from .loading import library

_RETRACTIONS = {"exp": 0, "cayley": 1, "qr": 2, "polar": 2}  # codes in the C++ source; on spheres qr equals polar
_LISTS = "Tensor(a!)[] x, Tensor[] g, Tensor(b!)[] m, Tensor(c!)[] v, int[3] sizes"
_OPERATORS = torch.library.Library("manifold_rnn", "FRAGMENT")
_OPERATORS.define(
    f"turn_by_length_({_LISTS}, str retraction, float radius, float beta1, float beta2, float rate, float root,"
    " float eps) -> ()"
)
_OPERATORS.define(
    f"turn_by_angle_({_LISTS}, float? radius, float beta1, float beta2, float rate, float root, float eps) -> ()"
)


class _Turn(ctypes.Structure):
    """The struct `Turn` of the C++ source."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("count", "outer", "length", "inner", "retraction", "threads")),
        *((name, ctypes.c_void_p) for name in "xgmv"),
        *((name, ctypes.c_double) for name in ("radius", "beta1", "beta2", "rate", "root", "eps")),
    )


def _by_length(
    x: Sequence[Tensor],
    g: Sequence[Tensor],
    m: Sequence[Tensor],
    v: Sequence[Tensor],
    sizes: Sequence[int],
    retraction: str,
    *numbers: float,
) -> None:
    _call("turn_by_length", (x, g, m, v), sizes, _RETRACTIONS[retraction], numbers)


def _by_angle(
    x: Sequence[Tensor],
    g: Sequence[Tensor],
    m: Sequence[Tensor],
    v: Sequence[Tensor],
    sizes: Sequence[int],
    radius: float | None,
    *numbers: float,
) -> None:
    _call("turn_by_angle", (x, g, m, v), sizes, 0, (radius or 0.0, *numbers))


def _nothing(*_: object) -> None:
    """Do nothing: the operators return nothing, so fake tensors need no result."""


_OPERATORS.impl("turn_by_length_", _by_length, "CPU")
_OPERATORS.impl("turn_by_angle_", _by_angle, "CPU")
for _name in ("turn_by_length_", "turn_by_angle_"):
    torch.library.register_fake(f"manifold_rnn::{_name}", _nothing, lib=_OPERATORS)


def _call(
    name: str, lists: Sequence[Sequence[Tensor]], sizes: Sequence[int], retraction: int, numbers: Sequence[float]
) -> None:
    compiled, count = library(), len(lists[0])
    assert compiled is not None
    addresses = [(ctypes.c_void_p * count)(*map(Tensor.data_ptr, tensors)) for tensors in lists]
    threads = torch.get_num_threads() if lists[0][0].numel() * count >= 1 << 15 else 1
    pointers = (ctypes.cast(each, ctypes.c_void_p) for each in addresses)
    if compiled[name](ctypes.byref(_Turn(count, *sizes, retraction, threads, *pointers, *numbers))):
        raise MemoryError("A compiled step could not allocate its buffers.")


turn_by_length = torch.ops.manifold_rnn.turn_by_length_
turn_by_angle = torch.ops.manifold_rnn.turn_by_angle_
