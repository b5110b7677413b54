"""Unitary weights as a retraction times trained phases."""

import copy
import io

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors, linalg, retractions

N, DTYPE = 4, torch.complex128


def layer(retraction="cayley", **options):
    torch.manual_seed(0)
    return mr.constrain(
        nn.Linear(N, N, dtype=DTYPE), "weight", mr.PhaseScaled(mr.Unitary(retraction)), view="trivialized", **options
    )


def entry(module):
    return module.constraints["weight"]


def disturb(module, scale=0.3):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in entry(module).parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=generator), alpha=scale)
    return module


@pytest.mark.parametrize("retraction", ["cayley", "exp"])
def test_starts_at_the_projected_weight_with_phases_zero(retraction):
    torch.manual_seed(0)
    plain = nn.Linear(N, N, dtype=DTYPE)
    W = mr.Unitary().projx(plain.weight.detach())
    torch.testing.assert_close(layer(retraction).weight.detach(), W, atol=1e-10, rtol=0)
    assert not entry(layer(retraction)).phases.any()


@pytest.mark.parametrize("retraction", retractions.names())
def test_is_the_map_times_the_phases(retraction):
    eye = torch.eye(N, dtype=DTYPE)
    module = disturb(layer(retraction, init=lambda _: eye))
    A = linalg.unpack_skew(entry(module).coordinates, DTYPE)
    D = torch.polar(torch.ones(N, dtype=torch.float64), entry(module).phases)
    expected = retractions.get(retraction).group_map(A) @ D.diag()
    torch.testing.assert_close(module.weight, expected, atol=1e-13, rtol=0)
    assert linalg.defect(module.weight) < 1e-13


def test_gradients_equal_finite_differences():
    module = disturb(layer())
    c, theta = entry(module).coordinates, entry(module).phases

    def weight(c, theta):
        return torch.func.functional_call(entry(module), {"coordinates": c, "phases": theta}, ())

    assert torch.autograd.gradcheck(weight, (c, theta))
    assert torch.autograd.gradgradcheck(weight, (c, theta))


def test_trains_saves_copies_and_releases():
    module = layer()
    goal = mr.Unitary().random(N, N, dtype=DTYPE, generator=torch.Generator().manual_seed(7))
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.05), []
    for _ in range(200):
        optimizer.zero_grad()
        value = (module.weight - goal).abs().square().sum()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 1e-2 * losses[0] and entry(module).phases.any()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = layer()
    other.load_state_dict(torch.load(file))
    for same in (other, copy.deepcopy(module)):
        assert torch.equal(same.weight, module.weight)
    W = module.weight.detach().clone()
    mr.release(module, "weight")
    assert torch.equal(module.weight, W) and type(module) is nn.Linear


def test_assigning_and_another_retraction_keep_the_phases():
    module = disturb(layer())
    phases, W = entry(module).phases.detach().clone(), module.weight.detach().clone()
    mr.set_retraction(module, "weight", "exp")
    torch.testing.assert_close(module.weight.detach(), W, atol=1e-12, rtol=0)
    target = mr.Unitary().random(N, N, dtype=DTYPE, generator=torch.Generator().manual_seed(2))
    module.weight = target
    torch.testing.assert_close(module.weight.detach(), target, atol=1e-10, rtol=0)
    assert torch.equal(entry(module).phases, phases)


def with_eigenvalues(angles, dtype=DTYPE):
    generator = torch.Generator().manual_seed(3)
    Q = mr.Unitary().random(len(angles), len(angles), dtype=torch.complex128, generator=generator)
    theta = torch.tensor(angles, dtype=torch.float64)
    return (Q * torch.polar(torch.ones_like(theta), theta) @ Q.mH).to(dtype)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
@pytest.mark.parametrize("retraction", ["cayley", "exp"])
@pytest.mark.parametrize("gap", [0.0, 1e-12, 1e-5, 1e-3], ids=str)
def test_weights_with_an_eigenvalue_near_minus_one_are_reached_by_other_phases(gap, retraction, dtype):
    W = with_eigenvalues([torch.pi - gap, -torch.pi + gap, 2.9, -0.4, 0.1], dtype)
    close = {"atol": 1e-5 if dtype == torch.complex64 else 1e-9, "rtol": 0}
    manifold = mr.PhaseScaled(mr.Unitary(retraction))
    module = mr.constrain(nn.Linear(5, 5, dtype=dtype), "weight", manifold, view="trivialized", init=lambda _: W)
    torch.testing.assert_close(module.weight.detach(), W, **close)
    part = entry(module)
    assert torch.allclose(part.phases, part.phases[:1])
    module.weight.abs().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in part.parameters())
    module.weight = W @ W  # regular again
    torch.testing.assert_close(module.weight.detach(), W @ W, **close)
    module.weight = W
    torch.testing.assert_close(module.weight.detach(), W, **close)
    mr.set_retraction(module, "weight", "exp" if retraction == "cayley" else "cayley")
    torch.testing.assert_close(module.weight.detach(), W, **close)


def test_every_matrix_of_a_batch_has_its_own_angle():
    W = torch.stack([with_eigenvalues([torch.pi, 1.0, 2.0, -1.0]), with_eigenvalues([0.0, torch.pi, -2.0, -1.0])])
    part = mr.constraints.trivialize(mr.PhaseScaled(mr.Unitary()), W)
    torch.testing.assert_close(part().detach(), W, atol=1e-12, rtol=0)
    assert part.phases[0, 0] != part.phases[1, 0]


def test_a_weight_that_no_phases_reach_changes_nothing():
    module = disturb(layer("polar", init=lambda _: torch.eye(N, dtype=DTYPE)))
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(errors.OffManifoldError):
        module.weight = with_eigenvalues([torch.pi, 0.0, 1.5, -1.5])
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.filterwarnings("ignore:Complex modules")
def test_phases_stay_real_through_every_conversion():
    module = layer().to(torch.complex64)
    assert entry(module).phases.dtype == torch.float32 and module.weight.dtype == torch.complex64
    assert entry(module.to(torch.complex128)).phases.dtype == torch.float64


def test_counts_what_is_trained():
    assert mr.degrees_of_freedom(layer()) == N * N + N + 2 * N


@pytest.mark.parametrize("manifold", [mr.Orthogonal(), mr.UnitaryRealForm(), mr.Stiefel()], ids=repr)
def test_real_weights_have_no_phases(manifold):
    with pytest.raises(errors.OptionError, match="FixedBase"):
        mr.PhaseScaled(manifold)


def test_a_real_weight_is_refused():
    with pytest.raises(errors.DtypeError, match="complex"):
        mr.constrain(nn.Linear(N, N), "weight", mr.PhaseScaled(mr.Unitary()), view="trivialized")
