"""The Triton scan: its laws in processes of their own, its tilings, when "auto" takes it, and that it compiles."""

import importlib.util
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import manifold_rnn as mr
from manifold_rnn.nn.scan.elman import triton as triton_backend
from manifold_rnn.nn.scan.elman.triton.tiling import choose_tiling

CASES = Path(__file__).with_name("triton_cases.py")
PYTEST = ("-m", "pytest", "-p", "no:cacheprovider")
installed = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")


def run(*command, **environment):
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


@installed
@pytest.mark.parametrize("selection", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_interpreted_kernels_are_the_loop(selection):
    run(*PYTEST, "-m", selection, str(CASES), TRITON_INTERPRET="1", OMP_NUM_THREADS="1")


@installed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_kernels_on_a_gpu_are_the_loop():
    run(*PYTEST, "-m", "slow or not slow", str(CASES), TRITON_INTERPRET="0")


def test_the_package_itself_does_not_load_the_kernels():
    run(
        "-c",
        "import sys, manifold_rnn as mr, torch; mr.nn.RNN(2, 3)(torch.zeros(2, 1, 2))\n"
        "assert not any(m.startswith('manifold_rnn.nn.scan.elman.triton.') for m in sys.modules)",
    )


@pytest.mark.parametrize("processors", [1, 132])
@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_tilings_cover_the_work_with_programs_that_fit(processors, parts, itemsize):
    for B in (1, 20, 128, 3000):
        for n in (1, 64, 128, 170, 512, 1500):
            tiling = choose_tiling(B, n, parts, itemsize, processors)
            if tiling.rows == 1:
                assert tiling.members == 1 and tiling.columns >= n
                assert not tiling.held or 4 * parts * tiling.columns**2 <= 128 << 10
            else:
                groups = -(-B // tiling.rows)
                assert tiling.members == 1 or groups * tiling.members <= processors
                assert min(tiling.rows, tiling.columns, tiling.depth) >= 16


def test_tilings_hold_small_matrices_and_share_the_rows_of_small_batches():
    assert choose_tiling(128, 128, 1, 4, 132).held and choose_tiling(20, 128, 2, 4, 132).held
    assert not choose_tiling(128, 190, 1, 4, 132).held and choose_tiling(128, 190, 1, 4, 132).rows == 1
    assert choose_tiling(20, 512, 1, 4, 132).members > 8
    assert choose_tiling(20, 512, 1, 4, 1).members == 1


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes tensors on the CPU")
def test_a_processor_alone_is_refused_by_name(monkeypatch):
    layer, x = mr.nn.RNN(3, 4, backend="triton"), torch.zeros(4, 2, 3)
    monkeypatch.setattr(triton_backend, "is_installed", lambda: True)
    with pytest.raises(mr.errors.UnsupportedError, match="on cpu, and TRITON_INTERPRET=1 is not set"):
        layer(x)
    monkeypatch.setattr(triton_backend, "is_installed", lambda: False)
    with pytest.raises(mr.errors.UnsupportedError, match="not installed"):
        layer(x)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"nonlinearity": torch.sin}, "no Elman form"), ({"dtype": torch.float64}, "no kernel for torch.float64")],
    ids=["function", "double"],
)
def test_cells_without_a_kernel_are_refused_by_name(options, reason, monkeypatch):
    monkeypatch.setattr(triton_backend, "is_installed", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(mr.errors.UnsupportedError, match=reason):
        mr.nn.RNN(3, 4, backend="triton", **options)(torch.zeros(4, 2, 3, dtype=options.get("dtype")))


def test_auto_leaves_it_to_gpus_and_says_so(caplog, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with caplog.at_level(logging.DEBUG, logger="manifold_rnn.nn.scan"):
        mr.nn.RNN(3, 4)(torch.zeros(4, 2, 3))
    assert "not triton: the tensors are not on an NVIDIA GPU" in caplog.text


SHAPES = {
    "held": {"HELD": True, "BLOCK": 128, "DEPTH": 128},
    "streamed": {"HELD": False, "BLOCK": 256, "DEPTH": 32},
    "shared": {"SHARED": True, "ROWS": 16, "COLUMNS": 32, "DEPTH": 16, "PRECISION": "tf32x3", "HALF": False},
}
BUILDS = [("held", False), ("shared", True)]
BUILDS += [pytest.param(*b, marks=pytest.mark.slow) for b in [("held", True), ("shared", False), ("streamed", True)]]


@installed
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="there is nothing to compile")
@pytest.mark.parametrize("back", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("shape", "parts"), BUILDS, ids=str)
def test_kernels_compile_for_a_gpu(shape, parts, back, tmp_path, monkeypatch):
    from triton import compile as build
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from manifold_rnn.nn.scan.elman.triton import rows, tiles

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernels = tiles if shape == "shared" else rows
    kernel = kernels.backward if back else kernels.forward
    constants = {"ACTIVATION": "modrelu", "COMPLEX": parts, "EVERY" if back else "KEEPS": True, **SHAPES[shape]}
    numbers = ("T", "B", "n", "members", "g_step", "g_row", "g_column")
    types = {name: "i32" if name in numbers else "*i32" if name == "arrived" else "*fp32" for name in kernel.arg_names}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants)
    warps = 16 if shape == "held" and parts else 8
    code = build(source, GPUTarget("cuda", 90, 32), {"num_warps": warps, "enable_fp_fusion": True}).asm
    assert code["cubin"]
    waits = re.search(r"gpu.release.*gpu.acquire", code["ptx"], re.DOTALL)
    assert (waits is not None) == (shape == "shared")
