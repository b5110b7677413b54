"""Properties of the functions of matrices, against their definitions in double precision."""

import torch
from hypothesis import strategies as st
from support import naive
from support.properties import law, matrices, skews
from support.tolerances import atol

from manifold_rnn import errors, linalg, retractions


def slack(x):
    return atol(x.dtype) * (100 if x.dtype in (torch.float64, torch.complex128) else 1)


def close(got, expected, atol):
    torch.testing.assert_close(naive.wide(got), expected, atol=atol, rtol=0)


@law(drawn=skews(), name=st.sampled_from(naive.MAPS))
def test_every_map_of_a_skew_matrix_is_its_definition(drawn, name):
    _, A = drawn
    exact = naive.wide(A)
    largest = float(exact.abs().max())
    W = retractions.get(name).group_map(A)
    assert float(linalg.defect(naive.wide(W))) <= slack(A)
    # in double the exponential loses as many digits as the angle has; in single it is computed in double
    units = 1 if A.dtype in (torch.float32, torch.complex64) else 1 + largest
    close(W, naive.group_map(name, exact), max(slack(A), 1e2 * atol(torch.float64) * (1 + largest)) * min(units, 1e3))
    close(retractions.get(name).group_map(-A) @ W if name != "qr" else W.mH @ W, naive.eye(exact), 4 * slack(A))


@law(drawn=skews(), name=st.sampled_from(naive.MAPS))
def test_gradients_of_every_map_are_finite_and_those_of_double_precision(drawn, name):
    kind, A = drawn
    if kind == "very long":
        return
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(A.shape, dtype=naive.wide(A).dtype, generator=generator)
    slopes = []
    for x in (A, naive.wide(A)):
        x = x.clone().requires_grad_()
        slopes.append(torch.autograd.grad(retractions.get(name).group_map(x), x, g.to(x.dtype))[0])
    largest = 1 + float(A.abs().max())
    assert bool(slopes[0].isfinite().all())
    close(slopes[0], slopes[1], 20 * slack(A) * min(largest, 1e3))


@law(drawn=skews(), name=st.sampled_from(naive.MAPS))
def test_the_inverse_of_every_map_leads_back_or_is_refused(drawn, name):
    _, A = drawn
    Q = linalg.polish(linalg.expm_skew(A))
    gap = float(torch.linalg.svdvals(naive.wide(Q) + naive.eye(naive.wide(Q))).min())
    try:
        found = retractions.get(name).inverse_group_map(Q)
    except errors.OffManifoldError:
        assert gap < 1.99  # an eigenvalue has left the neighbourhood of 1
        return
    assert torch.equal(found, -found.mH) or float((found + found.mH).abs().max()) <= slack(A) * float(found.abs().max())
    W = retractions.get(name).group_map(found)
    assert float((W - Q).abs().max()) <= slack(A) * (1 + float(found.abs().max())) ** 2 * (10 + 1 / gap)


@law(drawn=matrices())
def test_factors_of_any_matrix_are_orthonormal(drawn):
    kind, x = drawn
    if float(x.abs().max()) < 1e-30 and kind != "zero":
        return
    for factor in (linalg.polar(x), linalg.qr(x)[0]):
        assert float(linalg.defect(naive.wide(factor))) <= 5 * slack(x)
    if kind in ("any", "one", "tied", "opposite", "spread"):
        s = torch.linalg.svdvals(naive.wide(x))
        condition = float(s.max() / s.min()) if float(s.min()) > 0 else float("inf")
        if condition < 1e3:
            close(linalg.polar(x), naive.polar(naive.wide(x)), slack(x) * condition)
            Q, R = linalg.qr(x)
            close(Q @ R, naive.wide(x), slack(x) * float(x.abs().max()))


@law(drawn=matrices(), bound=st.sampled_from([0.5, 1.0, 2.0]))
def test_clipped_singular_values_are_those_of_the_definition(drawn, bound):
    _, x = drawn
    wide = naive.wide(x)
    U, s, Vh = torch.linalg.svd(wide, full_matrices=False)
    expected = U * s.clamp(max=bound) @ Vh
    y = linalg.clip_singular_values(x, bound)
    assert float(torch.linalg.matrix_norm(naive.wide(y), 2)) <= bound * (1 + slack(x))
    if float(s.max()) < 1e4:
        close(y, expected, slack(x) * (1 + float(s.max())))


@law(drawn=matrices(tall=False, double=True))
def test_the_spectral_radius_is_that_of_the_eigenvalues(drawn):
    _, x = drawn
    n, size = x.shape[-1], float(torch.linalg.matrix_norm(x, 2))
    got, expected = float(linalg.spectral_radius(x)), float(naive.spectral_radius(x))
    # a defective eigenvalue moves by the n-th root of the rounding
    assert abs(got - expected) <= 10 * size * (1e-15) ** (1 / n) and got <= size * (1 + 1e-6)


@law(drawn=skews())
def test_packing_is_an_isometry_that_loses_nothing(drawn):
    _, A = drawn
    c = linalg.pack_skew(A)
    scale = float(A.abs().max()) or 1.0
    close(linalg.unpack_skew(c, A.dtype), naive.wide(A), atol(A.dtype) * scale)
    expected = torch.linalg.matrix_norm(naive.wide(A))
    assert abs(float(torch.linalg.vector_norm(c.double()) - expected)) <= atol(A.dtype) * scale * 10
