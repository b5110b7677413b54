"""Coverage of states that are written by hand, its laws, and every way to give it cases."""

import pytest
import torch
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import Feature, coverage
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError

METRICS = ("boundary", "change", "temporal", "NC", "KMNC", "NBC", "SNAC")
KNOWN = [[0.0, 1.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]]


def states(*sums):
    """Hand-made states of two units (B, T, 2) with these sums: the second unit is always 0.5."""
    first = torch.tensor(sums, dtype=torch.float64) - 0.5
    return torch.stack([first, torch.full_like(first, 0.5)], -1)


def same(x):
    return x


def measured(cases, known=KNOWN, **options):
    return coverage(same, states(*known), states(*cases), **{"pieces": 2, **options})


def layers():
    torch.manual_seed(0)
    return {
        "ours": mr.nn.LSTM(2, 6, batch_first=True),
        "complex": mr.nn.RNN(2, 6, batch_first=True, dtype=torch.complex64, constraint=mr.Unitary()),
        "gru": mr.nn.GRU(2, 6, batch_first=True, num_layers=2, bidirectional=True),
        "torch": nn.LSTM(2, 6, batch_first=True, num_layers=2, dropout=0.5),
        "network": mr.zoo.exprnn(2, 6, 3),
        "sequential": nn.Sequential(nn.Linear(2, 3), nn.RNN(3, 6, batch_first=True)),
    }


def test_hand_made_states_give_exactly_these_features():
    # |S| from 0 to 4, so reached from 3.2; changes from 0 to 2, so reached from 1.2; -4 counts as 4, -2 to 2 as 4
    found = measured([[3.2, 0.0, 1.2, 0.1], [0.0, -2.0, 2.0, -4.0]])
    assert found.reached["boundary"] == (0, 3) and found.boundary == 0.5
    assert found.reached["change"] == (0, 1, 2, 3) and found.change == 1
    found = measured([[0.0, 1.1, 0.0, 1.2]])
    assert found.reached["change"] == (3,) and found.boundary == 0 and found.cases == 1
    assert [str(f) for f in found.unreached if f.metric != "temporal"] == [
        *(f"boundary {t}" for t in range(4)),
        *(f"change {t}" for t in range(3)),
    ]


def test_the_words_of_hand_made_states_are_those_of_the_known_mean_and_deviation():
    # mean 7/8 and variance 119/64 of the known sums: a below 0.288, c from 1.463 on
    assert measured([[0.0, 0.5, 1.0, 2.0]]).words == ("ac",)
    assert measured([[0.0, 0.5, 1.0, 1.9]]).words == ("ab",)
    both = measured([[0.0, 0.5, 1.0, 2.0], [3.0, 3.0, 0.6, 0.6]])
    assert both.words == ("ac", "cb") and both.temporal == 2 / 9
    # a shift of a whole case changes its word: it is not normalized by itself
    assert measured([[5.0, 5.5, 6.0, 7.0]]).words == ("cc",)


def test_a_step_at_the_border_of_two_pieces_counts_for_both():
    scale = measured([[0.0] * 4], pieces=3).calibration
    levels = scale.levels(states([3.0, 6.0, 9.0, 12.0])) * scale.deviation + scale.mean
    assert torch.allclose(levels, torch.tensor([[3.75, 7.5, 11.25]], dtype=torch.float64), atol=atol(torch.float64))


def test_the_metrics_of_single_units_are_counted_by_hand():
    found = measured([[-0.4, 0.5, 1.3, 1.5]])  # the first unit is -0.9, 0, 0.8, 1.0, the second 0.5
    assert found.reached["NC"] == (0, 1) and found.neuron["SNAC"] == 0.5 and found.neuron["NBC"] == 0.5
    assert found.reached["KMNC"] == (0, 5, 9, 17) and found.neuron["KMNC"] == 0.2


def test_a_window_leaves_out_the_other_steps_but_not_the_sum_before_it():
    found = measured([[9.0, 0.0, 1.2, 0.0]], window=(2, 3))
    assert found.calibration.steps == 2 and found.calibration.boundary_range == (0.0, 4.0)
    assert found.calibration.change_range == (0.0, 2.0)
    assert found.reached["change"] == (0, 1) and found.unreached[0] == Feature("boundary", 2)


@pytest.mark.parametrize("kind", layers())
def test_a_threshold_of_0_is_always_reached_and_one_above_1_never(kind):
    layer, x = layers()[kind], torch.randn(20, 7, 2)
    low = coverage(layer, x[:10], 0.1 * x[10:], boundary=0, change=0)
    high = coverage(layer, x[:10], 9 * x[10:], boundary=1.01, change=1.01)
    assert low.boundary == low.change == 1 and high.boundary == high.change == 0


@pytest.mark.parametrize("kind", layers())
def test_coverage_grows_with_the_cases_and_does_not_depend_on_their_batches(kind):
    layer, x = layers()[kind], torch.randn(60, 7, 2)
    parts = coverage(layer, x, x.split(7))
    assert parts.history["cases"] == (7, 14, 21, 28, 35, 42, 49, 56, 60)
    for metric in METRICS:
        values = parts.history[metric]
        assert list(values) == sorted(values) and values[0] >= 0 and values[-1] == parts.by_metric[metric] <= 1
    whole = coverage(layer, [(part, None) for part in x.split(11)], x)
    assert whole.by_metric == parts.by_metric and whole.words == parts.words


@pytest.mark.parametrize("kind", layers())
def test_equal_inputs_give_one_word(kind):
    layer, x = layers()[kind], torch.randn(1, 7, 2)
    found = coverage(layer, torch.randn(9, 7, 2), x.expand(50, 7, 2))
    assert len(found.words) == 1 and found.temporal == 1 / 243


def test_layers_with_time_first_and_a_network_around_torchs_layer_have_the_same_coverage():
    x = torch.randn(30, 7, 2)
    torch.manual_seed(0)
    ours = mr.nn.LSTM(2, 6)
    theirs, first = nn.LSTM(2, 6), nn.LSTM(2, 6, batch_first=True)
    for other in (theirs, first):
        other.load_state_dict(ours.state_dict())
    expected = coverage(first, x, x[:9])
    for layer in (ours, theirs):
        assert coverage(layer, x.transpose(0, 1), x[:9].transpose(0, 1)).reached == expected.reached
    network = mr.zoo.Network(mr.nn.LSTM(2, 6, batch_first=True), 3)
    network.layer.load_state_dict(ours.state_dict())
    assert coverage(network, x, x[:9]).reached == expected.reached


def test_complex_states_count_by_modulus():
    h = torch.randn(5, 6, 3, dtype=torch.complex128)
    assert coverage(same, h.real, h.real).cases == 5
    assert coverage(same, h, h).reached == coverage(same, h.abs(), h.abs()).reached


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("package", ["ours", "initial state", "complex", "torch", "torch with projection"])
def test_forget_gates_are_those_of_the_recurrence(package):
    torch.manual_seed(1)
    x = torch.randn(4, 5, 2)
    if "torch" in package:
        layer = nn.LSTM(2, 6, batch_first=True, proj_size=3 if "projection" in package else 0)
    else:
        dtype = torch.complex64 if package == "complex" else None
        layer = mr.nn.LSTM(2, 6, batch_first=True, dtype=dtype, train_initial_state=package == "initial state")
        if package == "initial state":
            nn.init.normal_(layer.initial_state_l0)
    weights = {name: p.detach() for name, p in layer.named_parameters()}
    with torch.no_grad():
        h = layer(x)[0]
    first = weights.get("initial_state_l0", torch.zeros(h.shape[-1])).to(h.dtype).expand(4, -1)
    inside = [first, *h[:, :-1].unbind(1)]
    xs, W, V = x.to(h.dtype), weights["weight_hh_l0"], weights["weight_ih_l0"]
    b = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    gates = [torch.sigmoid((xs[:, t] @ V.T + inside[t] @ W.T + b)[:, 6:12].real) for t in range(5)]
    expected = torch.stack(gates, 1)
    found = coverage(layer, x, x, signal="forget")
    assert found.reached == coverage(same, expected, expected).reached
    assert found.calibration.mean == pytest.approx(expected.sum(-1).mean().item(), abs=1e-5)
    network = nn.Sequential(layer)
    assert coverage(network, x, x, signal="forget").reached == found.reached


def test_a_signal_may_be_a_function_of_the_states():
    x = torch.randn(9, 6, 2)
    found = coverage(same, x, x, signal=lambda h: h[..., :1] ** 2)
    assert found.reached == coverage(same, x[..., :1] ** 2, x[..., :1] ** 2).reached and found.calibration.units == 1


@pytest.mark.parametrize("mode", [True, False])
def test_nothing_of_a_module_changes(mode):
    layer = layers()["torch"].train(mode)
    layer.weight_hh_l0.grad = torch.ones_like(layer.weight_hh_l0)
    before = {name: p.clone() for name, p in layer.state_dict().items()}
    random = torch.get_rng_state()
    x = torch.linspace(-1, 1, 84).view(6, 7, 2)
    first = coverage(layer, x, x)
    with pytest.raises(NonFiniteError):
        coverage(layer, x, torch.full_like(x, torch.nan))
    assert layer.training is mode and torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(before[name], p) for name, p in layer.state_dict().items())
    assert layer.weight_hh_l0.grad.eq(1).all() and layer.weight_hh_l0.requires_grad
    assert coverage(layer, x, x).reached == first.reached  # without dropout


def test_one_case_one_step_one_unit():
    one = torch.ones(1, 1, 1)
    found = coverage(same, one, one, pieces=1)
    assert found.boundary == found.change == 1 and found.words == ("b",)
    assert coverage(same, one, 0.5 * one, pieces=1).boundary == 0  # below all that is known
    empty = coverage(same, one, pieces=1)
    assert empty.cases == 0 and empty.temporal == 0 and empty.history["cases"] == ()


X = torch.randn(4, 6, 2)
BAD = {
    "no known cases": (lambda: coverage(same, []), OptionError, "at least one case. Got none"),
    "empty known cases": (lambda: coverage(same, X[:0]), OptionError, "at least one case. Got none"),
    "no batch": (lambda: coverage(same, X, [3.0]), ShapeError, "Got float"),
    "one axis": (lambda: coverage(same, X, X[0, 0]), ShapeError, r"needs batches of inputs.*Got shape"),
    "no states": (lambda: coverage(nn.Linear(2, 3), X[0]), ShapeError, r"\(B, T, n\)"),
    "no time": (lambda: coverage(mr.nn.RNN(2, 3), X[0]), ShapeError, r"\(B, T, n\)"),
    "no steps": (lambda: coverage(same, X[:, :0]), ShapeError, "at least one step"),
    "wrong features": (
        lambda: coverage(nn.LSTM(3, 4), X),
        ShapeError,
        r"the last of 3 features. Got shape \(4, 6, 2\)",
    ),
    "another dtype": (lambda: coverage(nn.LSTM(2, 4).double(), X), DtypeError, "torch.float64. Got torch.float32"),
    "other units": (lambda: coverage(same, X, X[..., :1]), ShapeError, "2 units"),
    "short cases": (lambda: coverage(same, X, X[:, :3]), ShapeError, "at least 6 steps"),
    "NaN": (lambda: coverage(same, X * torch.nan), NonFiniteError, "finite inputs"),
    "NaN states": (lambda: coverage(lambda x: x / 0, X), NonFiniteError, "finite states"),
    "a signal": (lambda: coverage(same, X, signal="cell"), OptionError, "Got 'cell'"),
    "a signal of two axes": (lambda: coverage(same, X, signal=lambda h: h[0]), ShapeError, r"\(6, 2\)"),
    "no gates": (lambda: coverage(mr.nn.GRU(2, 3), X, signal="forget"), OptionError, "one level and one direction"),
    "levels": (lambda: coverage(nn.LSTM(2, 3, 2), X, signal="forget"), OptionError, "one level and one direction"),
    "a window": (lambda: coverage(same, X, window=(2, 6)), OptionError, "from 0 to 5. Got"),
    "a window backwards": (lambda: coverage(same, X, window=(4, 2)), OptionError, "from 0 to 5. Got"),
    "a window of one": (lambda: coverage(same, X, window=(4,)), OptionError, "from 0 to 5. Got"),
    "a window before": (lambda: coverage(same, X, window=(-1, 2)), OptionError, "from 0 to 5. Got"),
    "a threshold": (lambda: coverage(same, X, boundary=float("nan")), OptionError, "`boundary` needs a finite number"),
    "another threshold": (lambda: coverage(same, X, change="0.6"), OptionError, "`change` needs a finite number"),
    "symbols": (lambda: coverage(same, X, symbols=1), OptionError, "from 2 to 26. Got 1"),
    "pieces": (lambda: coverage(same, X, pieces=7), OptionError, "6 steps of the window.*Got 7"),
    "too many words": (lambda: coverage(same, X, symbols=26), OptionError, "at most 1,000,000 words"),
}


@pytest.mark.parametrize(("act", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_by_name(act, kind, message):
    with pytest.raises(kind, match=message) as caught:
        act()
    assert len(str(caught.value)) <= 400


def test_the_table_says_what_is_covered_and_that_the_rest_is_no_defect():
    text = measured([[0.0, 1.1, 0.0, 1.2]]).table()
    lines = text.splitlines()
    assert text.isascii() and lines[0] == "coverage by 1 cases" and "unreached steps of change: 0, 1, 2" in lines
    assert "1 of 4" in lines[2] and "unreached words: aa, ab" in text and "not defects" in lines[-1]


def test_the_picture_has_a_line_for_each_metric():
    pytest.importorskip("matplotlib")
    found = measured([[0.0, 1.1, 0.0, 1.2]])
    axes = found.plot()
    assert [line.get_label() for line in axes.get_lines()] == list(METRICS) and axes.get_xlabel() == "cases"
    assert found.plot(axes) is axes


def test_a_network_with_time_first_is_refused_where_its_batches_would_be_cut_along_time():
    x = torch.rand(512, 5, 3)
    with pytest.raises(ShapeError, match="256 cases, counted on axis 0"):
        coverage(lambda x: x.transpose(0, 1), x, x)


@pytest.mark.parametrize("scale", [1e-200, 1e160])
def test_words_do_not_depend_on_the_scale_of_the_states(scale):
    x = torch.rand(300, 4, 2, dtype=torch.float64)
    assert coverage(same, x * scale, x * scale, pieces=2).words == coverage(same, x, x, pieces=2).words


def test_the_picture_of_one_batch_starts_at_no_cases():
    axes = measured([[3.2, 0.0, 1.2, 0.1]]).plot()
    assert all(tuple(line.get_xdata()) == (0, 1) for line in axes.lines)


def test_pairs_of_a_dataset_give_their_inputs_and_a_pair_of_tensors_is_refused():
    x, y = torch.rand(30, 4, 2), torch.zeros(30, dtype=torch.long)
    pairs = torch.utils.data.TensorDataset(x, y)
    assert coverage(same, pairs, pairs, pieces=2).reached == coverage(same, x, x, pieces=2).reached
    with pytest.raises(OptionError, match="inputs without targets"):
        coverage(same, (x, y))


def test_the_generator_of_a_loader_is_left_as_it_was():
    pairs = torch.utils.data.TensorDataset(torch.rand(30, 4, 2))
    loaders = [torch.utils.data.DataLoader(pairs, 8, shuffle=True, generator=torch.Generator()) for _ in range(2)]
    before = [loader.generator.get_state() for loader in loaders]
    coverage(same, *loaders, pieces=2)
    assert all(torch.equal(loader.generator.get_state(), state) for loader, state in zip(loaders, before, strict=True))


@pytest.mark.parametrize("signal", ["output", "forget"])
def test_a_network_runs_once_and_its_outputs_are_those_without_a_measurement(signal):
    network, x = mr.zoo.Network(mr.nn.LSTM(2, 5, batch_first=True), 3), torch.rand(4, 6, 2)
    runs, outputs = [], []
    network.layer.register_forward_hook(lambda *_: runs.append(1))
    network.register_forward_hook(lambda _, __, out: outputs.append(out))
    calibrate = coverage(network, x, signal=signal)
    assert runs == [1] and outputs[0].shape == (4, 3) and calibrate.calibration.units == 5
    assert torch.allclose(outputs[0], network(x)) and not network.layer._forward_pre_hooks


class Unequal(torch.utils.data.Dataset):
    """Sequences of 1, 2 and 3 steps."""

    def __len__(self):
        return 3

    def __getitem__(self, number):
        return torch.rand(number + 1, 2)


def test_sequences_of_different_lengths_are_answered_by_name():
    with pytest.raises(ShapeError, match="equal length in each batch"):
        coverage(same, Unequal())
