"""What `robustness` answers to input that it cannot use."""

import math

import numpy as np
import pytest
import torch
from support.robustness_cases import B, C, Last, M, data, network, quick
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError

X, Y = data()
BAD = {
    "no pair": (lambda: quick(network(), X), OptionError, "pair of tensors"),
    "an empty dataset": (lambda: quick(network(), TensorDataset(X[:0], Y[:0])), OptionError, "Got other items"),
    "two lengths": (lambda: quick(network(), lengths(6, 5)), ShapeError, "equal length"),
    "two lengths in a batch": (
        lambda: quick(network(), lengths(6, 5, batch_size=2)),
        ShapeError,
        r"equal length.*Got \[6, 3\] at entry 0 and \[5, 3\]",
    ),
    "no module": (lambda: quick(3), OptionError, "torch module"),
    "time first": (lambda: quick(nn.RNN(M, C)), OptionError, "batch_first=True"),
    "no sequences": (lambda: quick(network(), (X[:0], Y[:0])), ShapeError, "at least one"),
    "a vector": (lambda: quick(network(), (X[:, 0, 0], Y)), ShapeError, "B, T"),
    "other lengths": (lambda: quick(network(), (X, Y[:3])), ShapeError, "as many targets"),
    "symbols": (lambda: quick(network(), (X.long(), Y)), DtypeError, "one-hot"),
    "NaN": (lambda: quick(network(), (X * math.nan, Y)), NonFiniteError, "of 720"),
    "a class too many": (lambda: quick(network(), (X, Y + C)), OptionError, "0 to 3"),
    "targets of another shape": (
        lambda: quick(network(), (X, torch.randn(B, C + 1))),
        ShapeError,
        "do not fit the targets",
    ),
    "no tensor": (lambda: quick(nn.Identity(), (X, Y)), ShapeError, "do not fit the targets"),
    "weights of NaN": (lambda: quick(spoiled(), (X, Y)), NonFiniteError, "are not"),
    "a loss of each sequence": (lambda: quick(network(), loss=lambda a, b: a.sum(-1)), ShapeError, "scalar"),
    "radii": (lambda: quick(network(), radii=(0.1, -0.1)), OptionError, "`radii`"),
    "one radius": (lambda: quick(network(), radii=0.1), OptionError, "`radii`"),
    "a radius beyond the dtype": (lambda: quick(network(), radii=(1e300,)), OptionError, "too large"),
    "one noise": (lambda: quick(network(), noise=0.1), OptionError, "`noise`"),
    "one norm": (lambda: quick(network(), norms=2), OptionError, "'inf' and '2'"),
    "one bound": (lambda: quick(network(), bounds=1), OptionError, "`bounds`"),
    "seed": (lambda: quick(network(), seed=1.5), OptionError, "`seed`"),
    "loss": (lambda: quick(network(), loss=3), OptionError, "`loss`"),
    "norms": (lambda: quick(network(), norms=("1",)), OptionError, "'inf' and '2'"),
    "noise": (lambda: quick(network(), noise=(math.nan,)), OptionError, "`noise`"),
    "steps": (lambda: quick(network(), steps=-1), OptionError, "`steps`"),
    "draws": (lambda: quick(network(), draws=0), OptionError, "`draws`"),
    "batch size": (lambda: quick(network(), batch_size=True), OptionError, "`batch_size`"),
    "weight radius": (lambda: quick(network(), weight_radius=math.inf), OptionError, "`weight_radius`"),
    "bounds": (lambda: quick(network(), bounds=(1, 0)), OptionError, "`bounds`"),
    "inputs out of bounds": (lambda: quick(network(), bounds=(0, 1)), OptionError, "within the range"),
}


def lengths(*steps, batch_size=1):
    return DataLoader([(torch.randn(k, M), torch.tensor(0)) for k in steps], batch_size)


def spoiled():
    module = network()
    nn.init.constant_(module.layer.weight_hh_l0, math.nan)
    return module


def normalized():
    layer = nn.RNN(M, 5, batch_first=True)
    nn.utils.parametrizations.spectral_norm(layer, "weight_hh_l0")
    return Last(layer, 5)


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, error, words = BAD[name]
    with pytest.raises(error, match=words):
        call()


class Handing(Last):
    """Hands its inputs on to a layer through a function, so many times."""

    def __init__(self, through, times=1):
        super().__init__(nn.RNN(M, 5, batch_first=True), 5)
        self.through, self.times = through, times

    def forward(self, x):
        return sum(super(Handing, self).forward(self.through(x)) for _ in range(self.times))


def test_the_bound_holds_only_for_inputs_that_reach_the_layer_unchanged_once():
    pair = (X.clamp(-1, 1), Y)
    assert quick(Handing(lambda x: x), pair).lipschitz is not None
    clamped = quick(Handing(lambda x: x.clamp(-1, 1)), pair)
    assert clamped.lipschitz is None and "transforms" in clamped.lipschitz_reason
    assert "more than once" in quick(Handing(lambda x: x, times=2), pair).lipschitz_reason


def projected():
    return Last(nn.LSTM(M, 6, batch_first=True, proj_size=3), 3)


def rotating():
    return Last(mr.nn.Layer(mr.nn.cells.Rotating(), M, 6, batch_first=True), 6)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize(
    ("made", "words"), [(normalized, "another tool"), (projected, "not square"), (rotating, "the input determines")]
)
def test_where_weights_cannot_be_perturbed_the_other_scores_stay(made, words):
    result = quick(made())
    assert result.weights == {} and words in result.weights_reason and words in result.table()
    assert len(result.noise) == 2 and len(result.attacks) == 4


def test_inputs_of_inference_mode_and_numbers_of_numpy_are_accepted():
    with torch.inference_mode():
        x = X.clone()
    assert quick(network(), (x, Y), radii=np.array([0.1])) == quick(network(), radii=(0.1,))


def test_radii_that_differ_little_have_bars_of_their_own_and_a_legend():
    result = quick(network(), radii=(0.1, 0.10000001), norms=("inf",))
    assert len(result.scores()["attack"]) == 4 and result.plot().get_legend() is not None
