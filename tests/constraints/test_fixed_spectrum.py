"""Fixed singular values and diagonal Gram matrices: what stays, what moves, what is refused."""

import copy
import math
import pickle

import pytest
import torch
from support.constraint_cases import CONSTRAINTS
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors

KINDS = {"spectrum": mr.FixedSpectrum, "gram": mr.DiagonalGram}
SHAPES = ((4, 4), (5, 3), (3, 5), (4, 1))
DTYPES = (torch.float32, torch.float64, torch.complex128)
RETRACTIONS = ("cayley", "exp", "qr", "polar")


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


def layer(constraint, shape, dtype=torch.float64, **options):
    torch.manual_seed(0)
    linear = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype)
    return mr.constrain(linear, "weight", constraint, view="trivialized", **options)


def trained(module, steps=20, lr=0.1):
    optimizer = torch.optim.Adam(module.parameters(), lr=lr)
    generator = torch.Generator().manual_seed(1)
    target = torch.randn(module.weight.shape, dtype=module.weight.dtype, generator=generator)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (module.weight - target).abs().square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    return module


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_singular_values_stay_while_the_weight_is_trained(shape, retraction, dtype):
    torch.manual_seed(0)
    before = nn.Linear(shape[1], shape[0], bias=False, dtype=dtype).weight.detach()
    module = layer(mr.FixedSpectrum(retraction), shape, dtype)
    torch.testing.assert_close(module.weight.detach(), before, atol=atol(dtype), rtol=0)  # it starts as it was
    W = trained(module).weight.detach()
    close = {"atol": 10 * atol(dtype), "rtol": 0}
    torch.testing.assert_close(torch.linalg.svdvals(W), torch.linalg.svdvals(before), **close)
    assert not torch.allclose(W, before, atol=1e-2) and module.constraints["weight"].defect() < 10 * atol(dtype)


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gram_matrices_stay_diagonal_with_lengths_that_move(shape, retraction, dtype):
    module = layer(mr.DiagonalGram(retraction), shape, dtype)
    lengths = module.constraints["weight"].log_lengths.detach().clone()
    W = trained(module).weight.detach()
    W = W if shape[0] >= shape[1] else W.mH
    gram = W.mH @ W
    t = module.constraints["weight"].log_lengths.detach()
    torch.testing.assert_close(gram, torch.diag_embed((2 * t).exp()).to(dtype), atol=30 * atol(dtype), rtol=0)
    assert not torch.allclose(t, lengths, atol=1e-3)


def test_every_gradient_is_that_of_the_product_written_out(kind, dtype):
    if dtype == torch.float32:
        return
    entry = trained(layer(kind("exp"), (5, 3), dtype)).constraints["weight"]
    g = torch.randn(5, 3, dtype=dtype, generator=torch.Generator().manual_seed(2))
    parameters = list(entry.parameters())
    got = torch.autograd.grad(entry(), parameters, g)
    if kind is mr.FixedSpectrum:
        left, right = (p.manifold.retr_free(p.base, p.coordinates) for p in (entry.left, entry.right))
        naive = left @ torch.diag(entry.values).to(dtype) @ right.mH
    else:
        frame = entry.frame.manifold.retr_free(entry.frame.base, entry.frame.coordinates)
        naive = frame @ torch.diag(entry.log_lengths.exp()).to(dtype)
    torch.testing.assert_close(entry(), naive, atol=1e-13, rtol=0)
    for a, b in zip(got, torch.autograd.grad(naive, parameters, g), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_special_cases_are_what_exists(generator):
    Q = mr.Orthogonal().random(4, 4, dtype=torch.float64, generator=generator)
    for constraint in (mr.FixedSpectrum(), mr.DiagonalGram()):
        entry = mr.constraints.trivialize(constraint, 3.0 * Q)
        torch.testing.assert_close(entry().detach(), 3.0 * Q, atol=1e-13, rtol=0)
    low = torch.outer(Q[0], Q[1])  # of rank 1, and it stays so
    entry = mr.constraints.trivialize(mr.FixedSpectrum(), low)
    with torch.no_grad():
        entry.left.coordinates.normal_()
    assert int(torch.linalg.matrix_rank(entry().detach())) == 1
    batch = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=generator)
    for constraint in (mr.FixedSpectrum(), mr.DiagonalGram()):
        entry = mr.constraints.trivialize(constraint, batch)
        alone = mr.constraints.trivialize(constraint, batch[1, 2])
        torch.testing.assert_close(entry().detach()[1, 2], alone().detach(), atol=1e-13, rtol=0)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_weights_of_any_size(kind, scale, generator):
    for dtype in (torch.float32, torch.complex64):
        like = scale * torch.randn(4, 3, dtype=dtype, generator=generator)
        entry = mr.constraints.trivialize(kind(), like)
        W = entry().detach()
        assert bool(W.isfinite().all()) and float(entry.defect()) < 1e-5
        if kind is mr.FixedSpectrum:
            torch.testing.assert_close(W / scale, like / scale, atol=1e-5, rtol=0)
        else:
            lengths = torch.linalg.vector_norm(like / scale, dim=0)
            torch.testing.assert_close(torch.linalg.vector_norm(W / scale, dim=0), lengths, atol=0, rtol=1e-4)


def test_assign_takes_members_and_refuses_others(kind, dtype, generator):
    module = layer(kind(), (5, 3), dtype)
    entry = module.constraints["weight"]
    other = trained(layer(kind(), (5, 3), dtype)).weight.detach()
    entry.assign(other)
    torch.testing.assert_close(module.weight.detach(), other, atol=10 * atol(dtype), rtol=0)
    wrong = torch.randn(5, 3, dtype=dtype, generator=generator)
    before = copy.deepcopy(entry.state_dict())
    with pytest.raises(errors.OffManifoldError, match="cannot represent"):
        entry.assign(wrong)
    assert all(torch.equal(before[k], v) for k, v in entry.state_dict().items())
    entry.assign_nearest(wrong)
    assert float(entry.defect()) < 10 * atol(dtype)


def test_the_nearest_weight_of_a_spectrum_is_nearest(generator):
    entry = layer(mr.FixedSpectrum(), (5, 3)).constraints["weight"]
    wrong = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    entry.assign_nearest(wrong)
    distance = float((entry().detach() - wrong).norm())
    for _ in range(20):
        assert float((mr.FixedSpectrum().random_like(entry().detach()) - wrong).norm()) > distance - 1e-12


def test_copies_state_dicts_casts_and_release(kind):
    module = trained(layer(kind(), (4, 4), torch.float32), steps=3)
    W = module.weight.detach().clone()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other.weight, W)
    fresh = layer(kind(), (4, 4), torch.float32, init=lambda w: torch.eye(4))
    fresh.load_state_dict(module.state_dict())
    assert torch.equal(fresh.weight, W)
    wide = copy.deepcopy(module).double()
    assert wide.weight.dtype == torch.float64 and float(wide.constraints["weight"].defect()) < 1e-12
    mr.set_retraction(module, "weight", "exp")
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-6, rtol=0)
    mr.release(module, "weight")
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-6, rtol=0)
    assert isinstance(module.weight, nn.Parameter)


def test_haar_starts_keep_the_spectrum_and_dimensions_are_those_of_the_factors():
    torch.manual_seed(0)
    s = torch.linalg.svdvals(nn.Linear(3, 5, bias=False, dtype=torch.float64).weight.detach())
    module = layer(mr.FixedSpectrum(), (5, 3), init="haar")
    torch.testing.assert_close(torch.linalg.svdvals(module.weight.detach()), s, atol=1e-13, rtol=0)
    assert mr.degrees_of_freedom(module) == (5 * 3 - 6) + 3
    like = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    W = mr.DiagonalGram().random_like(like)
    torch.testing.assert_close(W.norm(dim=0), like.norm(dim=0), atol=1e-13, rtol=0)
    assert mr.degrees_of_freedom(layer(mr.DiagonalGram(), (5, 3))) == (5 * 3 - 6) + 3
    assert {"FixedSpectrum", "DiagonalGram"} <= set(CONSTRAINTS)


@pytest.mark.parametrize("value", [100.0, math.inf, math.nan])
def test_lengths_beyond_the_largest_number_are_refused(value):
    layer = mr.constrain(torch.nn.Linear(4, 4), "weight", mr.DiagonalGram(), view="trivialized")
    with torch.no_grad():
        layer.constraints["weight"].log_lengths.fill_(value)
    with pytest.raises(mr.errors.NonFiniteError, match=r"DiagonalGram: exp\(log_lengths\)"):
        layer(torch.ones(2, 4))
