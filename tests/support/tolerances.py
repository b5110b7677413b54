"""The one table of tolerances, by dtype: what a few hundred roundings may add up to in entries of size 1."""

import torch

_ATOL = {
    torch.bfloat16: 2e-2,
    torch.float16: 2e-3,
    torch.float32: 1e-5,
    torch.complex64: 1e-5,
    torch.float64: 1e-13,
    torch.complex128: 1e-13,
}


def atol(dtype: torch.dtype) -> float:
    return _ATOL[dtype]
