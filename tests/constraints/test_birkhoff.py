"""Doubly stochastic matrices: sums for any parameters, gradients at permutations, and where a matrix starts."""

import copy
import io
import math
import pickle

import pytest
import torch
from support import naive
from support.birkhoff_cases import KINDS, REAL, build, layer
from support.seeds import seeded
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors

EXACT = KINDS[:2]
SIZES = {"orthostochastic": (1, 2, 3, 17), "permutations": (1, 2, 3, 4, 5), "sinkhorn": (1, 2, 5, 16)}
CASES = [(kind, n) for kind in KINDS for n in SIZES[kind]]


def entry(module):
    return module.constraints["weight"]


def off(W):
    W = W.detach().double()
    assert W.min() >= 0
    return max(float((W.sum(dim) - 1).abs().max()) for dim in (-1, -2))


@pytest.mark.parametrize("dtype", [torch.float32, REAL], ids=str)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(("kind", "n"), [case for case in CASES if case[0] in EXACT])
def test_rows_and_columns_sum_to_1_for_any_parameters(kind, n, scale, dtype):
    module = build(kind, n, dtype, (2,), scale)
    most = 1e-6 if dtype == torch.float32 else 1e-14
    assert off(module()) < most and module.defect() < most and module().dtype == dtype


def test_the_weights_of_permutations_may_be_of_any_size():
    module = build("permutations", dtype=torch.float32)
    for size in (1e30, -1e30, torch.finfo(torch.float32).max):
        with torch.no_grad():
            module.logits.copy_(torch.randn(24, generator=seeded()).sign() * size)
        module().square().sum().backward()
        assert off(module()) < 1e-6 and module.logits.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1.0, 3.0, 100.0])
@pytest.mark.parametrize("n", [2, 4, 16])
def test_rows_of_the_scaled_matrix_are_exact_and_its_residual_is_reported(n, scale):
    module = mr.Birkhoff("sinkhorn").trivialize(torch.ones(n, n, dtype=torch.float32))
    with torch.no_grad():
        module.logits.copy_(torch.randn(n, n, generator=seeded()) * scale)
    W = module().detach().double()
    torch.testing.assert_close(W.sum(-1), torch.ones(n, dtype=REAL), atol=1e-6, rtol=0)
    assert math.isclose(float(module.defect()), off(W), abs_tol=1e-7)


def test_more_sweeps_leave_less_and_twenty_are_not_enough_for_wide_logits():
    torch.manual_seed(0)
    logits = torch.randn(200, 4, 4, dtype=REAL)
    residual = {}
    for spread in (1.0, 3.0, 6.0):
        for sweeps in (20, 200):
            module = mr.Birkhoff("sinkhorn", sweeps=sweeps).trivialize(torch.ones_like(logits))
            with torch.no_grad():
                module.logits.copy_(spread * logits)
            residual[spread, sweeps] = float(module.defect())
    assert all(residual[spread, 200] < residual[spread, 20] for spread in (1.0, 3.0, 6.0))
    assert residual[1.0, 20] < 1e-3 and residual[3.0, 20] > 0.01 and residual[6.0, 20] > 0.03


@pytest.mark.parametrize("batch", [(), (3,)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_the_definition_and_every_gradient(kind, batch):
    module = build(kind, 3, batch=batch)
    (p,) = module.parameters()
    W = module()
    points = module.rotation() if kind == "orthostochastic" else p
    one = [naive.doubly_stochastic(kind, q, 3, 20) for q in (points if batch else points[None])]
    expected = torch.stack(one) if batch else one[0]
    torch.testing.assert_close(W, expected, atol=atol(REAL), rtol=0)
    g = torch.randn(W.shape, dtype=REAL, generator=seeded(2))
    own, same = (torch.autograd.grad(matrix, p, g, retain_graph=True) for matrix in (W, expected))
    torch.testing.assert_close(own, same, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_both_orders(kind):
    module = build(kind, 3, sweeps=4)
    names, values = zip(*module.named_parameters(), strict=True)

    def weight(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), ())

    values = tuple(v.detach().requires_grad_() for v in values)
    assert torch.autograd.gradcheck(weight, values) and torch.autograd.gradgradcheck(weight, values)


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_at_permutations_are_finite_and_right(kind, order):
    P = torch.eye(3, dtype=REAL)[list(order)]
    module = mr.Birkhoff(kind).trivialize(P)
    (p,) = module.parameters()
    W = module()
    torch.testing.assert_close(W.detach(), P, atol=1e-8, rtol=0)
    points = module.rotation() if kind == "orthostochastic" else p
    g = torch.randn(3, 3, dtype=REAL, generator=seeded(2))
    own, same = (torch.autograd.grad(matrix, p, g)[0] for matrix in (W, naive.doubly_stochastic(kind, points, 3, 20)))
    assert own.isfinite().all()
    torch.testing.assert_close(own, same, atol=1e-14, rtol=0)
    assert own.abs().max() < 1e-7  # the matrix hardly moves from there, as is documented


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_1_and_products_stay_in_the_set(kind):
    n = 4
    A, B = (build(kind, n, sweeps=500).requires_grad_(False)() for _ in range(2))
    assert abs(torch.linalg.matrix_norm(A, 2) - 1) < 1e-6 and off(A @ B) < 1e-6


@pytest.mark.parametrize(("scale", "diagonal", "second", "left"), [(1, 0.475, 0.30, 0.0), (8, 0.9990, 0.9987, 0.94)])
def test_logits_of_the_identity_average_streams_unless_they_are_large(scale, diagonal, second, left):
    module = mr.Birkhoff("sinkhorn").trivialize(torch.ones(4, 4, dtype=REAL))
    with torch.no_grad():
        module.logits.copy_(scale * torch.eye(4))
        W = module()
    assert math.isclose(W[0, 0], diagonal, abs_tol=1e-3) and math.isclose(
        torch.linalg.svdvals(W)[1], second, abs_tol=2e-3
    )
    after = torch.linalg.svdvals(torch.linalg.matrix_power(W, 48))[1]
    assert math.isclose(after, left, abs_tol=5e-3)


# --- where a matrix starts ---


@pytest.mark.parametrize(("kind", "n"), [(kind, n) for kind in KINDS for n in (2, 3, 5) if (kind, n) != (KINDS[0], 5)])
def test_a_matrix_of_the_form_is_found_again_and_assigned(kind, n):
    if kind == "orthostochastic":
        W = mr.Orthogonal().random(n, n, dtype=REAL, generator=seeded(n)).square()
    else:
        W = build("sinkhorn", n, sweeps=2000)().detach()
    torch.testing.assert_close(mr.Birkhoff(kind).trivialize(W)().detach(), W, atol=1e-6, rtol=0)
    module = layer(kind, n)
    module.weight = W
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("kind", "n"), CASES)
def test_a_module_takes_its_own_weight_and_keeps_it(kind, n):
    module = build(kind, n, torch.float32, (2,), scale=2.0)
    W = module().detach()
    module.assign(W)
    assert torch.equal(module(), W)


@pytest.mark.parametrize("n", [4, 8, 17])
def test_the_signs_of_a_weight_that_was_rounded_are_the_present_ones(n):
    module = build("orthostochastic", n, torch.float32, (2,), scale=2.0)
    W, signs = module().detach(), module.rotation().detach() < 0
    module.assign(W * (1 + 1e-6))
    torch.testing.assert_close(module().detach(), W, atol=1e-5, rtol=0)
    assert torch.equal((module.rotation().detach() < 0)[W > 1e-4], signs[W > 1e-4])


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_beside_the_identity_is_reached_and_moves(kind):
    W = 0.9 * torch.eye(4, dtype=REAL) + 0.025
    module = layer(kind, init=lambda _: W)
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-7, rtol=0)
    module.weight[0, 1].backward()
    assert max(float(p.grad.abs().max()) for p in entry(module).parameters()) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
def test_starts_from_weights_of_any_size_and_sign(kind, size):
    W = torch.randn(4, 4, generator=seeded()) * size
    module = mr.Birkhoff(kind).trivialize(W)
    assert off(module()) < 1e-6
    near = mr.Birkhoff(kind).trivialize(W.abs())
    assert torch.equal(near(), module())


@pytest.mark.parametrize("kind", KINDS)
def test_random_matrices_have_the_mean_of_the_set(kind):
    torch.manual_seed(0)
    W = mr.Birkhoff(kind).random_like(torch.empty(2000, 3, 3, dtype=REAL))
    assert (W.mean(0) - 1 / 3).abs().max() < 0.03 and W.min() >= 0
    assert off(layer(kind, init="haar").weight) < (1e-3 if kind == "sinkhorn" else 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_that_is_not_reached_is_refused_and_nothing_changes(kind):
    module = layer(kind)
    before = copy.deepcopy(module.state_dict())
    for W in (torch.full((4, 4), 0.5, dtype=REAL), -torch.full((4, 4), 0.25, dtype=REAL)):
        with pytest.raises(errors.OffManifoldError, match="Birkhoff cannot represent"):
            module.weight = W
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_matrix_in_half_precision_is_assigned_up_to_its_rounding(kind, dtype):
    module = layer(kind, dtype=dtype, init="haar")
    for W in (module.weight.detach().clone(), 0.9 * torch.eye(4, dtype=dtype) + 0.025):
        module.weight = W
        assert (module.weight - W).abs().max() <= torch.finfo(dtype).eps
    with pytest.raises(errors.OffManifoldError):
        module.weight = torch.full((4, 4), 0.3, dtype=dtype)


# --- as any other constraint ---


@pytest.mark.parametrize("kind", KINDS)
def test_saves_copies_pickles_converts_and_releases(kind):
    module = layer(kind, init="haar")
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = layer(kind)
    other.load_state_dict(torch.load(file))
    for same in (other, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(same.weight, module.weight)
    W = module.weight.detach().clone()
    assert module.float().weight.dtype == torch.float32 and off(module.weight) < 1e-3
    torch.testing.assert_close(module.double().weight.detach(), W, atol=1e-5, rtol=0)
    W = module.weight.detach().clone()
    mr.release(module, "weight")
    assert torch.equal(module.weight, W) and type(module) is nn.Linear


@pytest.mark.parametrize("kind", KINDS)
def test_trains_in_a_layer_and_in_a_recurrent_network(kind):
    torch.manual_seed(0)
    network = mr.nn.RNN(2, 4, constraint=mr.Birkhoff(kind, sweeps=60), view="trivialized")
    x, goal = torch.randn(6, 5, 2), torch.randn(5, 4).tanh()
    optimizer, losses = torch.optim.Adam(network.parameters(), lr=0.02), []
    for _ in range(15):
        optimizer.zero_grad()
        loss = (network(x)[1][0] - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] and off(network.weight_hh_l0) < 1e-5


def test_another_retraction_moves_the_same_matrix_and_dimensions_are_counted():
    module = layer(init="haar")
    W = module.weight.detach().clone()
    mr.set_retraction(module, "weight", "exp")
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-13, rtol=0)
    assert [mr.degrees_of_freedom(build(kind)) for kind in KINDS] == [6, 9, 9]
    assert mr.degrees_of_freedom(build("sinkhorn", batch=(2,))) == 18


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_exports_is_vmapped_and_left_alone_by_autocast(kind):
    module = layer(kind, 3, sweeps=2)
    x = torch.randn(2, 3, dtype=REAL, generator=seeded())
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), module(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.export.export(module, (x,)).module()(x), module(x), atol=1e-12, rtol=0)
    modules = [build(kind), build(kind, scale=0.2)]
    parameters, buffers = torch.func.stack_module_state(modules)
    weights = torch.func.vmap(lambda p, b: torch.func.functional_call(modules[0], (p, b), ()))(parameters, buffers)
    torch.testing.assert_close(weights[1], modules[1](), atol=1e-13, rtol=0)
    module.float()
    before = module.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module.weight, before) and before.dtype == torch.float32
