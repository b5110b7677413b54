import math

import pytest
import torch
from support.activation_cases import FUNCTIONS

from manifold_rnn.nn import ModReLU, gate, mod_relu, mod_tanh, real_features, split_relu
from manifold_rnn.nn.activations import EPS

BIASES = [-0.1, 0.0, 0.1]
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


@pytest.fixture(params=[torch.float64, torch.complex128], ids=str)
def z(request):
    return torch.randn(7, 5, dtype=request.param, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("b", BIASES)
def test_the_modulus_is_rectified_and_the_phase_kept(z, b):
    y = mod_relu(z, torch.full((5,), b, dtype=torch.float64), eps=0)
    torch.testing.assert_close(y.abs(), torch.relu(z.abs() + b), atol=1e-14, rtol=0)
    torch.testing.assert_close(y * z.abs(), y.abs() * z, atol=1e-14, rtol=0)


def test_the_real_form_is_exact():
    x = torch.linspace(-1, 1, 21)
    assert torch.equal(mod_relu(x, torch.tensor(-0.25)), x.sign() * torch.relu(x.abs() - 0.25))


@pytest.mark.parametrize("b", BIASES)
@pytest.mark.parametrize("radius", [0.02, 0.2, 2.0])
def test_the_jacobian_stretches_by_one_along_and_by_the_tangential_gain_across(b, radius):
    def plane(v):
        return torch.view_as_real(mod_relu(torch.view_as_complex(v), bias, eps=0))

    bias = torch.tensor(b, dtype=torch.float64)
    turn = torch.tensor(0.7, dtype=torch.float64)
    v = radius * torch.stack([turn.cos(), turn.sin()])
    J = torch.autograd.functional.jacobian(plane, v)
    gains = torch.tensor([1.0, abs(1 + b / radius)] if radius + b > 0 else [0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.svdvals(J), gains.sort(descending=True).values, atol=1e-12, rtol=0)


@pytest.mark.parametrize("b", BIASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_zero_maps_to_zero_with_a_finite_gradient(dtype, b, eps):
    z = torch.zeros(3, dtype=dtype, requires_grad=True)
    bias = torch.full((3,), b, dtype=dtype.to_real(), requires_grad=True)
    y = mod_relu(z, bias, eps)
    torch.view_as_real(y).sum().backward() if y.is_complex() else y.sum().backward()
    assert not y.any()
    assert z.grad.isfinite().all()
    assert not bias.grad.any()
    if not dtype.is_complex or eps == 0:
        assert not z.grad.any()


@pytest.mark.parametrize("b", BIASES[:2])
@pytest.mark.parametrize("eps", [1e-1, 1e-2, 1e-3])
def test_smoothing_moves_the_result_by_at_most_eps(b, eps):
    z = 0.3 * torch.randn(1000, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    bias = torch.tensor(b, dtype=torch.float64)
    assert (mod_relu(z, bias, eps) - mod_relu(z, bias, eps=0)).abs().max() <= eps


@pytest.mark.parametrize("eps", [EPS, 0.0])
def test_gradients_of_both_orders(z, eps):
    z, bias = z[:2].clone().requires_grad_(), torch.full((5,), 0.1, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z, b: mod_relu(z, b, eps), (z, bias))
    assert torch.autograd.gradgradcheck(lambda z, b: mod_relu(z, b, eps), (z, bias))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_module_has_one_small_real_bias_for_each_unit(dtype):
    module = ModReLU(4, dtype=dtype)
    assert module.bias.dtype == dtype.to_real()
    assert module.bias.abs().max() <= 0.01
    assert module(torch.zeros(2, 3, 4, dtype=dtype)).shape == (2, 3, 4)


def test_real_features_keep_the_norm(z):
    x = real_features(z)
    assert not x.is_complex()
    torch.testing.assert_close(torch.linalg.vector_norm(x, dim=-1), torch.linalg.vector_norm(z, dim=-1))


@pytest.mark.parametrize("size", [1e-300, 1e-9, 1e-3, 1.0, 30.0, 1e200])
def test_mod_tanh_squashes_the_modulus_and_keeps_the_phase(z, size):
    y = mod_tanh(size * z)
    torch.testing.assert_close(y.abs(), (size * z).abs().tanh(), atol=0, rtol=1e-14)
    torch.testing.assert_close(y * z.abs(), y.abs() * z, atol=0, rtol=1e-14)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("f", [mod_tanh, split_relu])
def test_nonlinearities_of_real_numbers_are_torchs_and_zero_is_harmless(f, dtype):
    x = torch.zeros(3, dtype=dtype, requires_grad=True)
    y = f(x)
    assert y.dtype == dtype and not y.any()
    y.real.sum().backward()
    torch.testing.assert_close(x.grad, torch.full_like(x, 1.0 if f is mod_tanh else 0.0))
    if not dtype.is_complex:
        x = torch.linspace(-3, 3, 9, dtype=dtype)
        assert torch.equal(f(x), torch.tanh(x) if f is mod_tanh else torch.relu(x))


def test_split_relu_and_gate_read_the_parts(z):
    y = split_relu(z)
    assert torch.equal(y.real, torch.relu(z.real))
    if z.is_complex():
        assert torch.equal(y.imag, torch.relu(z.imag))
    assert torch.equal(gate(z), torch.sigmoid(z.real)) and not gate(z).is_complex()


@pytest.mark.parametrize("size", [1e-9, 1e-2, 1.0])
@pytest.mark.parametrize("f", [mod_tanh, split_relu, gate])
def test_gradients_of_the_nonlinearities(z, f, size):
    z = (size * z[:2]).requires_grad_()
    if f is not split_relu or size == 1.0:  # which has its kink within the step of finite differences
        assert torch.autograd.gradcheck(f, z)
        assert torch.autograd.gradgradcheck(f, z)


def test_mod_tanh_stretches_by_its_slope_along_and_by_its_ratio_across():
    v = torch.tensor([0.3, -0.4], dtype=torch.float64)
    plane = torch.autograd.functional.jacobian(lambda v: torch.view_as_real(mod_tanh(torch.view_as_complex(v))), v)
    r = torch.tensor(0.5, dtype=torch.float64)
    expected = torch.stack([r.tanh() / r, 1 - r.tanh() ** 2])
    torch.testing.assert_close(torch.linalg.svdvals(plane), expected, atol=1e-14, rtol=0)


SIZES = (0.0, 1e-45, 3e-40, 1e-38, 1e-30, 1e-20, 1e-8, 1e-3, 0.5, 3.0, 1e10, 1e19, 1e20, 1e25, 1e36, 1e38, 3e38)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_right_from_subnormal_to_the_largest_numbers(name):
    f = FUNCTIONS[name]
    for phase in (1, -1, 1j, 0.6 + 0.8j, 1 - 1j):
        z = torch.tensor([size * phase for size in SIZES], dtype=torch.complex64, requires_grad=True)
        wide = z.detach().to(torch.complex128).requires_grad_()
        for cotangent in (1.0, 1j, 0.3 - 0.8j, 1e3, 1e-3):
            grads = []
            for x in (z, wide):
                y = f(x)
                (g,) = torch.autograd.grad((y * cotangent).real.sum(), x)
                grads.append((y.detach(), g))
            (y, g), (expected, slope) = grads
            torch.testing.assert_close(y.to(expected.dtype), expected, rtol=1e-5, atol=1e-42)
            # relative to the gradient across, which falls with the modulus, down to subnormal numbers
            bound = slope.abs() + abs(cotangent) / wide.detach().abs().clamp(min=1)
            assert bool(((g.to(slope.dtype) - slope).abs() <= 1e-5 * bound + 1e-42).all())
            assert bool(slope.isfinite().all())


@pytest.mark.parametrize("eps", [EPS, 0.0])
@pytest.mark.parametrize("b", [0.5, -0.5])
def test_a_number_that_is_not_one_stays_so(eps, b):
    z = torch.tensor([complex(math.nan, 0), complex(math.nan, math.nan)])
    assert bool(mod_relu(z, torch.tensor(b), eps).isnan().all())


def test_any_positive_smoothing_gives_finite_gradients():
    for size in (1e-20, 1e-30, 1e-36):
        z = torch.zeros(1, dtype=torch.complex64, requires_grad=True)
        mod_relu(z, torch.tensor(0.1), size).real.sum().backward()
        assert bool(z.grad.isfinite().all())


def test_the_slope_of_mod_tanh_at_zero_is_one():
    z = torch.tensor([0j, 1e-45j, 3e-40 + 1e-40j], dtype=torch.complex64, requires_grad=True)
    mod_tanh(z).real.sum().backward()
    torch.testing.assert_close(z.grad, torch.ones(3, dtype=torch.complex64))


@pytest.mark.filterwarnings("ignore:ComplexHalf support")
@pytest.mark.parametrize("f", [mod_tanh, lambda z: mod_relu(z, torch.tensor([0.5]).half())])
def test_half_precision_is_close_to_single(f):
    z = torch.tensor([0.5 - 0.25j, -2 + 1j], dtype=torch.complex64)
    half = f(z.to(torch.complex32))
    assert half.dtype == torch.complex32
    torch.testing.assert_close(half.to(torch.complex64), f(z), atol=0.02, rtol=0.02)
