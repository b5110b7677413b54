"""Adapters on a frozen weight: their start, what they keep, and that inputs may be turned instead of the weight."""

import copy

import pytest
import torch
from support.adapter_cases import ALL, INPUTS, OUTPUTS, SIDES, TURNING, disturb, entry, inputs, layer
from support.seeds import seeded
from support.tolerances import atol
from torch import nn
from torch.nn.functional import linear

import manifold_rnn as mr
from manifold_rnn.linalg import block_product

REAL, COMPLEX = torch.float64, torch.complex128
HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [torch.float32, REAL, torch.complex64, *HALF], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_the_first_output_is_that_of_the_frozen_layer_bit_by_bit(name, dtype):
    torch.manual_seed(0)
    module = nn.Linear(INPUTS, OUTPUTS, dtype=dtype)
    frozen, many, few = copy.deepcopy(module), inputs(40, dtype), inputs(2, dtype)
    mr.constrain(module, "weight", ALL[name])
    assert torch.equal(module.weight, frozen.weight)
    assert torch.equal(module(many), frozen(many)) and torch.equal(module(few), frozen(few))
    assert torch.equal(entry(module).linear(many, module.bias), frozen(many))
    with torch.no_grad():
        assert torch.equal(module(many), frozen(many)) and torch.equal(module(few), frozen(few))


@pytest.mark.parametrize("dtype", [REAL, COMPLEX, torch.float32], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_turning_inputs_is_turning_the_weight_with_every_gradient(name, dtype):
    module, x = layer(ALL[name], dtype), inputs(7, dtype).requires_grad_()
    own = entry(module)
    sources = [x, module.bias, *own.parameters()]
    results = []
    for y in (own.linear(x, module.bias), linear(x, own(), module.bias), own.linear(x, None) + module.bias):
        weights = torch.randn(y.shape, dtype=dtype, generator=seeded(3))
        results.append((y, *torch.autograd.grad((y * weights).sum().abs(), sources)))
    for other in results[1:]:
        for got, expected in zip(results[0], other, strict=True):
            torch.testing.assert_close(got, expected, atol=100 * atol(dtype), rtol=100 * atol(dtype))


@pytest.mark.parametrize("half", HALF, ids=str)
@pytest.mark.parametrize("name", ALL)
def test_a_half_precision_weight_has_parameters_in_single_and_one_rounding(name, half):
    module = layer(ALL[name], half)
    own, unit = entry(module), torch.finfo(half).eps
    assert module.weight.dtype == half and {p.dtype for p in own.parameters()} == {torch.float32}
    exact = copy.deepcopy(own).float()
    assert exact.base.dtype == torch.float32 and torch.equal(exact().to(half), module.weight)
    x = inputs(9, half)
    y = linear(x.float(), exact(), module.bias.float())
    for got in (own.linear(x, module.bias), linear(x, module.weight, module.bias)):
        assert (got.float() - y).abs().max() < 8 * unit * y.abs().max()
    own.linear(x, module.bias).float().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in own.parameters())
    merged = mr.release(module, "weight").weight
    assert torch.equal(merged, exact().to(half)) and merged.is_contiguous()


def test_a_module_in_half_precision_keeps_its_adapter_in_single():
    module = layer(ALL["blocks"], torch.float32)
    before = entry(module).coordinates.detach().clone()
    module(inputs(3, torch.float32)).sum().backward()
    module.to(torch.bfloat16)
    assert entry(module).base.dtype == torch.bfloat16 and torch.equal(entry(module).coordinates, before)
    assert module.bias.dtype == torch.bfloat16
    module.double()
    assert entry(module).coordinates.dtype == entry(module).base.dtype == REAL


@pytest.mark.parametrize("name", TURNING)
def test_the_weight_is_the_frozen_one_times_an_orthogonal_matrix(name):
    own = entry(layer(TURNING[name]))
    R, W0 = own.rotation().detach(), own.base
    assert mr.linalg.defect(R) < 1e-12 and own.defect() < 1e-12
    W = R @ W0 if own.side == "output" else W0 @ R
    torch.testing.assert_close(own().detach(), W, atol=1e-13, rtol=0)
    assert float((W - W0).abs().max()) > 0.05


@pytest.mark.parametrize("size", [64, 512])
@pytest.mark.parametrize("norm", [0.1, 1.0, 10.0, 100.0])
@pytest.mark.parametrize("retraction", ["cayley", "exp"])
def test_orthogonal_and_merged_to_1e_6_in_single_precision_at_any_norm(retraction, norm, size):
    torch.manual_seed(0)
    module = mr.constrain(nn.Linear(size, size), "weight", mr.OrthogonalAdapter(32, retraction))
    own, x = entry(module), torch.randn(100, size, generator=seeded())
    with torch.no_grad():
        blocks = own.coordinates.normal_()  # the norm of A = 2 Q, and of Q in the notation of others half of it
        blocks.mul_(2 * norm / torch.linalg.vector_norm(blocks, dim=-1, keepdim=True))
        R, W0, W = own.rotation().double(), own.base.double(), own().double()
        eye = torch.eye(size, dtype=REAL)
        assert float((R.mT @ R - eye).abs().max()) < 1e-6
        assert float((W @ W.mT - W0 @ W0.mT).abs().max()) < 1e-6
        unmerged = own.linear(x, module.bias)
        merged = mr.release(module, "weight")(x)
    assert float((unmerged - merged).abs().max()) < 1e-6 * max(1.0, float(merged.abs().max()))


@pytest.mark.parametrize("name", SIDES)
def test_inner_products_of_rows_stay(name):
    own = entry(layer(TURNING[name], torch.float32))
    W0, W = own.base.double(), own().detach().double()
    torch.testing.assert_close(W @ W.mT, W0 @ W0.mT, atol=1e-6, rtol=0)


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_a_butterfly_is_the_product_of_permuted_blocks(factors):
    own = entry(layer(mr.OrthogonalAdapter(4, factors=factors)))
    R = torch.eye(INPUTS, dtype=REAL)
    for j, blocks in enumerate(own.blocks().detach()):
        order = [(chunk * 2 + s) * 2**j + p for chunk in range(8 // 2 ** (j + 1)) for p in range(2**j) for s in (0, 1)]
        places = torch.tensor([2 * piece + k for piece in order for k in (0, 1)])
        P = torch.eye(INPUTS, dtype=REAL)[:, places]
        R = R @ P @ torch.block_diag(*blocks) @ P.mT
    torch.testing.assert_close(own.rotation().detach(), R, atol=1e-13, rtol=0)
    assert R.count_nonzero() == INPUTS * 4 * 2 ** (factors - 1)


def test_reflections_are_multiplied_in_order():
    own = entry(layer(mr.ReflectionAdapter(6)))
    R = torch.eye(INPUTS, dtype=REAL)
    for v in own.vectors.detach().flatten(0, 1):
        R = R @ (torch.eye(INPUTS, dtype=REAL) - 2 * torch.outer(v, v) / v.dot(v))
    torch.testing.assert_close(own.rotation().detach(), R, atol=1e-13, rtol=0)
    long = copy.deepcopy(own)
    with torch.no_grad():
        long.vectors.mul_(1e30)
    torch.testing.assert_close(long().detach(), own().detach(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
def test_a_subspace_is_turned_by_the_definition(dtype):
    own = entry(layer(mr.SubspaceAdapter(5), dtype))
    Vh = torch.linalg.svd(own.base).Vh
    A = own.subspace
    torch.testing.assert_close((A @ Vh.mH)[:, :5].abs(), torch.eye(5, dtype=REAL), atol=1e-12, rtol=0)
    B = own.base @ A.mH
    M = mr.linalg.cayley(mr.linalg.unpack_skew(own.coordinates, dtype))
    M = own.after[:, None] * M * own.before
    torch.testing.assert_close(own(), own.base + B @ (M - torch.eye(5)) @ A, atol=1e-13, rtol=0)


def test_low_rank_factors_stay_orthonormal_and_bases_move():
    constraint = mr.StiefelAdapter(3, rebase_every=4)
    module = layer(constraint, torch.float32, disturbed=False)
    own, x = entry(module), inputs(20, torch.float32)
    starts = [part.base.clone() for part in (own.left, own.right)]
    optimizer = torch.optim.Adam(module.constraints.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (module(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0] and own.defect() < 1e-5
    assert not any(torch.equal(a, part.base) for a, part in zip(starts, (own.left, own.right), strict=True))
    assert torch.linalg.matrix_rank(own().detach() - own.base, atol=1e-5) == 3


@pytest.mark.parametrize(
    ("constraint", "numbers"),
    [
        (mr.OrthogonalAdapter(4), 4 * 6),
        (mr.OrthogonalAdapter(4, share=True), 6),
        (mr.OrthogonalAdapter(4, factors=3), 3 * 4 * 6),
        (mr.OrthogonalAdapter(), 16 * 15 // 2),
        (mr.OrthogonalAdapter(side="output"), 12 * 11 // 2),
        (mr.ReflectionAdapter(4), 4 * 16),
        (mr.SubspaceAdapter(5), 10 + 10),
        (mr.SubspaceAdapter(5, scales=False), 10),
        (mr.StiefelAdapter(3), (12 * 3 - 6) + (16 * 3 - 6) + 9),
    ],
)
def test_numbers_that_are_trained(constraint, numbers):
    assert mr.degrees_of_freedom(layer(constraint).constraints) == numbers


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_gradients_of_both_orders(name, dtype):
    own, x = entry(layer(ALL[name], dtype)), inputs(2, dtype)
    names, values = zip(*own.named_parameters(), strict=True)
    values = tuple(v.detach().requires_grad_() for v in values)

    class Output(nn.Module):
        def __init__(self):
            super().__init__()
            self.own = own

        def forward(self, x):
            return self.own.linear(x, None).abs().square().sum() + self.own().abs().square().sum(0).prod()

    def value(x, *values):
        state = {f"own.{k}": v for k, v in zip(names, values, strict=True)}
        return torch.func.functional_call(Output(), state, (x,))

    assert torch.autograd.gradcheck(value, (x.requires_grad_(), *values), fast_mode=True)
    assert torch.autograd.gradgradcheck(value, (x, *values), fast_mode=True)


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_weights_has_independent_adapters(name):
    torch.manual_seed(0)
    experts = torch.randn(3, OUTPUTS, INPUTS, dtype=REAL)
    own = ALL[name].trivialize(experts)
    assert torch.equal(own(), experts)
    with torch.no_grad():
        for p in own.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    single = ALL[name].trivialize(experts[1])
    state = {k: v[1] for k, v in own.state_dict().items() if k != "fingerprint"}
    single.load_state_dict(state)
    torch.testing.assert_close(own()[1], single(), atol=1e-13, rtol=0)
    assert not own.prefers_linear(inputs(2))


def test_what_is_cheaper_is_chosen():
    own = entry(layer(mr.OrthogonalAdapter(4)))
    assert own.prefers_linear(inputs(1000))  # the gradient of the dense weight would cost more
    with torch.no_grad():
        assert own.prefers_linear(inputs(OUTPUTS - 1)) and not own.prefers_linear(inputs(OUTPUTS))
    wide = mr.constrain(nn.Linear(64, 8), "weight", mr.OrthogonalAdapter(64))
    assert not entry(wide).prefers_linear(torch.empty(1000, 64))


@pytest.mark.parametrize("shape", [(16,), (3, 16), (2, 3, 16), (0, 16)], ids=str)
def test_inputs_of_any_shape(shape):
    module = layer(ALL["butterfly"])
    x = torch.randn(shape, dtype=REAL, generator=seeded())
    torch.testing.assert_close(module(x), linear(x, entry(module)(), module.bias), atol=1e-13, rtol=0)


@pytest.mark.parametrize("share", [False, True])
def test_the_fused_product_is_the_naive_one(share):
    x = torch.randn(5, 2, 12, dtype=REAL, generator=seeded()).mT.contiguous().mT.requires_grad_()  # strided
    D = torch.randn(1 if share else 3, 4, 4, dtype=REAL, generator=seeded(1)).requires_grad_()
    fused, naive = block_product.plus_blocks(x, D), block_product.naive_plus_blocks(x, D)
    torch.testing.assert_close(fused, naive, atol=1e-14, rtol=0)
    weights = torch.randn_like(fused)
    pairs = zip(*(torch.autograd.grad((y * weights).sum(), (x, D)) for y in (fused, naive)), strict=True)
    assert all(torch.allclose(a, b, atol=1e-13) for a, b in pairs)
    assert torch.autograd.gradgradcheck(block_product.plus_blocks, (x, D))
    batched = torch.func.vmap(block_product.plus_blocks, (None, 0))(x, torch.stack([D, 2 * D]))
    torch.testing.assert_close(batched[1], block_product.naive_plus_blocks(x, 2 * D), atol=1e-13, rtol=0)


@pytest.mark.parametrize("name", ["blocks", "output", "reflections", "subspace", "stiefel"])
def test_autocast_leaves_the_adapter_alone(name):
    module, x = layer(ALL[name], torch.float32), inputs(6, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = module(x)
        W = module.weight
    assert y.dtype == torch.bfloat16 and torch.equal(W, entry(module)())
    torch.testing.assert_close(y.float(), module(x), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("value", [1e-30, 1e30])
@pytest.mark.parametrize("name", ["blocks", "exp", "reflections", "subspace", "stiefel"])
def test_extreme_weights_and_zero(name, value):
    torch.manual_seed(0)
    for W in (torch.zeros(OUTPUTS, INPUTS), value * torch.randn(OUTPUTS, INPUTS)):
        own = ALL[name].trivialize(W)
        with torch.no_grad():
            for p in own.parameters():
                p.add_(torch.randn_like(p), alpha=0.3)
        change = own().detach() - (W if name == "stiefel" else 0)
        assert own().isfinite().all()
        if name != "stiefel":
            assert torch.isclose(change.double().norm(), W.double().norm(), rtol=1e-5)


@pytest.mark.parametrize("value", [1e-30, 1e3, 1e30])
def test_extreme_coordinates_are_right(value):
    own = entry(layer(mr.OrthogonalAdapter(4), torch.float32))
    with torch.no_grad():
        own.coordinates.fill_(value)
    assert own.defect() < 1e-5


def test_retractions_change_with_the_weight_kept():
    module = layer(mr.OrthogonalAdapter(4))
    before = module.weight.detach().clone()
    mr.set_retraction(module, "weight", "exp")
    torch.testing.assert_close(module.weight.detach(), before, atol=1e-12, rtol=0)
    assert entry(module).retraction.name == "exp"


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("name", ["blocks", *(pytest.param(k, marks=pytest.mark.slow) for k in ALL if k != "blocks")])
def test_compiles_in_one_graph(name):
    module, x = layer(ALL[name]), inputs(6)
    torch._dynamo.reset()
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    parameters = list(module.parameters())
    found = torch.autograd.grad(compiled(x).square().sum(), parameters)
    expected = torch.autograd.grad(module(x).square().sum(), parameters)
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-8)


def test_hooks_on_the_weight_see_its_gradient():
    torch.manual_seed(0)
    module, seen = nn.Linear(INPUTS, OUTPUTS, dtype=REAL), []
    module.weight.register_hook(lambda g: seen.append(g.shape))
    disturb(mr.constrain(module, "weight", mr.OrthogonalAdapter(4)))
    module(inputs(3)).sum().backward()
    assert seen == [(OUTPUTS, INPUTS)]


def test_every_exported_adapter_is_tested():
    exported = {getattr(mr, name) for name in mr.__all__ if "Adapter" in name}
    assert {type(c) for c in ALL.values()} == exported
