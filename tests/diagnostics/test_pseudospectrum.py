"""The pseudospectrum on a grid, against dense singular values; its radii, symmetry, memory, pictures and bad input."""

import math
import sys

import pytest
import torch

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.errors import NonFiniteError, OptionError


def chain(n, forward=1.0, backward=0.0):
    ones = torch.ones(n - 1, dtype=torch.float64)
    return forward * ones.diag(-1) + backward * ones.diag(1)


def dense(result, W):
    x, y = torch.tensor(result.real), torch.tensor(result.imaginary)
    z = torch.complex(x.double().expand(len(y), -1), y.double()[:, None].expand(-1, len(x)))
    return torch.linalg.svdvals(z[..., None, None] * torch.eye(len(W)) - W)[..., -1].log10()


@pytest.mark.parametrize("points", [2, 15, 16])
def test_the_grid_has_the_dense_values(points, generator):
    random = torch.randn(9, 9, dtype=torch.complex128, generator=generator) / 3
    jordan = 0.5 * torch.eye(7, dtype=torch.float64) + chain(7).mT
    for W in (random, random.real, chain(12), chain(12, 0.99, 0.1), jordan):
        result = diagnostics.pseudospectrum(W, eps=(1e-2, 1e-1), points=points)
        expected = dense(result, W)
        sound = expected > -12
        torch.testing.assert_close(result.log10_smallest[sound], expected[sound], atol=5e-3, rtol=0)
        assert bool((result.log10_smallest[~sound] < -11).all())


def test_a_real_matrix_has_a_symmetric_grid_and_that_of_its_complex_copy(generator):
    W = torch.randn(8, 8, dtype=torch.float64, generator=generator) / 3
    for points in (10, 11):
        real, complex_ = (diagnostics.pseudospectrum(x, points=points) for x in (W, W.to(torch.complex128)))
        assert torch.equal(real.log10_smallest, real.log10_smallest.flip(0))
        torch.testing.assert_close(real.log10_smallest, complex_.log10_smallest, atol=2e-3, rtol=0)
        for eps, radius in real.radius.items():
            assert complex_.radius[eps] == pytest.approx(radius, rel=1e-8)


@pytest.mark.parametrize("m", [2, 5, 20])
def test_the_radius_of_a_jordan_block_is_where_the_toeplitz_matrix_has_that_singular_value(m):
    value, levels = 0.4, (1e-6, 1e-3, 1e-1)
    W = value * torch.eye(m, dtype=torch.float64) + chain(m).mT
    result = diagnostics.pseudospectrum(W, levels, points=5)
    for eps in levels:
        z = result.radius[eps] * torch.eye(m, dtype=torch.float64)
        assert torch.linalg.svdvals(z - W)[-1].item() == pytest.approx(eps, rel=1e-7)
        assert result.radius[eps] < value + 1 + eps


@pytest.mark.parametrize("n", [2, 3, 6])
@pytest.mark.parametrize("gain", [1.0, 1e3, 1e6, 1e8])
def test_the_radius_of_a_strongly_non_normal_matrix_is_that_of_its_resolvent(n, gain):
    W = 0.5 * torch.eye(n, dtype=torch.float64) + chain(n, gain)
    W[0, 0] = 0.4
    levels = tuple(level for level in (1e-6, 1e-3, 1e-2, 1.0) if level > 1e6 * gain * torch.finfo(W.dtype).eps)
    for eps, radius in diagnostics.pseudospectrum(W, levels, points=3).radius.items():
        smallest = [
            torch.linalg.svdvals(r * torch.eye(n, dtype=W.dtype) - W)[-1] for r in (radius, radius * (1 + 1e-6))
        ]
        assert smallest[0].item() == pytest.approx(eps, rel=1e-5) and smallest[1] > eps
    assert diagnostics.spectrum(W, eps=levels[-1:]).pseudo[levels[-1]] == pytest.approx(radius, rel=1e-8)


def test_a_perturbation_near_the_largest_number_has_a_radius():
    assert diagnostics.pseudospectrum(torch.eye(2), (1e308,), points=3).radius[1e308] == pytest.approx(1e308)


@pytest.mark.parametrize("measure", [diagnostics.pseudospectrum, diagnostics.spectrum])
def test_a_matrix_whose_norm_overflows_is_refused(measure):
    with pytest.raises(NonFiniteError, match="largest number"):
        measure(torch.full((3, 3), 1.5e308, dtype=torch.float64))


def test_the_contour_of_a_level_lies_between_inner_and_outer_points():
    W, eps = chain(20), 1e-4
    result = diagnostics.pseudospectrum(W, eps=(eps,), points=81)
    x = torch.tensor(result.real).double()
    inside = result.log10_smallest < math.log10(eps)
    reached = torch.hypot(x[None], torch.tensor(result.imaginary).double()[:, None])[inside].max().item()
    assert result.radius[eps] - 2 * (x[1] - x[0]) < reached <= result.radius[eps]


def test_memory_is_bounded_by_blocks(monkeypatch, generator):
    W = torch.randn(10, 10, dtype=torch.float64, generator=generator)
    whole = diagnostics.pseudospectrum(W, points=20)
    monkeypatch.setattr("manifold_rnn.linalg.resolvent._BLOCK", 1)
    monkeypatch.setattr(sys.modules["manifold_rnn.diagnostics.pseudospectrum"], "_BLOCK", 1)
    parts = diagnostics.pseudospectrum(W, points=20)
    torch.testing.assert_close(whole.log10_smallest, parts.log10_smallest, atol=1e-3, rtol=0)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_huge_and_tiny_matrices(scale):
    W, eps = chain(10), 1e-3
    one = diagnostics.pseudospectrum(W, eps=(eps,), points=12, extent=(-1, 1, -1, 1))
    two = diagnostics.pseudospectrum(scale * W, (scale * eps,), points=12, extent=(-scale, scale, -scale, scale))
    shifted = one.log10_smallest + math.log10(scale)
    torch.testing.assert_close(two.log10_smallest, shifted, atol=1e-6, rtol=0)
    assert two.radius[scale * eps] == pytest.approx(scale * one.radius[eps], rel=1e-8)
    default = diagnostics.pseudospectrum(scale * W, (scale * eps,), points=5)
    assert default.real[-1] == pytest.approx(1.1 * default.radius[scale * eps])


def test_a_progress_bar_is_shown_on_the_error_stream_only_if_asked_for(capsys):
    diagnostics.pseudospectrum(torch.eye(2), points=5)
    assert capsys.readouterr() == ("", "")
    diagnostics.pseudospectrum(torch.eye(2), points=5, progress=True)
    out, error = capsys.readouterr()
    assert out == "" and error.endswith("\n") and "100%" in error


@pytest.mark.parametrize("points", [0, 1, -3, 2.5, True, "many"])
def test_points_are_at_least_two(points):
    with pytest.raises(OptionError, match="points of at least 2"):
        diagnostics.pseudospectrum(torch.eye(2), points=points)


@pytest.mark.parametrize("scale", [1e-300, 1e-155, 1e-100, 1e100, 1e250])
def test_the_grid_of_a_tiny_or_huge_matrix_is_that_of_an_ordinary_one(scale, generator):
    W = torch.randn(6, 6, dtype=torch.float64, generator=generator)
    one = diagnostics.pseudospectrum(W, (0.1,), points=3)
    two = diagnostics.pseudospectrum(
        scale * W, (scale * 0.1,), points=3, extent=[scale * one.real[k] for k in (0, 2, 0, 2)]
    )
    assert torch.allclose(two.log10_smallest, one.log10_smallest + math.log10(scale), atol=1e-3, rtol=0)
    wide = diagnostics.pseudospectrum(scale * W, (scale * 0.1,), points=3, extent=(-1, 1, -1, 1)).log10_smallest
    centre = math.log10(scale) + one.log10_smallest[1, 1].item()
    assert wide[1, 1].item() == pytest.approx(centre, abs=1e-3)
    if scale < 1:
        assert wide[0].tolist() == pytest.approx([math.log10(2) / 2, 0, math.log10(2) / 2], abs=1e-8)


@pytest.mark.parametrize("extent", [(1, -1, 0, 1), (0, 1, 1, 1), (0, 1, 2), (0, math.inf, 0, 1), (0, math.nan, 0, 1)])
def test_an_extent_is_two_intervals(extent):
    with pytest.raises(OptionError, match="extent=\\(left, right, bottom, top\\)"):
        diagnostics.pseudospectrum(torch.eye(2), extent=extent)


def test_a_network_has_the_pseudospectrum_of_its_recurrent_matrix():
    network = mr.zoo.exprnn(1, 8, 2)
    result = diagnostics.pseudospectrum(network, (0.1,), points=4)
    assert result.matrix == "W_hh" and result.radius[0.1] == pytest.approx(1.1, abs=1e-5)


def test_table_and_picture():
    result = diagnostics.pseudospectrum(chain(10), eps=(1e-30, 1e-2, 1e-1), points=30)
    table = result.table()
    assert "1.24e-05" in diagnostics.pseudospectrum(chain(4), eps=(1.24e-5,), points=4).table()
    assert table.isascii() and "30 x 30 points" in table and len(table.splitlines()) == 4
    pytest.importorskip("matplotlib")
    contour = diagnostics.pseudospectrum(chain(10), eps=(1e-2,), points=30).plot().collections[0]
    assert {dashes for _, dashes in contour.get_linestyle()} == {None}  # solid also if one level alone is drawn
    axes = result.plot()
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts[:3] == ["eigenvalues", "unit circle", "norm 1e-30 (no contour)"]
    assert axes.get_xlabel() and axes.get_ylabel() and "pseudospectrum of W" in axes.get_title()
