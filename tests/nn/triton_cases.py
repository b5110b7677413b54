"""Laws of the Triton scan. test_triton.py runs them, in the interpreter or on a GPU."""

import os

import numpy as np
import pytest
import torch
from support.counting import AliveBytes
from support.scan_cases import arguments, call, edge_values, edges, real, wide
from support.selection import sample, spread
from torch import multiprocessing, nn

import manifold_rnn as mr
from manifold_rnn.nn.scan import ElmanForm, fused
from manifold_rnn.nn.scan.elman.engine import plain_states
from manifold_rnn.nn.scan.elman.triton import launch, tiles, triton
from manifold_rnn.nn.scan.elman.triton.tiling import Tiling

pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # by Triton before 3.9
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
PATHS = {"held": Tiling(1, 32, 32, held=True), "streamed": Tiling(1, 32, 16), "tiles": Tiling(16, 16, 16)}
if not INTERPRETED:  # one program after the other would wait forever
    PATHS["shared"] = Tiling(16, 16, 16, members=2)
EVERY = [
    ("linear", torch.float32),
    ("relu", torch.float32),
    ("tanh", torch.float32),
    ("modrelu", torch.float32),
    ("linear", torch.complex64),
    ("modrelu", torch.complex64),
]
SIZES = [(1, 1, 1, 1), (4, 3, 13, 2), (2, 2, 18, 2)]  # more units than a tile has in the last
HALF = [("tanh", torch.bfloat16), ("modrelu", torch.bfloat16), ("relu", torch.float16)]
SPOILED = [("x", np.nan), ("W", -np.inf), ("h0", np.nan), ("x", np.inf)]


def by_path(*names, cases):
    """Parametrize by the names and, last, by the kernel that is run."""
    return pytest.mark.parametrize((*names, "path"), cases, indirect=["path"], ids=str)


@pytest.fixture
def path(request, monkeypatch):
    monkeypatch.setattr(launch, "choose_tiling", lambda *_: PATHS[request.param])


def draw(activation, dtype, sizes, generator):
    """The same numbers for the kernel and, in double precision, for the loop."""
    double = torch.complex128 if dtype.is_complex else torch.float64
    exact = arguments(activation, double, sizes, generator)
    narrow = {k: t.detach().to(DEVICE, dtype if t.dtype == double else dtype.to_real()) for k, t in exact.items()}
    exact = {k: t.to(exact[k].dtype).requires_grad_() for k, t in narrow.items()}
    return {k: t.requires_grad_() for k, t in narrow.items()}, exact


def outcomes(run, activation, tensors, weight, **options):
    """Outputs and every gradient."""
    y, h = call(run, activation, tensors, **options)
    weight = weight.to(h.dtype)
    loss = real(h * weight[0]).sum() + (0 if y is None else real(y * weight).sum())
    return [*([] if y is None else [y]), h, *torch.autograd.grad(loss, list(tensors.values()))]


def loop(form, x, h0, W, every_step=True):
    y = plain_states(form, x, h0, W)
    return (y if every_step else None), y[-1]


def relative(a, b):
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


@by_path("case", "sizes", cases=spread(EVERY, SIZES, PATHS, every=5))
def test_equals_the_loop_in_outputs_and_every_gradient(case, sizes, path, generator):
    compare(*case, sizes, generator)


@pytest.mark.parametrize(("activation", "dtype"), sample(EVERY[3:], every=2), ids=str)
def test_more_rows_than_a_tile_has(activation, dtype, generator, monkeypatch):
    monkeypatch.setattr(launch, "choose_tiling", lambda *_: [*PATHS.values()][-1])
    compare(activation, dtype, (3, 17, 18, 2), generator)


def compare(activation, dtype, sizes, generator):
    tensors, exact = draw(activation, dtype, sizes, generator)
    weight = torch.randn(*sizes[:3], generator=generator, dtype=dtype).to(DEVICE)
    got, true = outcomes(triton, activation, tensors, weight), outcomes(loop, activation, exact, weight)
    assert [t.dtype for t in got[2:]] == [t.dtype for t in tensors.values()]
    for a, b in zip(got, true, strict=True):
        assert relative(a, b) < 2e-6


@by_path("case", cases=spread(EVERY[2::3], PATHS, every=2))
def test_thirty_two_steps_to_the_last_output(case, path, generator):
    activation, dtype = case
    tensors, exact = draw(activation, dtype, (32, 1, 9, 1), generator)
    weight = torch.randn(32, 1, 9, generator=generator, dtype=dtype).to(DEVICE)
    got = outcomes(triton, activation, tensors, weight, every_step=False)
    assert len(got) == 1 + len(tensors)
    for a, b in zip(got, outcomes(loop, activation, exact, weight, every_step=False), strict=True):
        assert relative(a, b) < 1e-5


@by_path("case", cases=spread(HALF, PATHS, every=2))
def test_half_precision_errs_no_more_than_the_loop(case, path, generator):
    activation, dtype = case
    tensors, exact = draw(activation, dtype, (4, 3, 21, 2), generator)
    weight = torch.randn(4, 3, 21, generator=generator).to(DEVICE)
    got, plain = (outcomes(run, activation, tensors, weight) for run in (triton, loop))
    # the interpreter cuts digits off for bfloat16 where others round
    allowed = 3 if INTERPRETED and dtype == torch.bfloat16 else 1.2
    for a, c, b in zip(got, plain, outcomes(loop, activation, exact, weight), strict=True):
        assert a.dtype == dtype
        assert torch.linalg.vector_norm(a - b) <= allowed * torch.linalg.vector_norm(c - b) + 1e-12


@by_path("dtype", cases=spread([torch.float32, torch.complex64], PATHS, every=2))
def test_any_strides(dtype, path, generator):
    sizes = T, B, n, _ = (3, 2, 7, 2)
    tensors, exact = draw("modrelu", dtype, sizes, generator)
    tensors = {k: t.detach().clone() for k, t in tensors.items()}
    tensors["x"] = tensors["x"].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    tensors["W"], tensors["V"] = tensors["W"].mT.contiguous().mT, torch.stack([tensors["V"]] * 2, -1)[..., 0]
    tensors["h0"], tensors["threshold"] = tensors["h0"][:1].expand(B, n), tensors["threshold"][:1].expand(n)
    exact = {k: tensors[k].detach().to(t.dtype).requires_grad_() for k, t in exact.items()}
    tensors = {k: t.requires_grad_() for k, t in tensors.items()}
    weights = [torch.randn(B, n, T, generator=generator, dtype=dtype).to(DEVICE).permute(2, 0, 1)]
    weights += [weights[0].conj() * 1, weights[0][:1, :1, :1].expand(T, B, n)]
    for weight in weights:
        results = []
        for run, inputs in ((triton, tensors), (loop, exact)):
            y, _ = call(run, "modrelu", inputs)
            w = weight.to(y.dtype)
            results.append(torch.autograd.grad(y, list(inputs.values()), w.conj() if dtype.is_complex else w))
        for a, b in zip(*results, strict=True):
            assert relative(a, b) < 2e-6


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")  # of the interpreter
@by_path("case", "spoil", cases=spread([*EVERY[1:4], EVERY[5]], SPOILED, PATHS, every=7))
def test_nan_and_infinity_are_where_they_are_in_the_fused_scan(case, spoil, path, generator):
    (activation, dtype), (where, bad) = case, spoil
    tensors, _ = draw(activation, dtype, (2, 2, 5, 2), generator)
    spoiled = tensors[where].detach().clone()
    spoiled[(1,) * spoiled.ndim] = bad
    tensors[where] = spoiled.requires_grad_()
    weight = torch.randn(2, 2, 5, generator=generator, dtype=dtype).to(DEVICE)
    for a, b in zip(*(outcomes(run, activation, tensors, weight) for run in (triton, fused)), strict=True):
        assert torch.equal(a.isfinite(), b.isfinite())  # infinite complex numbers may become NaN in products, or not
        keep = b.isfinite() if dtype.is_complex else torch.ones_like(b, dtype=torch.bool)
        torch.testing.assert_close(a[keep], b[keep], equal_nan=True, atol=1e-5, rtol=1e-5)


@by_path("case", cases=spread(EVERY, PATHS, every=5))
def test_arguments_from_subnormal_to_the_largest_numbers(case, path, generator):
    tensors, weight = edges(*case, generator, DEVICE)
    true = edge_values(plain_states, case[0], wide(tensors), weight)
    for a, b in zip(edge_values(triton, case[0], tensors, weight), true, strict=True):
        torch.testing.assert_close(a.to(b.dtype), b, rtol=1e-4, atol=1e-5)


@by_path(cases=spread(PATHS, every=2))
def test_gradients_of_chosen_inputs_and_twice(path, generator):
    tensors, _ = draw("modrelu", torch.float32, (3, 1, 5, 2), generator)
    all_of_them = torch.autograd.grad(call(triton, "modrelu", tensors)[0].sin().sum(), list(tensors.values()))
    for k, name in enumerate(tensors):
        alone = {other: t.detach().requires_grad_(other == name) for other, t in tensors.items()}
        loss = call(triton, "modrelu", alone)[0].sin().sum()
        for _ in range(2):
            (got,) = torch.autograd.grad(loss, alone[name], retain_graph=True)
            torch.testing.assert_close(got, all_of_them[k])


@pytest.mark.parametrize(("activation", "dtype"), sample(EVERY[2:], every=2), ids=str)
def test_second_derivatives(activation, dtype, generator):
    tensors, exact = draw(activation, dtype, (3, 2, 4, 2), generator)
    results = []
    for run, inputs in ((triton, tensors), (loop, exact)):
        y, _ = call(run, activation, inputs)
        first = torch.autograd.grad(real(y.sin()).sum(), list(inputs.values()), create_graph=True)
        loss = sum(real(g).square().sum() for g in first)
        results.append([*first, *torch.autograd.grad(loss, list(inputs.values()))])
    for a, b in zip(*results, strict=True):
        assert relative(a, b) < 1e-5


LAYERS = [
    {"nonlinearity": "tanh", "num_layers": 2, "bidirectional": True, "batch_first": True},
    {"nonlinearity": "modrelu", "recompute": True},
    {"nonlinearity": "modrelu", "dtype": torch.complex64, "constraint": mr.Unitary(), "train_initial_state": True},
]


@pytest.mark.parametrize(("options", "lengths"), spread(LAYERS, [None, [7, 2, 4, 4, 1]], every=3))
def test_layers_are_those_of_the_loop(options, lengths, generator):
    layers = [mr.nn.RNN(3, 4, backend=backend, device=DEVICE, **options) for backend in ("triton", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, generator=generator).to(DEVICE)
    if lengths is not None:
        x = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    elif options.get("batch_first"):
        x = x.transpose(0, 1)
    every_step, results = not options.get("recompute", False), []
    for layer in layers:
        y, h = layer(x, every_step=every_step)
        y = h if y is None else y if lengths is None else y.data
        real(y.sin() + y.mean() * h.sum()).sum().backward()
        results.append([y, h, *(p.grad for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=2e-5, rtol=1e-4)


def test_momentum_is_run_too(generator):
    cell = mr.nn.cells.Momentum(mr.nn.cells.Elman("relu"))
    layers = [mr.nn.Layer(cell, 3, 4, backend=backend, device=DEVICE) for backend in ("triton", "reference")]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(7, 5, 3, generator=generator).to(DEVICE)
    gradients = []
    for layer in layers:
        layer(x)[0].sin().sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    torch.testing.assert_close(*gradients, atol=2e-5, rtol=1e-4)


def test_memory_is_that_of_states_and_gradients(generator, monkeypatch):
    monkeypatch.setattr(launch, "choose_tiling", lambda *_: PATHS["tiles"])
    T, B, n = 50, 16, 16
    tensors, _ = draw("tanh", torch.float32, (T, B, n, 1), generator)
    tensors["x"] = tensors["x"].detach()
    with AliveBytes() as counter:
        _, h = call(triton, "tanh", tensors, every_step=False)
        h.sum().backward()
    assert counter.peak < 2.3 * T * B * n * 4


@pytest.mark.skipif(not INTERPRETED, reason="the GPU runs them at once by itself")
def test_programs_that_share_rows_wait_for_each_other(generator):
    T, B, n, members = 6, 3, 40, 3
    W, U = torch.randn(n, n, generator=generator) / n, torch.randn(T, B, n, generator=generator)
    H = torch.cat([torch.randn(1, B, n, generator=generator), U])
    form = ElmanForm("modrelu", None, None, torch.full((n,), -0.1))
    expected = plain_states(form, U, H[0], W)
    M = W.mT.contiguous()
    shared = [t.share_memory_() for t in (H, M, form.threshold, torch.zeros(1, dtype=torch.int32))]
    context = multiprocessing.get_context("fork")
    programs = [context.Process(target=_program, args=(k, members, T, B, n, *shared)) for k in range(members)]
    for program in programs:
        program.start()
    for program in programs:
        program.join(30)
    assert [program.exitcode for program in programs] == [0] * members
    torch.testing.assert_close(H[1:], expected)


def _program(k, members, T, B, n, H, M, threshold, arrived):
    """Run one program of the grid in a process of its own."""
    from triton.runtime.interpreter import interpreter_builder

    place = interpreter_builder.set_grid_idx
    interpreter_builder.set_grid_dim(members, 1, 1)
    interpreter_builder.set_grid_dim = lambda *_: None
    interpreter_builder.set_grid_idx = lambda x, y, z: place(x + k, y, z)
    options = {"ACTIVATION": "modrelu", "COMPLEX": False, "KEEPS": False, "SHARED": True, "HALF": False}
    options |= {"ROWS": 16, "COLUMNS": 16, "DEPTH": 16, "PRECISION": "ieee"}
    tiles.forward[(1,)](H[1:], H, M, threshold, arrived, T, B, n, members, **options)
