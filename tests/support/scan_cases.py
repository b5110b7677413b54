"""Inputs for the scans, layers that each may run, and what is logged of the choice."""

import logging

import pytest
import torch

from manifold_rnn._kernels import loading
from manifold_rnn.nn.scan import ElmanForm
from manifold_rnn.nn.scan.elman.engine import plain_states

REAL = [("linear", torch.float64), ("relu", torch.float64), ("tanh", torch.float64), ("modrelu", torch.float64)]
EVERY = [*REAL, ("linear", torch.complex128), ("modrelu", torch.complex128)]
NAMES = ("x", "V", "b", "threshold", "W", "h0")


def require_native():
    """Skip the test where the package was installed without its compiled libraries."""
    if reason := loading.failure():
        pytest.skip(reason)


def fastest_cpu_scan():
    """The scan that "auto" takes for a cell in Elman form on a CPU."""
    return "fused" if loading.failure() else "native"


def arguments(activation, dtype, sizes, generator, shift=0.0):
    T, B, n, m = sizes

    def draw(*shape):
        return torch.randn(shape, dtype=dtype, generator=generator)

    tensors = {"x": draw(T, B, m), "V": draw(n, m), "b": 0.1 * draw(n), "W": draw(n, n) / n, "h0": draw(B, n)}
    if activation == "modrelu":  # of both signs, unless shifted
        tensors["threshold"] = 0.1 * torch.randn(n, dtype=tensors["x"].real.dtype, generator=generator) + shift
    return {name: tensors[name].requires_grad_() for name in NAMES if name in tensors}


def call(run, activation, tensors, **options):
    form = ElmanForm(activation, tensors["V"], tensors.get("b"), tensors.get("threshold"))
    return run(form, tensors["x"], tensors["h0"], tensors["W"], **options)


def real(z):
    return z.real + 2 * z.imag if z.is_complex() else z


LAYERS = [
    {"nonlinearity": "modrelu"},
    {"nonlinearity": "tanh", "num_layers": 2, "bidirectional": True, "batch_first": True},
    {"nonlinearity": "relu", "bias": False, "bidirectional": True},
    {"nonlinearity": "modrelu", "dtype": torch.complex128, "num_layers": 2, "train_initial_state": True},
]


def choice(layer, x, caplog, **options):
    caplog.clear()
    with caplog.at_level(logging.DEBUG, logger="manifold_rnn.nn.scan"):
        layer(x, **options)
    return caplog.records[-1].getMessage()


def wide(tensors):
    return {k: p.detach().to(torch.promote_types(p.dtype, torch.float64)).requires_grad_() for k, p in tensors.items()}


def values(run, activation, tensors, weight, wanted="both"):
    """The outputs that are wanted, and the gradients of a weighted sum of them."""
    last = wanted.startswith("last step")
    every = {} if run is plain_states else {"every_step": not last, "recompute": "recomputed" in wanted}
    results = call(run, activation, tensors, **every)
    y, h = (results, results[-1]) if run is plain_states else results
    loss = real(y * weight.to(y.dtype)).sum() if not last else 0
    if wanted != "every step":
        loss = loss + real(h * weight[0].to(h.dtype)).sum()
    return [h, *([] if last else [y]), *torch.autograd.grad(loss, list(tensors.values()))]


def error(results, true):
    """The largest error, as a part of the largest entry."""
    return max(
        ((a - b).abs().max() / b.abs().max().clamp(min=1)).item()
        for a, b in zip(results, true, strict=True)
        if b.numel()
    )


_SIZES = (0.0, 1e-45, 3e-40, 1e-30, 1e-19, 1e-3, 1.0, 1e10, 1e19, 1e20, 1e30, 1e38)


def edges(activation, dtype, generator, device="cpu"):
    """Arguments in single precision from subnormal to the largest numbers, one a unit, and weights of the outputs."""
    n = len(_SIZES)
    tensors = {
        "x": torch.tensor(_SIZES, dtype=dtype) * torch.randn(3, 2, n, dtype=dtype, generator=generator).sgn(),
        "V": torch.eye(n, dtype=dtype),
        "W": torch.zeros(n, n, dtype=dtype),
        "h0": torch.zeros(2, n, dtype=dtype),
    }
    if activation == "modrelu":
        tensors["threshold"] = torch.linspace(-0.2, 0.1, n)
    weight = torch.randn(3, 2, n, dtype=dtype, generator=generator)
    return {k: p.to(device).requires_grad_() for k, p in tensors.items()}, weight.to(device)


def edge_values(run, activation, tensors, weight):
    """Outputs, and the gradients of the arguments and of the threshold."""
    y = call(run, activation, tensors)
    y = y[0] if isinstance(y, tuple) else y
    wanted = [tensors[k] for k in ("x", "threshold") if k in tensors]
    return [y.detach(), *torch.autograd.grad((y * weight.to(y.dtype)).real.sum(), wanted)]
