"""The layer with every kind of constraint, in either view."""

import copy

import geoopt
import pytest
import torch
from support.counting import evaluations, map_calls
from torch import nn
from torch.utils.checkpoint import checkpoint

import manifold_rnn as mr
from manifold_rnn.linalg import defect

N = 6
CASES = {
    "orthogonal": (mr.Orthogonal("qr"), "update", torch.float32),
    "orthogonal-trivialized": (mr.Orthogonal("polar"), "trivialized", torch.float32),
    "rotation": (mr.SpecialOrthogonal("exp"), "update", torch.float64),
    "rotation-trivialized": (mr.SpecialOrthogonal("exp"), "trivialized", torch.float64),
    "unitary": (mr.Unitary(), "update", torch.complex64),
    "unitary-trivialized": (mr.Unitary("exp"), "trivialized", torch.complex128),
    "real form": (mr.UnitaryRealForm(), "update", torch.float32),
    "real form-trivialized": (mr.UnitaryRealForm(), "trivialized", torch.float32),
    "fixed base": (mr.FixedBase(mr.Orthogonal(), negatives=3), "trivialized", torch.float32),
    "geoopt": (geoopt.EuclideanStiefel(), "update", torch.float32),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def layer(case):
    constraint, view, dtype = case
    options = {"num_layers": 2, "bidirectional": True, "dtype": dtype, "constraint": constraint, "view": view}
    return mr.nn.RNN(3, N, nonlinearity="modrelu", **options)


def inputs(layer, steps=7):
    dtype = layer.weight_ih_l0.dtype.to_real()
    return torch.randn(steps, 2, 3, dtype=dtype, generator=torch.Generator().manual_seed(0))


def matrices(layer):
    return [weights[1].detach().clone() for weights in layer.all_weights]


def bound(W):
    return 100 * torch.finfo(W.dtype).eps


def loss(layer, x):
    return layer(x)[0].abs().square().mean()


def test_every_level_and_direction_starts_and_stays_on_the_manifold(layer, case):
    optimizer = (mr.optim.RiemannianAdam if case[1] == "update" else torch.optim.Adam)(layer.parameters(), lr=0.01)
    before = matrices(layer)
    for _ in range(5):
        optimizer.zero_grad()
        loss(layer, inputs(layer)).backward()
        optimizer.step()
    assert len(before) == 4
    for old, new in zip(before, matrices(layer), strict=True):
        assert (old - new).abs().max() > 1e-4
        assert max(defect(old), defect(new)) < bound(new)


def test_the_matrix_is_computed_once_for_a_hundred_steps(layer, case):
    x = inputs(layer, steps=100)
    with evaluations(layer) as counts, map_calls() as calls:
        loss(layer, x).backward()
    if case[1] == "update":
        assert not counts
        assert not calls
    else:
        names = [f"weight_hh_l{k}{direction}" for k in (0, 1) for direction in ("", "_reverse")]
        assert counts == dict.fromkeys(names, 1)


def test_the_layer_never_learns_of_its_constraint(layer):
    dense = copy.deepcopy(layer)
    for k in (0, 1):
        for direction in ("", "_reverse"):
            mr.release(dense, f"weight_hh_l{k}{direction}")
    x = inputs(layer)
    torch.testing.assert_close(layer(x), dense(x), rtol=0, atol=0)


def test_drawing_anew_leaves_the_matrix_on_its_manifold(layer):
    before, others = matrices(layer), layer.weight_ih_l0.clone()
    layer.reset_parameters()
    assert all(torch.equal(old, new) for old, new in zip(before, matrices(layer), strict=True))
    assert not torch.equal(others, layer.weight_ih_l0)


def test_state_goes_round(layer, case):
    constraint, view, dtype = case
    other = mr.nn.RNN(3, N, 2, "modrelu", bidirectional=True, dtype=dtype, constraint=constraint, view=view)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(inputs(layer)), layer(inputs(layer)), rtol=0, atol=0)


def test_checkpointing_changes_no_gradient(layer):
    results = []
    for run in (layer, lambda x: checkpoint(layer, x, use_reentrant=False)):
        layer.zero_grad()
        run(inputs(layer))[0].abs().square().mean().backward()
        results.append([p.grad.clone() for p in layer.parameters()])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_patterns_reach_every_recurrent_matrix(view):
    model = nn.Sequential(mr.nn.RNN(3, N, 2, bidirectional=True))
    mr.constrain_matching(model, {"*.weight_hh_l*": mr.Orthogonal()}, view=view)
    assert all(defect(W) < bound(W) for W in matrices(model[0]))


def test_weights_of_torchs_layer_load_and_are_constrained_afterwards():
    theirs = nn.RNN(3, N)
    nn.init.orthogonal_(theirs.weight_hh_l0)
    free, bounded = mr.nn.RNN(3, N), mr.nn.RNN(3, N, constraint=mr.Orthogonal())
    for ours in (free, bounded):
        ours.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(ours(torch.ones(7, 2, 3)), theirs(torch.ones(7, 2, 3)), atol=1e-6, rtol=0)
    mr.constrain(free, "weight_hh_l0", mr.Orthogonal(), view="trivialized")
    torch.testing.assert_close(free(torch.ones(7, 2, 3)), theirs(torch.ones(7, 2, 3)), atol=1e-6, rtol=0)


def test_a_constraint_for_another_field_is_refused():
    with pytest.raises(mr.errors.DtypeError, match="complex"):
        mr.nn.RNN(3, N, constraint=mr.Unitary())
    with pytest.raises(mr.errors.ShapeError):
        mr.nn.RNN(3, N + 1, constraint=mr.UnitaryRealForm())
    with pytest.raises(mr.errors.OptionError, match="view"):
        mr.nn.RNN(3, N, constraint=mr.Orthogonal(), view="moved")


def test_an_orthogonal_linear_layer_keeps_the_norm_of_its_state():
    layer = mr.nn.RNN(3, N, nonlinearity="modrelu", bias=False, dtype=torch.complex128, constraint=mr.Unitary())
    h = torch.randn(1, 2, N, dtype=torch.complex128)
    y, _ = layer(torch.zeros(50, 2, 3, dtype=torch.float64), h)
    torch.testing.assert_close(y.norm(dim=-1), h.norm(dim=-1).expand(50, 2), atol=1e-12, rtol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_compiles_into_one_graph(view):
    layer = mr.nn.RNN(3, N, constraint=mr.Orthogonal(), view=view)
    torch._dynamo.reset()  # or the compilations of other tests count
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(inputs(layer)), layer(inputs(layer)))
