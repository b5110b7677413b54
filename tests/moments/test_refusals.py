"""What moments refuse: the kind of error, and what it says."""

from typing import NamedTuple

import pytest
import torch
from support.moment_cases import data, system

import manifold_rnn as mr
from manifold_rnn import moments
from manifold_rnn.errors import DeviceError, DtypeError, NonFiniteError, OptionError, ShapeError, UnsupportedError
from manifold_rnn.moments.batches import Batches
from manifold_rnn.moments.conditions import Conditions
from manifold_rnn.moments.scores import GaussianScores

X0, X1, Y = data(system(0), 3_000)
EYE = torch.eye(4, dtype=torch.float64)


class Row(NamedTuple):
    kind: type
    message: str
    act: object


def spoiled(x, value=torch.nan):
    x = x.clone()
    x[7, 1] = value
    return x


def parallel_rows(count=20_000):
    net = system(0)
    net = net._replace(C=torch.stack([net.C[0], net.C[1], -2 * net.C[1]]))
    return data(net, count)


def dependent_directions():
    net = system(0)
    net = net._replace(A=torch.stack([net.A[0], net.A[1], net.A[1]]))
    return data(net, 20_000)


def nearly_dependent_directions():
    """The singular values of T are above the noise, but those of A that they determine are not."""
    x, y = mr.tasks.QuadraticSystem(seed=7).sample(200_000, generator=torch.Generator().manual_seed(207_000))
    return x[:, 0], x[:, 1], y


def another_cross_moment():
    x0, x1, y = data(system(0), 20_000)
    return x0, x1, y + x1[:, :1] * x0[:, 1:2] * x0[:, 2:3]


def once():
    yield X0, X1, Y


class Shrinking:
    """Gives fewer sequences with each pass."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        count = 3_000 - self.passes
        return iter([(X0[:count], X1[:count], Y[:count])])


def bad_score(x):
    return 1.3 * x


def second(x):
    return x[:, :, None] * x[:, None] - EYE


def correlated():
    x1 = 0.5 * X0 + 0.75**0.5 * X1
    return X0, x1, system(0).outputs(X0, x1)


ROWS = {
    "a list": Row(OptionError, "x0 must be a tensor.*list", lambda: moments.fit(X0.tolist(), X1, Y, 2)),
    "a vector": Row(ShapeError, r"\(N, k\).*\(3000,\)", lambda: moments.fit(X0, X1, Y[:, 0], 2)),
    "rows that do not fit": Row(ShapeError, r"\(2999, 4\)", lambda: moments.fit(X0, X1[1:], Y, 2)),
    "no rows": Row(ShapeError, r"\(0, 4\)", lambda: moments.fit(X0[:0], X1[:0], Y[:0], 2)),
    "integers": Row(DtypeError, "y, got torch.int64", lambda: moments.fit(X0, X1, Y.long(), 2)),
    "complex inputs": Row(DtypeError, "x1, got torch.complex128", lambda: moments.fit(X0, X1 + 0j, Y, 2)),
    "another device": Row(DeviceError, "cpu, got meta", lambda: moments.fit(X0, X1.to("meta"), Y, 2)),
    "NaN": Row(NonFiniteError, "x1, got 1 of", lambda: moments.fit(X0, spoiled(X1), Y, 2)),
    "infinity": Row(NonFiniteError, "y, got 1 of", lambda: moments.fit(X0, X1, spoiled(Y, torch.inf), 2)),
    "no units": Row(OptionError, "`hidden`.*got 0", lambda: moments.fit(X0, X1, Y, 0)),
    "half a unit": Row(OptionError, "`hidden`.*got 1.5", lambda: moments.fit(X0, X1, Y, 1.5)),
    "no draws": Row(OptionError, "`draws`.*got 0", lambda: moments.fit(X0, X1, Y, 2, draws=0)),
    "a negative seed": Row(OptionError, "`seed`.*got -1", lambda: moments.fit(X0, X1, Y, 2, seed=-1)),
    "an unknown density": Row(OptionError, "'uniform'", lambda: moments.fit(X0, X1, Y, 2, inputs="uniform")),
    "one score": Row(OptionError, "pair of score", lambda: moments.fit(X0, X1, Y, 2, inputs=(second,))),
    "more units than inputs": Row(OptionError, "at most 4, got 5", lambda: moments.fit(X0, X1, Y, 5)),
    "one output": Row(ShapeError, "k=1 for hidden=2", lambda: moments.fit(X0, X1, Y[:, :1], 2)),
    "too few sequences": Row(ShapeError, "14 unknown.*got 10", lambda: moments.fit(X0[:10], X1[:10], Y[:10], 2)),
    "outputs of noise": Row(UnsupportedError, "noise", lambda: moments.fit(X0, X1, torch.randn(3_000, 3).double())),
    "rank below n": Row(OptionError, "2 directions.*hidden=3", lambda: moments.fit(*dependent_directions(), 3)),
    "parallel rows of C": Row(UnsupportedError, "parallel", lambda: moments.fit(*parallel_rows(), 3)),
    "nearly dependent directions": Row(
        UnsupportedError, "nearly dependent", lambda: moments.fit(*nearly_dependent_directions(), 3)
    ),
    "outputs that no such network has": Row(
        UnsupportedError, "does not explain", lambda: moments.fit(*another_cross_moment(), 3)
    ),
    "an offset inside the square": Row(
        UnsupportedError, "offset inside the square", lambda: moments.fit(X0 + 1, X1 + 1, Y, 3)
    ),
    "constant inputs": Row(UnsupportedError, "vary", lambda: moments.fit(0 * X0 + 1, 0 * X1 + 1, Y, 2)),
    "inputs of another variance": Row(
        UnsupportedError, r"E\[S2.*Whiten", lambda: moments.fit(2 * X0, 2 * X1, Y, 2, inputs="standard")
    ),
    "inputs of another mean": Row(
        UnsupportedError, r"E\[S.*Whiten", lambda: moments.fit(X0 + 1, X1 + 1, Y, 2, inputs="standard")
    ),
    "uniform inputs": Row(
        UnsupportedError, "fourth.*density", lambda: moments.fit(X0.erf(), X1.erf(), Y, 2)
    ),
    "skewed inputs": Row(UnsupportedError, "' fails", lambda: moments.fit(X0.exp(), X1.exp(), Y, 2)),
    "inputs that depend on each other": Row(
        UnsupportedError, "uncorrelated", lambda: moments.fit(*correlated(), 2)
    ),
    "wrong scores": Row(
        UnsupportedError, r"E\[x1 S1", lambda: moments.fit(X0, X1, Y, 2, inputs=(bad_score, second))
    ),
    "a score of another shape": Row(
        ShapeError, "second score.*3000, 4, 4", lambda: moments.fit(X0, X1, Y, 2, inputs=(bad_score, bad_score))
    ),
    "a generator": Row(OptionError, "seven times.*generator", lambda: moments.fit_batches(once(), 2)),
    "no batch": Row(ShapeError, "got none", lambda: moments.fit_batches([], 2)),
    "a batch of two": Row(OptionError, "got 2 parts", lambda: moments.fit_batches([(X0, X1)], 2)),
    "batches of other sizes": Row(
        ShapeError, r"\(4, 3\).*got \(4, 2\)", lambda: moments.fit_batches([(X0, X1, Y), (X0, X1, Y[:, :2])], 2)
    ),
    "batches that change": Row(OptionError, "same sequences", lambda: moments.fit_batches(Shrinking(), 2)),
    "one step": Row(ShapeError, "at least two", lambda: moments.two_steps(X0[:, None], Y)),
    "symbols": Row(DtypeError, "Symbols", lambda: moments.two_steps(torch.zeros(3, 4, 2, dtype=torch.int8), Y[:3])),
    "targets of others": Row(ShapeError, r"\(2, 3\)", lambda: moments.two_steps(torch.zeros(3, 4, 2), Y[:2])),
    "complex targets": Row(DtypeError, "complex128", lambda: moments.two_steps(torch.zeros(3, 4, 2), Y[:3] + 0j)),
    "a negative class": Row(
        ShapeError, "from -1", lambda: moments.two_steps(torch.zeros(2, 4, 2), torch.tensor([-1, 0]))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_is_refused_by_its_kind_with_a_message_that_helps(name):
    row = ROWS[name]
    with pytest.raises(row.kind, match=f"(?s){row.message}") as caught:
        row.act()
    message = str(caught.value)
    assert type(caught.value) is row.kind and len(message) <= 400 and "tensor(" not in message
    assert message.endswith(".") and message.count("\n") >= 2, message


@pytest.mark.parametrize("estimated", [True, False])
@pytest.mark.parametrize("count", [50, 1_000])
def test_inputs_that_fit_are_not_refused(count, estimated):
    for seed in range(200):
        batches = Batches([data(system(0), count, seed)])
        known, conditions = batches.estimates(), Conditions()
        mean, covariance = (known.x_mean, known.x_covariance) if estimated else (torch.zeros(4).double(), EYE)
        scores = GaussianScores(mean, covariance, estimated=estimated)
        for x0, x1, _ in batches:
            conditions.add(scores.conditions(x0, x1))
        assert all(check.holds for check in conditions.checks().values())


def test_one_unit_needs_one_output():
    net = system(0, n=1, k=1)
    fit = moments.fit(*data(net, 20_000), hidden=1)
    assert float((fit.A @ net.A.T).abs()) > 0.99 and abs(float(fit.U.abs() - net.U.abs())) < 0.05


def test_directions_without_variance_are_left_out():
    x0, x1, y = data(system(0), 50_000)
    wide = [torch.cat([x, x[:, :1], 0 * x[:, :2] + 3], 1) for x in (x0, x1)]
    fit = moments.fit(*wide, y, 3)
    assert fit.A.shape == (3, 7) and not fit.A[:, 5:].abs().max() > 1e-6
    torch.testing.assert_close(fit.predict(*wide), moments.fit(x0, x1, y, 3).predict(x0, x1), atol=1e-3, rtol=1e-3)
    with pytest.raises(OptionError, match="vary in 4 directions"):
        moments.fit(*wide, y, 5)
