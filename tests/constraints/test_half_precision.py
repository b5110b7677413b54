"""Checkpoints in half precision, whole or in part, into models in single and double precision."""

import copy

import pytest
import torch
from support import naive
from support.tolerances import atol

import manifold_rnn as mr
from manifold_rnn import errors

VIEWS = ("update", "trivialized")
MANIFOLDS = {
    "orthogonal": (mr.Orthogonal, torch.float32, (12, 12)),
    "special": (mr.SpecialOrthogonal, torch.float32, (8, 8)),
    "unitary": (mr.Unitary, torch.complex64, (6, 6)),
    "tall": (mr.Stiefel, torch.float32, (12, 5)),
    "gates": (lambda: mr.manifolds.Blocks(mr.Orthogonal(), blocks=2), torch.float32, (12, 6)),
}


def layer(kind, view, double=False):
    make, dtype, (n, p) = MANIFOLDS[kind]
    if double:
        dtype = torch.complex128 if dtype.is_complex else torch.float64
    module = torch.nn.Linear(p, n, bias=True, dtype=dtype)
    return mr.constrain(module, "weight", make(), view=view, init="haar")


def rounded(t, half):
    if t.is_complex():  # which has no half precision that matrices are loaded from
        return torch.complex(t.real.to(half).to(t.real.dtype), t.imag.to(half).to(t.real.dtype))
    return t.to(half) if t.is_floating_point() else t


@pytest.mark.parametrize("widened", [False, True])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", MANIFOLDS)
def test_a_half_precision_copy_is_polished_where_it_is_loaded(kind, view, half, double, widened):
    source, target = layer(kind, view), layer(kind, view, double)
    if view == "trivialized":
        with torch.no_grad():
            source.constraints["weight"].coordinates.normal_(std=0.1)
    state = {k: rounded(t, half) for k, t in source.state_dict().items()}
    if widened:  # a copy that was converted back, so that its dtype does not show what it lost
        state = {k: t.to(source.state_dict()[k].dtype) for k, t in state.items()}
    if kind != "gates":
        del state["bias"]
        state["bias"] = source.bias.detach()  # mixed
    target.load_state_dict(state)
    manifold = MANIFOLDS[kind][0]()
    bound = atol(torch.float64 if double else torch.float32)
    assert float(manifold.defect(naive.wide(target.weight.detach())).max()) < bound
    torch.testing.assert_close(naive.wide(target.weight), naive.wide(source.weight), atol=2e-2, rtol=0)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("kind", MANIFOLDS)
def test_what_is_truly_off_is_still_refused(kind, view):
    target = layer(kind, view)
    before = copy.deepcopy(target.state_dict())
    name = "weight" if view == "update" else "constraints.weight.base"
    for half in (torch.bfloat16, torch.float16):
        for factor in (0.5, 1.4, 3.0):
            state = dict(before)
            state[name] = rounded(factor * before[name], half)
            with pytest.raises(errors.OffManifoldError):
                target.load_state_dict(state)
            assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


@pytest.mark.parametrize("view", VIEWS)
def test_an_assigned_checkpoint_keeps_its_dtype(view):
    source, target = layer("orthogonal", view).bfloat16(), layer("orthogonal", view)
    target.load_state_dict(source.state_dict(), assign=True)
    assert target.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("metric", ["euclidean", "canonical"])
@pytest.mark.parametrize("shape", [(6, 4), (5, 5), (6, 1)], ids=str)
def test_gradient_descent_is_the_same_in_both_views_in_either_metric(metric, shape, generator):
    found = []
    for view in VIEWS:
        torch.manual_seed(0)
        module = torch.nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)
        options = {"rebase_every": 1} if view == "trivialized" else {}
        mr.constrain(module, "weight", mr.Stiefel("qr", metric), view=view, **options)
        optimizer = (mr.optim.RiemannianSGD if view == "update" else torch.optim.SGD)(module.parameters(), lr=0.02)
        x, y = (torch.randn(20, k, dtype=torch.float64) for k in shape[::-1])
        for _ in range(30):
            optimizer.zero_grad()
            (module(x) - y).square().mean().backward()
            optimizer.step()
        found.append(module.weight.detach())
    torch.testing.assert_close(*found, atol=1e-12, rtol=0)
