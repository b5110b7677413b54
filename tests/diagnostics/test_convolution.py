"""Singular values of convolutions, against the dense circulant matrices that torch's own convolutions have."""

import math

import pytest
import torch
from torch.nn import functional as F

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError, UnsupportedError


def dense(kernel, size):
    """The matrix of the convolution, column by column, with torch's convolution and circular padding."""
    axes = len(size)
    basis = torch.eye(kernel.shape[1] * math.prod(size), dtype=kernel.dtype).reshape(-1, kernel.shape[1], *size)
    padding = [p for k in reversed(kernel.shape[2:]) for p in (0, k - 1)]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    return convolve(F.pad(basis, padding, mode="circular"), kernel).flatten(1)


CASES = {
    "1d": ((3, 2, 3), (7,)),
    "1d even": ((2, 2, 2), (6,)),
    "2d": ((2, 3, 3, 3), (5, 6)),
    "2d odd": ((3, 3, 3, 2), (4, 5)),
    "2d full": ((2, 2, 4, 4), (4, 4)),
    "one tap": ((3, 4, 1, 1), (3, 3)),
    "one pixel": ((3, 2, 1), (1,)),
    "3d": ((2, 2, 2, 1, 3), (3, 2, 4)),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(("shape", "size"), CASES.values(), ids=CASES)
def test_singular_values_are_those_of_the_dense_matrix(shape, size, dtype, generator):
    kernel = torch.randn(shape, dtype=dtype, generator=generator)
    found = diagnostics.conv_singular_values(kernel, size)
    expected = torch.linalg.svdvals(dense(kernel, size))
    torch.testing.assert_close(found.values, expected, atol=1e-8, rtol=0)
    assert found.norm == found.values.max() and found.smallest == found.values.min() and found.size == size


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    ("shape", "size", "stride", "groups"),
    [
        ((3, 2, 3), (8,), 2, 1),
        ((2, 3, 3, 2), (4, 6), 2, 1),
        ((4, 2, 2, 2), (6, 4), (3, 2), 2),
        ((4, 1, 3, 3), (5, 4), 1, 4),
        ((2, 2, 2, 1, 3), (4, 2, 4), (2, 1, 2), 1),
    ],
)
def test_strides_and_groups_are_those_of_the_layer(shape, size, stride, groups, dtype, generator):
    kernel = torch.randn(shape, dtype=dtype, generator=generator)
    found = diagnostics.conv_singular_values(kernel, size, stride=stride, groups=groups)
    basis = torch.eye(shape[1] * groups * math.prod(size), dtype=dtype).reshape(-1, shape[1] * groups, *size)
    padding = [p for k in reversed(shape[2:]) for p in (0, k - 1)]
    convolve = (F.conv1d, F.conv2d, F.conv3d)[len(size) - 1]
    matrix = convolve(F.pad(basis, padding, mode="circular"), kernel, stride=stride, groups=groups).flatten(1)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(matrix), atol=1e-8, rtol=0)


def test_a_kernel_with_orthonormal_rows_is_no_orthogonal_convolution(generator):
    for _ in range(20):
        rows = torch.linalg.qr(torch.randn(36, 4, dtype=torch.float64, generator=generator)).Q.mT
        kernel = rows.reshape(4, 4, 3, 3)
        torch.testing.assert_close(rows @ rows.mT, torch.eye(4, dtype=torch.float64))
        found = diagnostics.conv_singular_values(kernel, 8)
        assert found.smallest < 0.15 and 1.5 < found.norm <= 3


def test_an_orthogonal_kernel_of_one_tap_and_a_shift_are_orthogonal_convolutions(generator):
    Q = mr.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=generator))[0]
    for place in (0, 1, 2):
        kernel = torch.zeros(4, 4, 3, 3, dtype=torch.float64)
        kernel[:, :, place, 1] = Q
        found = diagnostics.conv_singular_values(kernel, (5, 4))
        torch.testing.assert_close(found.values, torch.ones(80, dtype=torch.float64))


def test_zero_padding_has_no_larger_norm(generator):
    kernel = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=generator)
    basis = torch.eye(3 * 25, dtype=torch.float64).reshape(-1, 3, 5, 5)
    zero_padded = torch.linalg.matrix_norm(F.conv2d(basis, kernel, padding=1).flatten(1), 2)
    assert zero_padded <= diagnostics.conv_singular_values(kernel, 7).norm * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_scale(scale, generator):
    kernel = torch.randn(2, 2, 3, dtype=torch.float64, generator=generator)
    one, two = (diagnostics.conv_singular_values(k, 6).values for k in (kernel, scale * kernel))
    torch.testing.assert_close(two / scale, one)


BAD = {
    "matrix": (torch.ones(3, 3), 4, ShapeError, r"got \(3, 3\)"),
    "four axes": (torch.ones(1, 1, 1, 1, 1, 1), 4, ShapeError, "1 to 3 axes"),
    "empty": (torch.ones(0, 2, 3), 4, ShapeError, "needs the kernel"),
    "integers": (torch.ones(2, 2, 3, dtype=torch.int64), 4, DtypeError, "int64"),
    "NaN": (torch.full((1, 1, 3), torch.nan), 4, NonFiniteError, "3 entries"),
    "sparse": (torch.ones(1, 1, 3).to_sparse(), 4, UnsupportedError, "dense"),
    "small": (torch.ones(2, 2, 3, 3), (4, 2), OptionError, r"at least \(3, 3\); got \(4, 2\)"),
    "fraction": (torch.ones(2, 2, 3, 3), 4.5, OptionError, r"got \(4.5, 4.5\)"),
    "axes": (torch.ones(2, 2, 3, 3), (4,), OptionError, "2 integers"),
    "truth": (torch.ones(1, 1, 1, 1), True, OptionError, r"got \(True, True\)"),
    "module": (torch.nn.Conv2d(1, 1, 3), 5, OptionError, "a Tensor; got Conv2d"),
    "list": ([[[1.0]]], 5, OptionError, "a Tensor; got list"),
}


@pytest.mark.parametrize(("kernel", "size", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_by_name(kernel, size, kind, words):
    with pytest.raises(kind, match=words):
        diagnostics.conv_singular_values(kernel, size)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stride": 3}, r"divide \(4, 4\); got \(3, 3\)"),
        ({"stride": (2,)}, "2 integers"),
        ({"stride": 0}, "from 1"),
        ({"groups": 3}, "divide 4; got 3"),
        ({"groups": 0.5}, "got 0.5"),
    ],
    ids=str,
)
def test_bad_strides_and_groups_are_answered_by_name(options, words):
    with pytest.raises(OptionError, match=words) as raised:
        diagnostics.conv_singular_values(torch.ones(4, 2, 3, 3), 4, **options)
    assert len(str(raised.value)) <= 400


def test_table_and_picture():
    found = diagnostics.conv_singular_values(torch.ones(1, 1, 2, 2) / 4, (4, 5))
    assert found.table().isascii() and found.table().startswith("convolution on 4 x 5") and "norm" in found.table()
    pytest.importorskip("matplotlib")
    axes = found.plot()
    assert len(axes.lines[0].get_ydata()) == 20 and axes.get_xlabel() and axes.get_legend()
