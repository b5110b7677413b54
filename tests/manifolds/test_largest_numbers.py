"""Matrices near the largest finite number: a projection is right, or refused by name; moduli may overflow."""

import pytest
import torch
from support.manifold_cases import ALL
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import errors, linalg
from manifold_rnn.linalg.norms import spectral_norm

SINGLE = {torch.float64: torch.float32, torch.complex128: torch.complex64}
PATTERNS = ("all", "one entry", "one column", "corner")
DTYPES = (torch.float32, torch.float64, torch.complex64, torch.complex128)


def large(shape, dtype, pattern, part, generator):
    """A matrix with entries whose real and imaginary parts are up to this part of the largest number."""
    x = torch.rand(shape, dtype=torch.float64, generator=generator) * 2 - 1
    rows, columns = torch.arange(shape[-2])[:, None], torch.arange(shape[-1])
    if pattern == "one entry":
        x = torch.ones_like(x) * ((rows == 0) & (columns == 0))
    elif pattern == "corner":  # nilpotent, where it is square
        x = torch.ones_like(x) * ((rows == 0) & (columns == shape[-1] - 1))
    elif pattern == "one column":
        x = x * (columns == 0)
    x = (x / x.abs().amax()).to(dtype.to_real()) * (part * torch.finfo(dtype).max)
    return torch.complex(x, -x) if dtype.is_complex else x


def projected(m, x):
    try:
        return m.projx(x)
    except (errors.NonFiniteError, errors.OffManifoldError):
        return None


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("case", [c for c in ALL if c.retractions != ("own",)], ids=lambda c: c.name)
def test_a_projection_is_a_point_or_refused_by_name(case, pattern, generator):
    m = case.make(case.retractions[0])
    for dtype in (case.dtype, SINGLE[case.dtype]):
        for part in (1e-3, 0.3, 0.6, 0.95, 1.0):
            x = large((1, *case.shape)[-max(2, len(case.shape)) :], dtype, pattern, part, generator).view(case.shape)
            y = projected(m, x)
            if y is None:  # out of a cone whose points overflow, or of vectors that are 0
                assert case.cone or bool((x == 0).any())
                continue
            assert bool(y.isfinite().all())
            assert float(m.defect(y).max()) <= 100 * atol(dtype)
            size = float(y.abs().clamp(max=torch.finfo(dtype).max).max())  # of a region, inside of which it may be
            torch.testing.assert_close(m.projx(y), y, rtol=0, atol=100 * atol(dtype) * (1 + size))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_matrix_far_outside_is_projected_as_one_nearer(dtype, generator):
    kinds = [mr.UnitDisc(), mr.SpectralScaled(), mr.SpectralScaled("norm"), mr.Sphere((-2, -1)), mr.Oblique(-1)]
    kinds += [mr.Stiefel(), mr.Grassmann(), mr.Unitary() if dtype.is_complex else mr.Orthogonal()]
    for m in kinds:
        x = large((4, 4), dtype, "all", 1.0, generator)
        near = x / 2.0 ** (100 if dtype.to_real() == torch.float32 else 1000)
        torch.testing.assert_close(m.projx(x), m.projx(near), rtol=0, atol=20 * atol(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_radius_and_a_norm_scale_with_the_matrix_and_are_infinite_beyond_the_largest_number(dtype, generator):
    factor = 2.0 ** (100 if dtype.to_real() == torch.float32 else 1000)
    for measure in (linalg.spectral_radius, spectral_norm):
        for part in (1e-3, 0.1):
            x = large((4, 4), dtype, "all", part, generator)
            torch.testing.assert_close(measure(x), measure(x / factor) * factor, rtol=10 * atol(dtype), atol=0)
        corner = large((4, 4), dtype, "corner", 1.0, generator)
        found = float(measure(corner))
        if measure is linalg.spectral_radius:
            assert found == 0
        else:
            assert found == (torch.inf if dtype.is_complex else torch.finfo(dtype).max)
    x = large((4, 4), dtype, "all", 1.0, generator)
    torch.testing.assert_close(linalg.spectral_condition(x), linalg.spectral_condition(x / factor), rtol=1e-3, atol=0)
    slope, near = (
        torch.autograd.grad(linalg.spectral_radius(z), z)[0] for z in (y.requires_grad_() for y in (x, x / factor))
    )
    torch.testing.assert_close(slope, near, rtol=0, atol=100 * atol(dtype))


def test_a_polar_factor_does_not_depend_on_the_size(generator):
    for dtype in DTYPES:
        x = large((4, 3), dtype, "all", 1.0, generator)
        torch.testing.assert_close(linalg.polar(x), linalg.polar(x / 2.0**100), rtol=0, atol=20 * atol(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_fixed_spectrum_is_kept_or_refused_by_name(dtype, generator):
    kind = mr.FixedSpectrum()
    x = large((4, 3), dtype, "all", 0.1, generator)
    module = kind.trivialize(x)
    torch.testing.assert_close(module() / torch.finfo(dtype).max, x / torch.finfo(dtype).max, rtol=0, atol=atol(dtype))
    drawn = kind.random_like(x)
    torch.testing.assert_close(spectral_norm(drawn), spectral_norm(x), rtol=20 * atol(dtype), atol=0)
    beyond = large((4, 3), dtype, "one column", 1.0, generator)
    for call in (kind.trivialize, kind.random_like):
        with pytest.raises(errors.NonFiniteError, match="spectrum"):
            call(beyond)
    ordinary = kind.trivialize(x / torch.finfo(dtype).max)
    ordinary.assign_nearest(beyond)  # only the singular vectors of which count
    assert float(ordinary.defect()) < 20 * atol(dtype)
