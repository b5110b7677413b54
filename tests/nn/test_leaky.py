"""The leaky Elman cell: its closed forms, leaks of single units, and the slopes that local learning uses."""

import copy

import pytest
import torch
from support.cell_cases import make, shaken
from support.seeds import seeded
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn.errors import ShapeError
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import Elman, LeakyElman, Momentum

LEAKS = (0.1, 0.4, 0.7, 1.0)
FUNCTIONS = ["tanh", "relu", "modrelu", torch.sigmoid]


def test_without_weights_each_unit_forgets_at_its_own_rate(wide):
    layer = make(LeakyElman(leak=LEAKS), dtype=wide)
    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    h = torch.ones(1, 1, 4, dtype=wide)
    y, _ = layer(torch.zeros(6, 1, 3, dtype=wide), h)
    expected = torch.tensor([(1 - a) ** 6 for a in LEAKS], dtype=wide)
    torch.testing.assert_close(y[-1, 0].detach(), expected, atol=atol(wide), rtol=0)


def test_a_constant_input_is_approached_at_the_rate_of_the_leak():
    cell = LeakyElman(torch.nn.Identity(), bias=False, leak=0.25).bind({})
    h, W = torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    for _ in range(10):
        h, _ = cell.step(torch.ones(1, 1, dtype=torch.float64), (h,), W)
    assert abs(h.item() - (1 - 0.75**10)) < atol(torch.float64)


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
@pytest.mark.parametrize("leak", [1.0, 1, (1.0,) * 4])
def test_with_leak_one_it_is_the_elman_cell(function, leak, wide):
    one, other = (shaken(make(cell, dtype=wide)) for cell in (LeakyElman(function, leak=leak), Elman(function)))
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=seeded(1))
    torch.testing.assert_close(one(x), other(x), atol=atol(wide), rtol=0)
    form = one.cell.bind(one.weights("_l0")).elman_form()
    assert (form is None) == (not isinstance(function, str) or (wide.is_complex and function != "modrelu"))


@pytest.mark.parametrize("leak", [0.1, (0.5, 1.0, 1.0, 1.0)])
def test_with_a_leak_there_is_no_elman_form(leak):
    layer = make(LeakyElman(leak=leak))
    assert layer.cell.bind(layer.weights("_l0")).elman_form() is None


@pytest.mark.parametrize("function", FUNCTIONS, ids=str)
def test_slopes_are_the_derivatives_of_the_nonlinearity(function):
    layer = shaken(make(LeakyElman(function)))
    weights = {name: w.detach().requires_grad_() for name, w in layer.weights("_l0").items()}
    cell = layer.cell.bind(weights)
    z = torch.randn(5, 4, dtype=torch.float64, generator=seeded(3)).requires_grad_()
    f = cell.activate(z)
    slope, threshold_slope = cell.slopes(z, f)
    torch.testing.assert_close(slope, torch.autograd.grad(f.sum(), z, retain_graph=True)[0])
    assert (threshold_slope is None) == (function != "modrelu")
    if threshold_slope is not None:
        torch.testing.assert_close(threshold_slope.sum(0), torch.autograd.grad(f.sum(), weights["bias"])[0])


@pytest.mark.parametrize("bias", [True, False])
def test_the_leaky_form_names_the_weights_that_are_added(bias):
    forms = {}
    for f in ("tanh", "modrelu"):
        layer = make(LeakyElman(f, bias, leak=LEAKS))
        forms[f] = layer.cell.bind(layer.weights("_l0")).leaky_form()
        assert torch.equal(forms[f].leak, torch.tensor(LEAKS, dtype=torch.float64))
    assert forms["tanh"].biases == (("bias_ih", "bias_hh") if bias else ()) and forms["tanh"].threshold is None
    assert forms["modrelu"].biases == () and forms["modrelu"].threshold == ("bias" if bias else None)


def test_complex_weights_and_other_recurrences_have_no_leaky_form():
    layer = make(LeakyElman(), dtype=torch.complex128)
    assert layer.cell.bind(layer.weights("_l0")).leaky_form() is None
    assert Momentum(LeakyElman()).bind({}).leaky_form() is None


def test_leaks_of_single_units_follow_the_layer(wide):
    layer = shaken(make(LeakyElman(leak=list(LEAKS)), dtype=wide, num_layers=2))
    x = torch.randn(7, 2, 3, dtype=torch.float64, generator=seeded(1))
    y = layer(x)[0]
    if not wide.is_complex:  # torch warns of converting complex modules
        single = copy.deepcopy(layer).float()(x.float())[0]
        torch.testing.assert_close(single.double(), y, atol=1e-5, rtol=1e-5)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)[0], y, atol=atol(wide), rtol=0)
    exported = torch.export.export(layer, (x,)).module()
    torch.testing.assert_close(exported(x)[0], y, atol=atol(wide), rtol=0)


def test_leaks_of_single_units_become_a_tensor_once_for_a_device_and_dtype():
    leak = (0.15, 0.45, 0.75, 0.95)
    layer = Layer(LeakyElman(leak=leak), 3, 4)

    def rates():
        return layer.cell.bind(layer.weights("_l0")).rates

    with torch.inference_mode():
        first = rates()
    assert rates() is first and rates() is copy.deepcopy(layer).cell.bind(layer.weights("_l0")).rates
    layer(torch.ones(5, 2, 3))[0].sum().backward()  # also with what inference mode has made
    layer.double()
    assert rates().dtype == torch.float64 and rates() is rates()
    assert rates().tolist() == list(leak)


def test_runs_where_the_weights_are():
    layer = Layer(LeakyElman(leak=LEAKS), 3, 4, device="meta")
    assert layer(torch.empty(5, 2, 3, device="meta"))[0].is_meta


def test_one_leak_for_each_unit_or_one_for_all():
    with pytest.raises(ShapeError, match=r"(?s)one leak for each unit.*Expected 5.*got 4") as caught:
        Layer(LeakyElman(leak=LEAKS), 3, 5)
    assert len(str(caught.value)) <= 400


def test_a_momentum_around_it_runs():
    layer = mr.nn.Layer(Momentum(LeakyElman(leak=LEAKS)), 3, 4)
    assert layer(torch.zeros(5, 2, 3))[0].shape == (5, 2, 4)
