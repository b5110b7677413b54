"""`check_constraint` passes every exported constraint and reports each fault by the name of its law."""

import dataclasses

import geoopt
import pytest
import torch
from support.constraint_cases import CONSTRAINTS, SHAPES
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors, testing

# Their documentation says: only shape and dtype of a given weight are used.
USE_ONLY_THE_SHAPE = ("Reflections", "Rotations", "SchurForm", "UnitaryProduct")
ADAPTERS = ("OrthogonalAdapter", "ReflectionAdapter", "StiefelAdapter", "SubspaceAdapter")  # do not save their base
DISCS = ("DiagonalDisc", "SchurDisc")  # move a given weight by up to 1e-4 of the radius
LEFT_OUT = ("Adapted",)  # around one of our own manifolds, which nobody needs


def options(name):
    kind = type(CONSTRAINTS[name]).__name__
    return {
        "shape": SHAPES.get(name, (4, 4)),
        "uses_weight": kind not in USE_ONLY_THE_SHAPE,
        "saves_start": kind not in ADAPTERS or name == "saved adapter",
        "without_gradient": 1 if name == "Reflections" else 0,  # the sign of a real weight
        "reach": 2e-4 if kind in DISCS else None,
    }


@pytest.mark.parametrize("name", [n for n, c in CONSTRAINTS.items() if type(c).__name__ not in LEFT_OUT])
def test_every_exported_constraint_passes(name):
    testing.check_constraint(CONSTRAINTS[name], strict=True, **options(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n, c in CONSTRAINTS.items() if type(c).__name__ not in LEFT_OUT])
def test_every_exported_constraint_passes_with_other_weights(name):
    for dtype in (torch.float64, torch.complex128):
        for seed in (1, 2):
            try:
                report = testing.check_constraint(CONSTRAINTS[name], seed=seed, dtype=dtype, **options(name))
            except errors.DtypeError:
                continue
            report.require()


@pytest.mark.parametrize("manifold", [geoopt.Sphere(), geoopt.EuclideanStiefel(), geoopt.Euclidean(ndim=2)], ids=repr)
def test_manifolds_of_geoopt_pass(manifold):
    report = testing.check_constraint(manifold, strict=True)
    assert report.on_set is not None and report.update_view is not None


@pytest.mark.parametrize(("kind", "atol"), [("bcop", 1e-9), ("soc", 1e-5)])  # "soc" ends a series at an error of 1e-6
def test_a_kernel_passes_in_its_convolution(kind, atol):
    torch.manual_seed(0)
    owner = nn.Conv2d(3, 3, 3, padding=1, padding_mode="circular", bias=False, dtype=torch.float64)
    report = testing.check_constraint(mr.OrthogonalConv(kind), owner=owner, uses_weight=False, atol=atol)
    assert [row.name for row in report.failures] == []


class WeightWithFault(mr.constraints.Parametrization):
    """A symmetric weight with one mistake, given by name."""

    def __init__(self, like, fault):
        super().__init__()
        self.fault, self.calls, self.factor = fault, 0, 1.0
        self.summand = nn.Parameter((like + like.mT) / (5 if fault == "start" else 4))
        self.register_buffer("shift", like.mean() * torch.eye(len(like), dtype=like.dtype), persistent=False)

    def forward(self):
        self.calls += 1
        S = self.summand
        weight = S + (0.9 * S.mT if self.fault == "on_set" else S.mT)
        if self.fault == "repeated":
            weight = weight + self.calls * torch.eye(len(S), dtype=S.dtype)
        if self.fault == "gradient":
            weight = weight + (weight - weight.detach())
        if self.fault == "unreached":
            weight = S.tril() + S.tril().mT
        if self.fault == "state_dict":
            weight = weight + self.shift
        return self.factor * weight

    @torch.no_grad()
    def assign(self, weight):
        if self.fault != "unsolved":
            self.summand.copy_(weight if self.fault == "assigned" else weight / 2)
            return
        super().assign(weight)

    def degrees_of_freedom(self):
        return {"beyond_coordinates": 17, "below_rank": 3}.get(self.fault, super().degrees_of_freedom())

    def __setstate__(self, state):
        super().__setstate__(state)
        self.factor = 1.1 if self.fault == "copied" else self.factor


@dataclasses.dataclass(frozen=True)
class Faulty(mr.constraints.Constraint):
    fault: str = ""

    def trivialize(self, like):
        if like.ndim != 2 or (self.fault != "bad_shapes" and like.shape[0] != like.shape[1]):
            raise errors.ShapeError("The weight is not a square matrix.")
        if self.fault != "accepted" and not like.isfinite().all():
            raise errors.NonFiniteError("The weight is not finite.")
        return WeightWithFault(like, self.fault)


def off_symmetric(weight):
    return (weight - weight.mT).abs()


def test_the_constraint_without_a_fault_passes():
    report = testing.check_constraint(Faulty(), distance=off_symmetric, strict=True)
    assert report.update_view is None and report.assigned == 0
    assert testing.check_constraint(Faulty("unsolved"), strict=True).assigned is None


LAWS = [row.name for row in testing.check_constraint(mr.Orthogonal()).rows]


@pytest.mark.parametrize("fault", [name for name in LAWS if name not in ("update_view", "released")])
def test_each_fault_is_reported_by_name(fault):
    report = testing.check_constraint(Faulty(fault), distance=off_symmetric if fault == "on_set" else None)
    assert fault in [row.name for row in report.failures]
    with pytest.raises(errors.CheckError, match="check_constraint"):
        report.require()


def test_a_weight_that_changes_between_reads_is_not_the_one_that_is_released():
    assert "released" in [row.name for row in testing.check_constraint(Faulty("repeated")).failures]


def test_a_weight_off_its_set_is_found_without_a_distance():
    assert "start" in [row.name for row in testing.check_constraint(Faulty("on_set")).failures]


class Leaving(mr.manifolds.Euclidean):
    """The matrices of norm at most 1, by a retraction that does not stop there."""

    def projx(self, x):
        return x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1)

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        return bool(torch.linalg.matrix_norm(x).max() <= 1 + atol), "too long"

    def defect(self, x):
        return (torch.linalg.matrix_norm(x) - 1).clamp(min=0)


class Outside(Leaving):
    """The same with a projection to norm 2."""

    def projx(self, x):
        return 2 * super().projx(x)


def test_a_manifold_whose_steps_or_projection_leave_it_is_found():
    assert "on_set" in [row.name for row in testing.check_constraint(Leaving()).failures]
    assert "update_view" in [row.name for row in testing.check_constraint(Outside()).failures]


def test_the_state_of_the_generator_and_the_owner_stay():
    owner, state = nn.Linear(4, 4, dtype=torch.float64), torch.get_rng_state()
    before = owner.weight.detach().clone()
    assert testing.check_constraint(mr.Orthogonal(), owner=owner) == testing.check_constraint(
        mr.Orthogonal(), owner=owner
    )
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(owner.weight, before)
    assert type(owner) is nn.Linear and type(owner.weight) is nn.Parameter
