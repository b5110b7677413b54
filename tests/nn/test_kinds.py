"""A conversion keeps real parameters real, and complex ones complex, so a layer computes the same after it."""

import inspect

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import Layer, ModReLU, cells

CELLS = [name for name in cells.__all__ if not inspect.isabstract(getattr(cells, name))]
NETWORKS = [name for name in mr.zoo.__all__ if name not in ("Network", "available")]
pytestmark = pytest.mark.filterwarnings("ignore:Complex modules are a new feature")


def kinds(module):
    return {name: p.is_complex() for name, p in module.named_parameters()}


@pytest.mark.parametrize("name", CELLS)
def test_a_complex_layer_in_double_precision_computes_the_same(name):
    cell = getattr(cells, name)()
    layer = Layer(cell, 3, 8, dtype=torch.complex64)
    with torch.no_grad():
        for p in layer.parameters():
            p.sub_(0.05)  # a bias of the modulus has an effect only if it is negative
    x, before = torch.randn(7, 2, 3, dtype=torch.complex64), kinds(layer)
    expected = layer(x)[0]
    layer.to(torch.complex128)
    assert kinds(layer) == before
    assert {p.dtype for p in layer.parameters()} <= {torch.complex128, torch.float64}
    torch.testing.assert_close(layer(x.to(torch.complex128))[0], expected.to(torch.complex128), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_published_network_in_double_precision_computes_the_same(name):
    network, x = getattr(mr.zoo, name)(3, 8, 2), torch.randn(2, 7, 3)
    expected, before = network(x), kinds(network)
    network.to(torch.complex128)
    assert kinds(network) == before
    torch.testing.assert_close(network(x.double()), expected.double(), atol=1e-4, rtol=1e-4)


def test_modrelu_keeps_its_bias_real_beside_complex_layers():
    module = nn.Sequential(nn.Linear(3, 4, dtype=torch.complex64), ModReLU(4, dtype=torch.complex64))
    module.to(torch.complex128)
    assert module[0].weight.dtype == torch.complex128 and module[1].bias.dtype == torch.float64


@pytest.mark.parametrize(("dtype", "other"), [(torch.complex64, torch.float64), (torch.float32, torch.complex64)])
def test_a_layer_refuses_the_other_kind_and_keeps_every_parameter(dtype, other):
    layer = mr.nn.RNN(3, 8, 2, nonlinearity="modrelu", dtype=dtype)
    before = {name: p.detach().clone() for name, p in layer.named_parameters()}
    with pytest.raises(mr.errors.DtypeError, match=r"(?s)RNN stays.*Build a new layer"):
        layer.to(other)
    assert all(torch.equal(p, before[name]) and p.dtype == before[name].dtype for name, p in layer.named_parameters())


def test_a_layer_whose_weights_a_wrapper_holds_is_converted():
    layer = mr.nn.RNN(3, 4)
    for name, p in list(layer._parameters.items()):
        del layer._parameters[name]
        setattr(layer, name, p.data)
    assert layer.double() is layer
