"""Sign matrix times retraction."""

import copy
import pickle

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import ManifoldError, OffManifoldError, OptionError

N = 5


def cell(constraint, **options):
    torch.manual_seed(0)
    layer = nn.RNNCell(2, N, dtype=torch.float64)
    return mr.constrain(layer, "weight_hh", constraint, view="trivialized", **options)


@pytest.mark.parametrize("negatives", range(N + 1))
@pytest.mark.parametrize("retraction", ["cayley", "exp"])
@pytest.mark.parametrize("init", ["keep", "haar"])
def test_the_determinant_is_that_of_the_signs(negatives, retraction, init):
    constrained = cell(mr.FixedBase(mr.Orthogonal(retraction), negatives), init=init)
    expected = torch.tensor((-1.0) ** negatives, dtype=torch.float64)
    entry = constrained.constraints["weight_hh"]
    assert torch.equal(entry.base.diagonal(), torch.tensor([1.0] * (N - negatives) + [-1.0] * negatives).double())
    optimizer = torch.optim.SGD(constrained.parameters(), 0.1)
    for _ in range(3):
        torch.testing.assert_close(constrained.weight_hh.det(), expected)
        assert mr.linalg.defect(constrained.weight_hh) < 1e-12
        optimizer.zero_grad()
        constrained(torch.ones(1, 2).double(), torch.ones(1, N).double()).sum().backward()
        optimizer.step()
    assert torch.equal(entry.base.diagonal().sum(), torch.tensor(N - 2.0 * negatives).double())


@pytest.mark.parametrize("manifold", [mr.Orthogonal("cayley"), mr.SpecialOrthogonal("exp")], ids=str)
def test_a_weight_of_the_right_component_is_kept(manifold):
    W = mr.SpecialOrthogonal().random(N, N, dtype=torch.float64)
    constrained = cell(mr.FixedBase(manifold), init=lambda _: W)
    torch.testing.assert_close(constrained.weight_hh, W, atol=1e-12, rtol=0)
    V = mr.SpecialOrthogonal().random(N, N, dtype=torch.float64)
    constrained.weight_hh = V
    torch.testing.assert_close(constrained.weight_hh, V, atol=1e-11, rtol=0)


def test_one_of_the_other_component_becomes_the_nearest_that_can_be_reached():
    W = mr.SpecialOrthogonal().random(N, N, dtype=torch.float64)
    W[-1] *= -1
    got = cell(mr.FixedBase(mr.Orthogonal()), init=lambda _: W).weight_hh
    torch.testing.assert_close(got.det(), torch.ones((), dtype=torch.float64))
    torch.testing.assert_close(torch.linalg.matrix_norm(got - W), torch.tensor(2.0).double())


def test_unitary():
    layer = nn.RNNCell(2, N, dtype=torch.complex128)
    mr.constrain(layer, "weight_hh", mr.FixedBase(mr.Unitary("exp"), 2), view="trivialized")
    assert mr.linalg.defect(layer.weight_hh) < 1e-12
    assert mr.degrees_of_freedom(layer) == N * N + 2 * (2 * N + 2 * N)


def test_set_retraction_solves_for_new_coordinates():
    constrained = cell(mr.FixedBase(mr.Orthogonal("cayley"), 1))
    entry, before = constrained.constraints["weight_hh"], constrained.weight_hh.detach()
    base, coordinates = entry.base.clone(), entry.coordinates.detach().clone()
    mr.set_retraction(constrained, "weight_hh", "exp")
    torch.testing.assert_close(constrained.weight_hh.detach(), before, atol=1e-12, rtol=0)
    assert torch.equal(entry.base, base)
    assert not torch.allclose(entry.coordinates, coordinates)


def test_set_retraction_refuses_what_it_cannot_reach():
    constrained = cell(mr.FixedBase(mr.SpecialOrthogonal("exp")))
    with torch.no_grad():  # a half turn
        entry = constrained.constraints["weight_hh"]
        entry.coordinates.zero_()[0] = torch.pi * 2**0.5
    before = copy.deepcopy(constrained.state_dict())
    with pytest.raises(OffManifoldError, match="-1"):
        mr.set_retraction(constrained, "weight_hh", "cayley")
    assert all(torch.equal(value, before[name]) for name, value in constrained.state_dict().items())
    assert constrained.constraints["weight_hh"].manifold.retraction.name == "exp"


def test_a_start_out_of_reach_is_turned_a_little():
    flip = torch.block_diag(-torch.eye(2), torch.eye(N - 2))
    layer = nn.RNNCell(2, N)
    mr.constrain(layer, "weight_hh", mr.FixedBase(mr.Orthogonal()), view="trivialized", init=lambda _: flip)
    W = layer.weight_hh.detach()
    assert mr.linalg.defect(W) < 1e-5 and torch.det(W) > 0
    assert 0 < torch.linalg.matrix_norm(W - flip, 2) < 1


@pytest.mark.parametrize(
    ("constraint", "match"),
    [
        (mr.FixedBase(mr.Orthogonal(), -1), "0 to 5"),
        (mr.FixedBase(mr.Orthogonal(), N + 1), "0 to 5"),
        (mr.FixedBase(mr.SpecialOrthogonal(), 1), "even"),
    ],
)
def test_signs_that_make_no_sense(constraint, match):
    with pytest.raises(OptionError, match=match):
        cell(constraint)


def test_options_that_make_no_sense():
    with pytest.raises(ManifoldError, match="structured"):
        cell(mr.FixedBase(mr.Orthogonal()), rebase_every=2)
    with pytest.raises(OptionError, match="group"):
        mr.FixedBase(mr.Stiefel())


def test_a_structured_constraint_reads_any_weight_as_matrices():
    layer = mr.constrain(nn.Conv2d(4, 4, 1), "weight", mr.FixedBase(mr.Orthogonal(), 1), view="trivialized")
    torch.testing.assert_close(torch.det(layer.weight[:, :, 0, 0]), torch.tensor(-1.0))
    transposed = mr.constrain(nn.Linear(3, 3), "weight", mr.Rotations(), view="trivialized", matrix_dims=(1, 0))
    assert mr.linalg.defect(transposed.weight) < 1e-5


def test_copy_pickle_and_state_dict():
    constrained = cell(mr.FixedBase(mr.Orthogonal(), 2))
    other = copy.deepcopy(constrained)
    with torch.no_grad():
        other.constraints["weight_hh"].coordinates.normal_()
    constrained.load_state_dict(pickle.loads(pickle.dumps(other)).state_dict())
    assert torch.equal(constrained.weight_hh, other.weight_hh)


def test_a_constraint_of_one_s_own():
    class Symmetric(mr.constraints.Constraint):
        def trivialize(self, like):
            return Half(like)

    class Half(mr.constraints.Parametrization):
        def __init__(self, like):
            super().__init__()
            self.free = nn.Parameter(like.clone())

        def forward(self):
            return (self.free + self.free.mT) / 2

    layer = cell(Symmetric())
    assert torch.equal(layer.weight_hh, layer.weight_hh.mT)
    layer(torch.ones(1, 2).double()).sum().backward()
    with pytest.raises(ManifoldError, match="no retraction"):
        mr.set_retraction(layer, "weight_hh", "exp")
    with pytest.raises(ManifoldError, match="random"):
        cell(Symmetric(), init="haar")
    assert torch.equal(mr.release(copy.deepcopy(layer), "weight_hh").weight_hh, layer.weight_hh)
