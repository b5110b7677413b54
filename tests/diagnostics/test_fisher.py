"""Fisher memory: the table of nnRNN's paper, closed forms, the law of its sum, and bad input."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import diagnostics
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError, UnsupportedError

EXACT = 1e-8  # closed forms in double precision, as the project promises
# (alpha, beta, d) of a lower triangular matrix of size 100: sum of the first 150 values, in arithmetic of 400 bits
TABLE = {
    (0.95, 0, 0): 3.0327,
    (1.00, 0, 0): 5.1874,
    (1.05, 0, 0): 12.0873,
    (0.95, 0.005, 0): 3.1758,
    (1.00, 0.005, 0): 5.3014,
    (1.05, 0.005, 0): 12.0865,
    (0.95, 0, 0.2): 11.939,
    (1.00, 0, 0.2): 16.298,
    (1.05, 0, 0.2): 20.835,
    (0.95, 0.005, 0.2): 12.089,
    (1.00, 0.005, 0.2): 16.390,
    (1.05, 0.005, 0.2): 20.882,
}


def lower_triangular(alpha, beta, d, n=100):
    ones = torch.ones(n, n, dtype=torch.float64)
    return d * torch.eye(n, dtype=torch.float64) + alpha * ones[1:, 1].diag(-1) + beta * ones.tril(-2)


def first(n):
    return torch.eye(n, dtype=torch.float64)[0]


@pytest.mark.parametrize(("parameters", "total"), TABLE.items(), ids=str)
def test_the_table_of_lower_triangular_matrices(parameters, total):
    found = diagnostics.fisher_memory(lower_triangular(*parameters), first(100), steps=150)
    assert len(found.curve) == 150 and sum(found.curve) == pytest.approx(total, abs=6e-4)
    assert found.total == pytest.approx(sum(found.curve), abs=3e-3)
    assert found.total <= found.best_total * (1 + 1e-12) <= found.bound == 100


@pytest.mark.parametrize("alpha", [0.9, 1.0, 1.02, 1.05])
def test_the_curve_of_a_chain(alpha):
    found = diagnostics.fisher_memory(lower_triangular(alpha, 0, 0), first(100), steps=103)
    sums = torch.tensor([alpha ** (2 * j) for j in range(100)], dtype=torch.float64).cumsum(0).tolist()
    expected = [alpha ** (2 * k) / sums[k] for k in range(100)] + [0.0] * 3
    assert found.curve == pytest.approx(expected, abs=EXACT)
    assert found.total == pytest.approx(sum(expected), abs=EXACT)
    backwards = diagnostics.fisher_memory(lower_triangular(alpha, 0, 0).mT, first(100))
    assert backwards.total < 1 and backwards.curve[0] == pytest.approx(backwards.total, abs=EXACT)


@pytest.mark.parametrize(("beta", "total"), [(0.01, 4.458), (0.04, 5.346), (0.07, 6.807)])
def test_feedback_chains(beta, total):
    W = lower_triangular(0.99, 0, 0) + beta * torch.ones(99, dtype=torch.float64).diag(1)
    assert diagnostics.fisher_memory(W, first(100)).total == pytest.approx(total, abs=6e-4)


@pytest.mark.parametrize("scale", [0.3, 0.9, 0.99])
def test_normal_matrices_have_one_in_every_direction(scale, generator):
    Q = mr.linalg.qr(torch.randn(30, 30, dtype=torch.float64, generator=generator))[0]
    v = torch.randn(30, 4, dtype=torch.float64, generator=generator)
    found = diagnostics.fisher_memory(scale * Q, v)
    assert found.totals == pytest.approx([1] * 4, abs=EXACT) and found.best_total == pytest.approx(1, abs=EXACT)
    assert found.curve[:3] == pytest.approx([(1 - scale**2) * scale ** (2 * k) for k in range(3)], abs=EXACT)
    assert found.noise == pytest.approx(1 / (1 - scale**2), rel=EXACT)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("n", [1, 2, 10, 60])
def test_the_totals_of_the_units_add_up_to_their_number(n, dtype, generator):
    for strength in (0.0, 1.0, 5.0):
        W = torch.randn(n, n, dtype=dtype, generator=generator)
        W = 0.95 * W / mr.linalg.spectral_radius(W) + strength / n * torch.ones(n, n, dtype=dtype).triu(1)
        W = 0.95 * W / mr.linalg.spectral_radius(W)
        found = diagnostics.fisher_memory(W)
        assert sum(found.totals) == pytest.approx(n, rel=EXACT)
        assert max(found.totals) <= found.best_total * (1 + 1e-12) <= n * (1 + 1e-11)
        best = diagnostics.fisher_memory(W, torch.tensor(found.best_direction, dtype=dtype))
        assert best.total == pytest.approx(found.best_total, rel=EXACT)
        assert sum(best.curve) == pytest.approx(best.total, rel=2e-6)


def test_a_complex_matrix_and_its_real_form_have_the_same_memory(generator):
    U = torch.randn(6, 6, dtype=torch.complex128, generator=generator)
    U, v = 0.9 * U / mr.linalg.spectral_radius(U), torch.randn(6, dtype=torch.complex128, generator=generator)
    real = torch.cat([torch.cat([U.real, -U.imag], 1), torch.cat([U.imag, U.real], 1)])
    one, two = diagnostics.fisher_memory(U, v), diagnostics.fisher_memory(real, torch.cat([v.real, v.imag]))
    assert one.curve == pytest.approx(two.curve, rel=EXACT) and one.best_total == pytest.approx(two.best_total)


def test_the_length_of_a_direction_does_not_matter_at_any_scale():
    W = lower_triangular(1.0, 0, 0, 10)
    for scale in (1e-300, 1e300):
        assert diagnostics.fisher_memory(W, scale * first(10)).total == pytest.approx(
            diagnostics.fisher_memory(W).totals[0]
        )


def test_the_zero_matrix_remembers_the_last_input_only():
    found = diagnostics.fisher_memory(torch.zeros(3, 3))
    assert found.curve == pytest.approx((1.0,)) and found.totals == pytest.approx((1.0,) * 3)
    assert found.noise == pytest.approx(1)


@pytest.mark.parametrize("W", [torch.eye(3), 1.5 * torch.eye(3), torch.tensor([[1.0, 1.0], [0.0, 1.0]])])
def test_noise_that_accumulates_without_bound_is_answered_by_name(W):
    answers = []
    for function in (diagnostics.fisher_memory, diagnostics.signal_to_noise):
        with pytest.raises(OptionError, match=r"Expected a spectral radius below 1\. Got 1") as caught:
            function(W, torch.eye(len(W))[0])
        answers.append(str(caught.value).replace(function.__name__, ""))
    assert answers[0] == answers[1]


def test_a_layer_has_the_columns_of_its_input_matrix_as_directions():
    network = mr.zoo.nonnormal(3, 12, 2)
    weights = network.layer.weights("_l0")
    found = diagnostics.fisher_memory(network)
    assert found == replace(diagnostics.fisher_memory(weights["weight_hh"], weights["weight_ih"]), matrix="W_hh")
    lstm = nn.LSTM(3, 5)
    candidate = diagnostics.fisher_memory(lstm.weight_hh_l0[10:15], lstm.weight_ih_l0[10:15])
    assert diagnostics.fisher_memory(lstm).totals == pytest.approx(candidate.totals)
    gru = nn.GRU(3, 5)
    candidate = diagnostics.fisher_memory(gru.weight_hh_l0[10:], gru.weight_ih_l0[10:])
    assert diagnostics.fisher_memory(gru).totals == pytest.approx(candidate.totals)


BAD = {
    "length": (torch.ones(4), ShapeError, r"input directions of 3 entries.*\n.*got \(4,\)"),
    "shape": (torch.ones(3, 2, 2), ShapeError, "input directions"),
    "empty": (torch.ones(3, 0), ShapeError, "input directions"),
    "complex": (torch.ones(3, dtype=torch.complex64), DtypeError, "real directions for a real matrix"),
    "sparse": (torch.ones(3).to_sparse(), UnsupportedError, r"Got torch.sparse_coo.*\n.*to_dense"),
    "no data": (torch.ones(3, device="meta"), UnsupportedError, "Got a tensor on the meta device"),
    "zero": (torch.zeros(3), NonFiniteError, "0 entries that are not finite, 1 columns of 0"),
    "NaN": (torch.tensor([1.0, torch.nan, 0]), NonFiniteError, "1 entries that are not finite"),
}


@pytest.mark.parametrize(("v", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_directions_are_answered_by_name(v, kind, words):
    with pytest.raises(kind, match=words):
        diagnostics.fisher_memory(0.5 * torch.eye(3), v)


def test_directions_are_a_tensor():
    with pytest.raises(OptionError, match="a Tensor; got list"):
        diagnostics.fisher_memory(0.5 * torch.eye(3), [1, 0, 0])


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_at_least_one(steps):
    with pytest.raises(OptionError, match="steps of at least 1"):
        diagnostics.fisher_memory(0.5 * torch.eye(3), steps=steps)


def test_powers_that_overflow_are_answered_by_name():
    with pytest.raises(NonFiniteError, match="powers that overflow"):
        diagnostics.fisher_memory(lower_triangular(1e10, 0, 0))


def test_table_and_picture():
    found = diagnostics.fisher_memory(lower_triangular(1.0, 0, 0, 10), first(10))
    table = found.table()
    assert table.isascii() and len(table.splitlines()) == 5 and "1 input directions" in table
    pytest.importorskip("matplotlib")
    axes = found.plot()
    assert list(axes.lines[0].get_ydata()) == list(found.curve) and axes.get_xlabel() == "steps since the input"


def test_the_power_of_huge_weights_is_a_number():
    W, head = 1e150 * torch.ones(2, dtype=torch.float64).diag(-1), torch.eye(3, dtype=torch.float64)[0]
    assert diagnostics.signal_to_noise(W, head, delays=0).power == pytest.approx(1.0)  # 1e600 / 1e600
