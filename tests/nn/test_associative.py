"""The parallel scan against the loop, in values and in gradients."""

import pytest
import torch
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn.errors import ShapeError, UnsupportedError
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import LRU, Elman
from manifold_rnn.nn.scan import associative

LENGTHS = [1, 2, 3, 4, 5, 7, 8, 9, 31, 64, 100, 1025]
DISC = mr.DiagonalDisc()


def loop(diag, u, h0):
    states = [h0]
    for u_t in u:
        states.append(diag * states[-1] + u_t)
    return torch.stack(states[1:])


def problem(T, dtype, generator, radius=1.0):
    d, u, h0 = (torch.randn(s, dtype=dtype, generator=generator) for s in [(5,), (T, 3, 5), (3, 5)])
    return radius * d / d.abs().clamp(min=1), u, h0


@pytest.mark.parametrize("T", LENGTHS)
def test_equals_the_loop(T, dtype, generator):
    d, u, h0 = problem(T, dtype, generator)
    torch.testing.assert_close(associative(d, u, h0), loop(d, u, h0), atol=10 * T**0.5 * atol(dtype), rtol=0)


@pytest.mark.parametrize("T", [1, 2, 5, 8, 31])
def test_its_gradients_equal_those_of_the_loop(T, dtype, generator):
    results = []
    for scan in (associative, loop):
        inputs = [t.requires_grad_() for t in problem(T, dtype, generator.manual_seed(1))]
        results.append(torch.autograd.grad(scan(*inputs).abs().square().sum(), inputs))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, atol=300 * T * atol(dtype), rtol=0)


@pytest.mark.parametrize("T", [1, 2, 3, 6])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_gradients_of_both_orders(T, dtype, generator):
    d, u, h0 = problem(T, dtype, generator)
    inputs = [t.requires_grad_() for t in (d[:2], u[:, :1, :2].contiguous(), h0[:1, :2].contiguous())]
    assert torch.autograd.gradcheck(associative, inputs) and torch.autograd.gradgradcheck(associative, inputs)


def test_does_not_change_its_inputs(generator):
    inputs = problem(9, torch.float64, generator)
    before = [t.clone() for t in inputs]
    associative(*inputs)
    assert all(torch.equal(*pair) for pair in zip(inputs, before, strict=True))


def test_a_real_input_meets_complex_eigenvalues(generator):
    d, u, h0 = problem(6, torch.complex128, generator)
    x = u.real.clone().requires_grad_()
    y = associative(d, x, h0)
    torch.testing.assert_close(y, loop(d, u.real, h0), atol=1e-13, rtol=0)
    y.abs().square().sum().backward()
    assert x.grad.dtype == torch.float64


def test_ten_thousand_steps_near_the_circle_stay_near_the_loop(generator):
    d, u, h0 = problem(10_000, torch.complex64, generator)
    d = d / d.abs() * 0.9999
    wide = loop(*(t.to(torch.complex128) for t in (d, u, h0)))
    error = [(scan(d, u, h0) - wide).abs().max().item() for scan in (associative, loop)]
    assert error[0] < 2 * error[1]


def test_eigenvalues_of_zero_and_powers_that_vanish_are_exact(generator):
    _, u, h0 = problem(300, torch.float32, generator)
    d = torch.tensor([0.0, 1e-30, 0.1, -1.0, 1.0])
    torch.testing.assert_close(associative(d, u, h0), loop(d, u, h0), atol=1e-4, rtol=1e-6)


def test_an_ensemble_runs_as_one(generator):
    d, u, h0 = problem(6, torch.float64, generator)
    many = torch.stack([d, d / 2, -d])
    expected = torch.stack([loop(each, u, h0) for each in many])
    torch.testing.assert_close(torch.func.vmap(lambda each: associative(each, u, h0))(many), expected)
    torch.testing.assert_close(torch.func.vmap(associative, (0, None, None))(many, u, h0), expected, atol=1e-13, rtol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
def test_compiles_into_one_graph(generator):
    inputs = [t.requires_grad_() for t in problem(6, torch.float64, generator)]
    torch._dynamo.reset()
    compiled = torch.compile(associative, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), associative(*inputs))
    results = [torch.autograd.grad(scan(*inputs).square().sum(), inputs) for scan in (compiled, associative)]
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("shapes", [((5,), (0, 3, 5), (3, 5)), ((4,), (6, 3, 5), (3, 5)), ((5,), (6, 3, 5), (2, 5))])
def test_shapes_that_do_not_fit_are_named(shapes):
    with pytest.raises(ShapeError, match="associative"):
        associative(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_layer_of_linear_units_takes_it_and_computes_the_same(bidirectional):
    torch.manual_seed(0)
    options = {"num_layers": 2, "bidirectional": bidirectional, "dtype": torch.complex128}
    layer = Layer(LRU(0.5, 0.99), 2, 5, constraint=DISC, view="trivialized", **options)
    x, results = torch.randn(37, 3, 2, dtype=torch.float64), []
    for backend in ("associative", "reference"):
        layer.backend = backend
        layer.zero_grad()
        y, h_n = layer(x)
        (y.abs().square().sum() + h_n.real.sum()).backward()
        results.append([y.detach(), h_n.detach(), *(p.grad.clone() for p in layer.parameters())])
    torch.testing.assert_close(*results, atol=1e-11, rtol=1e-11)


def test_a_matrix_that_is_not_diagonal_is_refused_by_name():
    layer = Layer(LRU(), 2, 5, constraint=mr.Orthogonal(), backend="associative")
    with pytest.raises(UnsupportedError, match="diagonal"):
        layer(torch.zeros(4, 1, 2))
    layer = Layer(Elman(), 2, 5, backend="associative")
    with pytest.raises(UnsupportedError, match="linear"):
        layer(torch.zeros(4, 1, 2))
