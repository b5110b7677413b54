"""What holds for every constraint that builds a weight from factors; its numbers, and what it refuses."""

import copy
import io
import math
import pickle

import pytest
import torch
from support.seeds import seeded
from support.structured_cases import COMPLEX, ORTHOGONAL, OTHERS, REAL, build, disturb, entry, layer
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors, linalg
from manifold_rnn.constraints import Constraint

ALL = ORTHOGONAL | OTHERS
REAL_TOO = [name for name in ALL if name != "product"]
PAIRS = [(name, COMPLEX) for name in ALL] + [(name, REAL) for name in REAL_TOO]


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_is_a_constraint_that_says_what_it_is(name, dtype):
    assert isinstance(ALL[name], Constraint)
    module = build(ALL[name], 4, dtype)
    W = module()
    assert W.shape == (4, 4) and W.dtype == dtype and 'view="trivialized"' in repr(module)


@pytest.mark.parametrize("n", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, REAL, torch.complex64, COMPLEX], ids=str)
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_products_are_orthogonal(name, n, dtype):
    if name == "product" and not dtype.is_complex:
        pytest.skip("complex only")
    W = build(ORTHOGONAL[name], n, dtype)().detach()
    assert linalg.defect(W.to(COMPLEX)) < 10 * atol(dtype)


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtype in PAIRS if name in ORTHOGONAL])
@pytest.mark.parametrize("batch", [(), (3,), (2, 0)], ids=str)
def test_factors_times_states_are_the_dense_product(name, dtype, batch):
    if name == "product" and 0 in batch:
        pytest.skip("torch has no Fourier transform of nothing")
    module = build(ORTHOGONAL[name], 8, dtype, batch)
    h = torch.randn(*batch, 5, 8, dtype=dtype, generator=seeded(2))
    torch.testing.assert_close(module.multiply(h), h @ module().mT, atol=1e-12, rtol=0)


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_a_batch_holds_independent_matrices(name, dtype):
    batched = build(ALL[name], 4, dtype, (3,))
    W = batched()
    assert W.shape == (3, 4, 4)
    (W[1].abs().square().sum()).backward()
    grads = [p.grad for p in batched.parameters() if p.grad is not None and p.numel()]
    assert all(not g[0].any() and not g[2].any() for g in grads)


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_gradients_of_both_orders(name, dtype):
    module = build(ALL[name], 4, dtype)
    names, values = zip(*module.named_parameters(), strict=True)
    values = tuple(v.detach().requires_grad_() for v in values)

    def weight(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(weight, values) and torch.autograd.gradgradcheck(weight, values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("steps", [100, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ORTHOGONAL)
def test_steps_in_single_precision_leave_the_product_orthogonal(name, steps, dtype):
    if name == "product" and not dtype.is_complex:
        pytest.skip("complex only")
    module = layer(ORTHOGONAL[name], 16, dtype)
    goal = torch.randn(16, 16, dtype=dtype, generator=seeded(3)) / 4
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.01), []
    for _ in range(steps):
        optimizer.zero_grad()
        value = (module.weight - goal).abs().square().sum()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < losses[0]
    assert linalg.defect(module.weight.detach().to(COMPLEX)) < 1e-5


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_saves_copies_pickles_and_releases(name, dtype):
    module = layer(ALL[name], dtype=dtype)
    disturb(entry(module))
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = layer(ALL[name], dtype=dtype)
    other.load_state_dict(torch.load(file))
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same.weight, module.weight)
    W = module.weight.detach().clone()
    mr.release(module, "weight")
    assert torch.equal(module.weight, W) and type(module) is nn.Linear


@pytest.mark.filterwarnings("ignore:Complex modules")
@pytest.mark.parametrize("name", ALL)
def test_real_parameters_stay_real_through_every_conversion(name):
    module = layer(ALL[name], dtype=COMPLEX)
    before = {key: p.is_complex() for key, p in entry(module).named_parameters()}
    W = module.weight.detach()
    for dtype in (torch.complex64, COMPLEX):
        module.to(dtype)
        assert {key: p.is_complex() for key, p in entry(module).named_parameters()} == before
        assert module.weight.dtype == dtype
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "dtype"), PAIRS)
def test_what_is_not_finite_is_not_loaded(name, dtype):
    module = layer(ALL[name], dtype=dtype)
    state = module.state_dict()
    key = next(k for k in state if k.startswith("constraints") and not k.endswith(("permutation", "base")))
    state[key] = torch.full_like(state[key], torch.nan)
    with pytest.raises(errors.NonFiniteError, match="constraints"):
        module.load_state_dict(state)


@pytest.mark.parametrize("name", REAL_TOO)
def test_autocast_leaves_the_algebra_alone(name):
    module = layer(ALL[name], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.weight, module.weight.float())
        W = module.weight.detach()
    torch.testing.assert_close(W, module.weight.detach(), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name, dtype in PAIRS if name != "legacy"])
def test_an_ensemble_is_vmapped(name, dtype):
    modules = [build(ALL[name], 4, dtype) for _ in range(2)]
    parameters, buffers = torch.func.stack_module_state(modules)
    base = modules[0]

    def weight(parameters, buffers):
        return torch.func.functional_call(base, (parameters, buffers), ())

    W = torch.func.vmap(weight)(parameters, buffers)
    torch.testing.assert_close(W[1], modules[1](), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", REAL_TOO)
def test_only_the_trivialized_view_exists(name):
    with pytest.raises(errors.UnsupportedError, match="trivialized"):
        mr.constrain(nn.Linear(4, 4), "weight", ALL[name], view="update")


def count(constraint, n, dtype):
    return mr.degrees_of_freedom(constraint.trivialize(torch.zeros(n, n, dtype=dtype)))


@pytest.mark.parametrize(("n", "layers"), [(8, 2), (8, 8), (6, 4), (7, 7), (7, 3), (2, 2)])
def test_numbers_of_rotations(n, layers):
    complex_, real = (count(mr.Rotations(layers=layers), n, dtype) for dtype in (COMPLEX, REAL))
    assert complex_ == layers * (n - 1) + n and 2 * real == layers * (n - 1)
    assert count(mr.Rotations(), n, COMPLEX) == n * n and count(mr.Rotations(), n, REAL) == n * (n - 1) // 2


@pytest.mark.parametrize("n", [1, 2, 8, 64])
def test_numbers_of_the_fft_layout(n):
    log = int(math.log2(n))
    assert count(mr.Rotations("fft"), n, COMPLEX) == n * log + n
    assert count(mr.Rotations("fft"), n, REAL) == n * log // 2


@pytest.mark.parametrize("n", [1, 7, 512])
def test_numbers_of_the_unitary_product(n):
    assert count(mr.UnitaryProduct(), n, COMPLEX) == 7 * n


@pytest.mark.parametrize(("n", "m"), [(8, 3), (8, 8), (256, 32), (1, 1)])
def test_numbers_of_reflections(n, m):
    assert count(mr.Reflections(m), n, REAL) == n * m - m * (m - 1) // 2
    assert count(mr.Reflections(m), n, COMPLEX) == 2 * count(mr.Reflections(m), n, REAL)


@pytest.mark.parametrize("n", [2, 8, 128])
def test_numbers_of_the_schur_form(n):
    released = n * (n - 1) // 2 + n + n * (n - 1) // 2
    assert count(mr.SchurForm(legacy_mask=True), n, REAL) == released
    assert count(mr.SchurForm(), n, REAL) == released - n // 2
    assert count(mr.SchurForm(), n, COMPLEX) == n * n + 2 * n + n * (n - 1)


@pytest.mark.parametrize("n", [1, 5])
def test_numbers_of_damped_and_mixed(n):
    assert count(mr.DampedSkew(), n, REAL) == n * (n - 1) // 2 and count(mr.DampedSkew(), n, COMPLEX) == n * n
    assert count(mr.LipschitzMixture(), n, REAL) == n * n and count(mr.LipschitzMixture(), n, COMPLEX) == 2 * n * n


@pytest.mark.parametrize("name", ["euler", "exp", "cayley", "residual", "mixture"])
@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
def test_a_weight_of_the_form_is_assigned_and_found_again(name, dtype):
    W = build(OTHERS[name], 4, dtype)().detach()
    module = layer(OTHERS[name], dtype=dtype)
    module.weight = W
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-10, rtol=0)
    torch.testing.assert_close(OTHERS[name].trivialize(W)().detach(), W, atol=1e-10, rtol=0)


@pytest.mark.parametrize("constraint", [*list(OTHERS.values())[:4], mr.LipschitzMixture(1.0)], ids=str)
def test_a_weight_that_is_not_reached_is_refused(constraint):
    module = layer(constraint)
    W = module.weight.detach().clone()
    with pytest.raises(errors.OffManifoldError, match="cannot represent"):
        module.weight = 2 * torch.eye(4, dtype=REAL) + torch.arange(16.0, dtype=REAL).view(4, 4) / 100
    assert torch.equal(module.weight, W)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mr.Rotations("butterfly"), "'tunable' or 'fft'"),
        (lambda: mr.Rotations(layers=0), "layers"),
        (lambda: mr.Rotations("fft", layers=2), "layers"),
        (lambda: mr.Rotations("fft").trivialize(torch.zeros(6, 6)), "power of 2"),
        (lambda: mr.Reflections(0), "at least 1"),
        (lambda: mr.Reflections(5).trivialize(torch.zeros(4, 4)), "from 1 to 4"),
        (lambda: mr.SchurForm("caley"), "cayley"),
        (lambda: mr.DampedSkew(-0.1), "damping"),
        (lambda: mr.DampedSkew(step_size=0), "step_size"),
        (lambda: mr.DampedSkew(method="midpoint"), "'euler', 'exp', 'cayley'"),
        (lambda: mr.LipschitzMixture(1.5), "beta"),
        (lambda: mr.LipschitzMixture(damping=-1), "damping"),
    ],
)
def test_a_wrong_option_is_named(make, words):
    with pytest.raises(errors.OptionError, match=words) as raised:
        make()
    assert len(str(raised.value)) <= 400


def test_a_real_weight_has_no_unitary_product():
    with pytest.raises(errors.DtypeError, match="Rotations"):
        layer(mr.UnitaryProduct())


@pytest.mark.parametrize("name", REAL_TOO)
def test_a_weight_that_is_not_square_is_refused(name):
    with pytest.raises(errors.ShapeError, match="square"):
        mr.constrain(nn.Linear(4, 3), "weight", ALL[name], view="trivialized")


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
@pytest.mark.parametrize(("name", "dtype"), [(k, COMPLEX if k in ("tunable", "product") else REAL) for k in ALL])
def test_compiles_in_one_graph_and_exports(name, dtype):
    module = layer(ALL[name], dtype=dtype)
    x = torch.randn(2, 4, dtype=dtype, generator=seeded())
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x).abs().sum(), list(module.parameters()), allow_unused=True)
    expected = torch.autograd.grad(module(x).abs().sum(), list(module.parameters()), allow_unused=True)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)
    exported = torch.export.export(module, (x,)).module()
    torch.testing.assert_close(exported(x), module(x), atol=1e-12, rtol=0)
