"""The weights of a quadratic network from its data: closed forms, laws of the estimates, and their accuracy."""

import math

import pytest
import torch
from support.moment_cases import System, data, errors, matched, system
from support.seeds import seeded
from torch.utils.data import DataLoader, TensorDataset

from manifold_rnn import moments
from manifold_rnn.moments.batches import Batches
from manifold_rnn.moments.decomposition import Moment, decompose, rebuilt, recurrent_weights, subspace
from manifold_rnn.moments.estimation import second_moment
from manifold_rnn.moments.scores import GaussianScores

SEEDS = range(4)


def exact(T):
    return Moment(T, 1e-9 * torch.ones_like(T))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n", "k"), [(1, 1), (2, 2), (3, 3), (5, 2), (6, 9)])
def test_exact_moments_give_the_weights_back(seed, n, k):
    net = system(seed, m=n, n=n, k=k)
    T = 2 * torch.einsum("rk,ri,rj->kij", net.C, net.A, net.A)
    D = 4 * torch.einsum("rs,rk,ri,sj,sl->kijl", net.U, net.C, net.A, net.A, net.A)
    parts = decompose(exact(T), 20, seeded())
    U, _, D_again = recurrent_weights(exact(D), parts)
    torch.testing.assert_close(rebuilt(*parts), T, atol=1e-7, rtol=1e-7)
    torch.testing.assert_close(D_again, D, atol=1e-6, rtol=1e-6)
    found = matched(System(parts.directions, U, parts.C), net) if n < 6 else None
    if found is not None:
        torch.testing.assert_close(list(found), list(net), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_200_000_sequences_give_the_weights_to_a_few_percent(seed):
    net = system(seed)
    fit = moments.fit(*data(net, 200_000, seed), hidden=3)
    measured = errors(fit, net, seed)
    assert measured.cosine > 0.998 and measured.U < 0.15 and measured.r2 > 0.997, measured
    assert all(check.holds for check in fit.checks.values())


def slope(sizes, seeds):
    """Of the mean logarithm of the error in U over log N."""
    logs = []
    for count in sizes:
        found = [errors(moments.fit(*data(system(s), count, s), hidden=3, strict=False), system(s)).U for s in seeds]
        logs.append(sum(map(math.log, found)) / len(found))
    x = torch.tensor(sizes, dtype=torch.float64).log()
    x, y = x - x.mean(), torch.tensor(logs, dtype=torch.float64)
    return float((x * y).sum() / x.square().sum())


@pytest.mark.slow
def test_errors_decrease_with_the_root_of_the_number_of_sequences():
    assert abs(slope([20_000, 60_000, 200_000, 600_000], range(12)) + 0.5) < 0.15


def test_the_number_of_units_is_found_and_can_be_left_out():
    net = system(0)
    batch = data(net, 50_000)
    assert moments.fit(*batch).A.shape == (3, 4)
    assert moments.fit(*batch, hidden=2).A.shape == (2, 4)


@pytest.mark.parametrize("seed", range(2))
def test_the_density_of_the_inputs_may_have_any_mean_and_covariance(seed):
    """An affine map of the inputs is undone in A; the mean acts as a bias, which the model does not have."""
    net, g = system(seed), seeded(seed)
    B = torch.eye(4, dtype=torch.float64) + 0.3 * torch.randn(4, 4, generator=g, dtype=torch.float64)
    mean = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64)
    z0, z1, _ = data(net, 200_000, seed)
    x0, x1 = z0 @ B.T + mean, z1 @ B.T + mean
    fit = moments.fit(x0, x1, net.outputs(x0, x1), hidden=3)
    A, U, C = matched(fit, net)
    scale = A.norm(dim=1) / net.A.norm(dim=1)
    assert ((A * net.A).sum(1) / A.norm(dim=1) > 0.99).all()
    torch.testing.assert_close((A @ B).norm(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-2, rtol=0)
    torch.testing.assert_close(U / scale[:, None] * scale.square(), net.U, atol=0.05, rtol=0.3)
    torch.testing.assert_close(C * scale[:, None] ** 2, net.C, atol=0.15, rtol=0.1)


def test_a_state_before_the_pair_is_noise():
    net = system(0)
    x0, x1, _ = data(net, 200_000)
    before = torch.randn(200_000, 3, generator=seeded(9), dtype=torch.float64).square() @ net.U.T
    fit = moments.fit(x0, x1, net.outputs(x0, x1, before), hidden=3)
    assert errors(fit, net).cosine > 0.998 and errors(fit, net).U < 0.15


def test_given_scores_of_a_gaussian_are_those_of_standard_inputs():
    batch = data(system(1), 20_000)
    eye = torch.eye(4, dtype=torch.float64)
    scores = (lambda x: x, lambda x: x[:, :, None] * x[:, None] - eye)
    given, standard = (moments.fit(*batch, 3, inputs=inputs, strict=False) for inputs in (scores, "standard"))
    for name in ("A", "U", "C", "offset"):
        torch.testing.assert_close(getattr(given, name), getattr(standard, name), atol=1e-8, rtol=1e-8)


def logistic_scores(x):
    """Of independent logistic variables: S1 = tanh(x/2), S2 = S1^2 - p'' and so on, in closed form."""
    t = torch.tanh(x / 2)
    second = t[:, :, None] * t[:, None]
    return t, second + torch.diag_embed((t.square() - 1) / 2)


def test_scores_of_another_density_find_what_gaussian_ones_refuse():
    net, u = system(0), torch.rand(2, 40_000, 4, generator=seeded(3), dtype=torch.float64)
    x0, x1 = (u / (1 - u)).log()
    y = net.outputs(x0, x1)
    scores = (lambda x: logistic_scores(x)[0], lambda x: logistic_scores(x)[1])
    fit = moments.fit(x0, x1, y, 3, inputs=scores)
    assert errors(fit, net).cosine > 0.99
    gaussian = moments.fit(x0, x1, y, 3, strict=False)
    assert errors(gaussian, net).U > 5 * errors(fit, net).U
    assert not gaussian.checks["fourth moments"].holds


def test_batches_of_any_size_and_order_give_the_same(generator):
    x0, x1, y = data(system(2), 4_000)
    whole = moments.fit(x0, x1, y, 3)
    loader = DataLoader(TensorDataset(x0, x1, y), 333, shuffle=True, generator=generator)
    for batches in (loader, [(x0[:1], x1[:1], y[:1]), (x0[1:], x1[1:], y[1:])]):
        streamed = moments.fit_batches(batches, 3)
        for name in ("A", "U", "C", "offset", "U_error_given_AC", "mean", "singular_values"):
            torch.testing.assert_close(getattr(streamed, name), getattr(whole, name), atol=1e-8, rtol=1e-7)
        assert streamed.count == whole.count and math.isclose(streamed.r2, whole.r2, abs_tol=1e-10)


def test_sums_are_as_exact_as_of_all_data_at_once():
    """The naive moments, with all products of all sequences in memory."""
    x0, x1, y = data(system(3), 5_000)
    x = torch.cat([x0, x1])
    mean, covariance = x.mean(0), torch.cov(x.T, correction=0)
    L = torch.linalg.cholesky(torch.linalg.inv(covariance))
    z = (x1 - mean) @ L
    T = torch.einsum("nk,nij->kij", y - y.mean(0), z[:, :, None] * z[:, None] - torch.eye(4)) / len(y)
    values = torch.linalg.svdvals(T.permute(1, 0, 2).reshape(4, -1))  # a rotation of z changes none of them
    batches = Batches([(x0, x1, y)])
    known = batches.estimates()
    scores = GaussianScores(known.x_mean, known.x_covariance, estimated=True)
    span = subspace(second_moment(batches, scores, known), 1)
    torch.testing.assert_close(span.singular_values, values, atol=1e-10, rtol=1e-9)


def test_shifts_of_the_outputs_are_the_offset_alone():
    x0, x1, y = data(system(0), 20_000)
    one, other = moments.fit(x0, x1, y, 3), moments.fit(x0, x1, y + 1e3, 3)
    torch.testing.assert_close(other.offset - one.offset, torch.full((3,), 1e3, dtype=torch.float64))
    torch.testing.assert_close(other.U, one.U, atol=1e-6, rtol=1e-6)


def test_weights_come_in_one_order_and_sign_and_in_the_dtype_of_the_data():
    x0, x1, y = data(system(0), 20_000)
    fit = moments.fit(x0, x1, y, 3)
    again, single = moments.fit(x0, x1, y, 3, seed=5), moments.fit(x0.float(), x1.float(), y.float(), 3)
    norms = fit.C.norm(dim=1)
    assert (norms[:-1] >= norms[1:]).all()
    assert (fit.A.gather(1, fit.A.abs().argmax(1, keepdim=True)) > 0).all()
    torch.testing.assert_close(again.U, fit.U, atol=1e-5, rtol=1e-4)
    assert single.U.dtype == single.predict(x0.float(), x1.float()).dtype == torch.float32
    torch.testing.assert_close(single.U.double(), fit.U, atol=1e-4, rtol=1e-3)


def test_standard_errors_are_those_of_repeated_samples():
    fits = [moments.fit(*data(system(0), 10_000, s), hidden=3) for s in range(10)]
    off = torch.stack([matched(fit, system(0)).U - system(0).U for fit in fits]).square().mean().sqrt()
    stated = torch.stack([fit.U_error_given_AC for fit in fits]).square().mean().sqrt()
    assert 0.5 < off / stated < 2.5


def test_the_generator_of_torch_and_the_inputs_are_left_alone():
    batch = data(system(0), 5_000)
    before, copies = torch.get_rng_state(), [part.clone() for part in batch]
    with torch.inference_mode():
        moments.fit(*batch, 2)
    assert torch.equal(torch.get_rng_state(), before) and all(map(torch.equal, batch, copies))


def test_the_table_says_what_was_checked():
    table = moments.fit(*data(system(0), 20_000), hidden=3).table()
    for part in (
        "20,000",
        "of 4 inputs, 3 outputs",
        "noise alone",
        "residual of T",
        "U given A and C",
        "R2",
        "fourth moments",
    ):
        assert part in table
    x0, x1, y = data(system(0), 20_000)
    assert "fails, the limit" in moments.fit(x0.pow(3), x1.pow(3), y, strict=False).table()


def test_sequences_give_the_pairs_before_their_targets():
    x, y = torch.randn(6, 5, 2), torch.randn(6, 5, 3)
    x0, x1, last = moments.two_steps(x, y[:, 0])
    assert torch.equal(x0, x[:, 3]) and torch.equal(x1, x[:, 4]) and torch.equal(last, y[:, 0])
    x0, x1, every = moments.two_steps(x, y)
    assert torch.equal(x0[:4], x[0, :4]) and torch.equal(x1[:4], x[0, 1:]) and torch.equal(every[:4], y[0, 1:])
    classes = moments.two_steps(x, torch.tensor([0, 2, 1, 0, 0, 2]))[2]
    assert classes.shape == (6, 3) and torch.equal(classes.argmax(1), torch.tensor([0, 2, 1, 0, 0, 2]))
    assert moments.two_steps(x, torch.zeros(6, 5, dtype=torch.int64))[2].shape == (24, 1)
    assert moments.two_steps(x, torch.zeros(6))[2].shape == (6, 1)
