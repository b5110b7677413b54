"""With ``capturable=True`` a step is the same list of operations for any numbers, and none of them waits."""

import copy

import pytest
import torch
from support.optimizer_cases import point
from support.tolerances import atol
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import manifold_rnn as mr
from manifold_rnn import optim
from manifold_rnn.errors import UnsupportedError

WAIT = ("_local_scalar_dense", "nonzero", "unique", "equal", "is_", "svd", "eig", "matrix_exp", "masked_select")
RETRACTIONS = ("cayley", "exp", "qr", "polar")
MANIFOLDS = {
    "orthogonal": (mr.Orthogonal, torch.float32, (8, 8)),
    "special": (mr.SpecialOrthogonal, torch.float32, (8, 8)),
    "unitary": (mr.Unitary, torch.complex64, (8, 8)),
    "special unitary": (mr.SpecialUnitary, torch.complex64, (8, 8)),
    "real form": (mr.UnitaryRealForm, torch.float32, (8, 8)),
    "tall": (mr.Stiefel, torch.float32, (8, 3)),
    "nearly square": (mr.Stiefel, torch.complex64, (5, 4)),
}
OPTIMIZERS = {
    "RiemannianSGD": {"momentum": 0.9},
    "RiemannianAdam": {"amsgrad": True},
    "RiemannianRMSprop": {"centered": True, "momentum": 0.9},
    "RiemannianAdagrad": {},
    "RiemannianMuon": {"scale": "nuclear"},
    "Landing": {"momentum": 0.9, "nesterov": True},
}


class Operations(TorchDispatchMode):
    """Record operations, and refuse those that read numbers or bring tensors from elsewhere."""

    def __init__(self, device):
        super().__init__()
        self.device, self.names = device, []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__
        assert not any(word in name for word in WAIT), name
        out = func(*args, **(kwargs or {}))
        devices = {t.device.type for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)}
        assert devices <= {self.device}, (name, devices)
        self.names.append(name)
        return out


def parameters(manifold, dtype, shape, device, count=3):
    """Parameters with a manifold as an attribute, which is what optimizers look for."""
    found = []
    for k in range(count):
        x = torch.empty(shape, dtype=dtype, device=device)
        if device == "cpu":
            x = manifold.random(*shape, dtype=dtype, generator=torch.Generator().manual_seed(k))
        p = torch.nn.Parameter(x)
        p.manifold = manifold
        found.append(p)
    return found


def operations(optimizer, params, scale, generator):
    for p in params:
        p.grad = scale * torch.randn(p.shape, dtype=p.dtype, generator=generator).to(p.device)
    with Operations(params[0].device.type) as seen:
        optimizer.step()
    return seen.names


CASES = [("RiemannianAdam", kind, retraction) for kind in MANIFOLDS for retraction in RETRACTIONS]
CASES += [(name, kind, "qr") for name in OPTIMIZERS for kind in ("orthogonal", "unitary", "tall")]
CASES += [("RiemannianSGD", "orthogonal", "polar"), ("RiemannianSGD", "tall", "exp")]
CASES += [("RiemannianMuon", kind, "polar") for kind in MANIFOLDS]


@pytest.mark.parametrize(("name", "kind", "retraction"), CASES)
def test_a_step_never_waits_and_does_the_same_for_any_numbers(name, kind, retraction, generator):
    of, dtype, shape = MANIFOLDS[kind]
    manifold = of(retraction)
    for device in ("cpu", "meta"):  # nothing can be read from the second, or brought there unseen
        params = [*parameters(manifold, dtype, shape, device), torch.nn.Parameter(torch.ones(3, device=device))]
        optimizer = getattr(optim, name)(params, lr=0.05, capturable=True, **OPTIMIZERS[name])
        operations(optimizer, params, 1.0, generator)  # makes the states
        small, large, bad = (operations(optimizer, params, s, generator) for s in (1e-6, 1e3, torch.nan))
        assert small == large == bad
        if device == "cpu":
            assert optimizer.skipped == 1
            assert all(p.isfinite().all() for p in params)


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("shape", [(8, 3), (5, 4), (4, 1)])
@pytest.mark.parametrize("scale", [0.0, 1e-8, 0.5, 20.0])
def test_tall_retractions_that_do_not_wait_are_the_others(retraction, shape, scale, generator):
    manifold = mr.Stiefel(retraction)
    x = manifold.random(2, *shape, dtype=torch.float64, generator=generator)
    u = scale * manifold.proju(x, torch.randn(2, *shape, dtype=torch.float64, generator=generator))
    expected = manifold.retr(x, u)
    with torch.no_grad(), mr.linalg.fixed_iterations():
        torch.testing.assert_close(manifold.retr(x, u), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("manifold", [mr.UnitDisc(), mr.Contraction()], ids=lambda m: type(m).__name__)
def test_manifolds_whose_steps_wait_are_refused(manifold):
    p = torch.nn.Parameter(torch.eye(3))
    p.manifold = manifold
    optim.RiemannianSGD([p], lr=0.1)
    with pytest.raises(UnsupportedError, match=r"capturable=True .*\n.*eigenvalues or singular values"):
        optim.RiemannianSGD([p], lr=0.1, capturable=True)


def test_weights_of_unequal_numbers_of_steps_keep_their_own_when_counts_may_be_read(generator):
    manifold, alone = mr.Orthogonal(), []
    params = [point(manifold, (4, 4), torch.float64, generator) for _ in range(2)]
    before = optim.RiemannianAdam(params, lr=0.1, capturable=True)
    for k in range(3):
        for p in params[: 1 if k else 2]:
            p.grad = torch.randn(4, 4, dtype=torch.float64, generator=generator)
        before.step()
        before.zero_grad()
    for p in params:
        p.grad = torch.randn(4, 4, dtype=torch.float64, generator=generator)
    for k, p in enumerate(params):
        q = torch.nn.Parameter(p.detach().clone())
        q.manifold, q.grad = manifold, p.grad.clone()
        single = optim.RiemannianAdam([q], lr=0.1)
        single.state[q] = copy.deepcopy(before.state[p]) | {"step": 1 if k else 3}
        single.step()
        alone.append(q.detach())
    saved = before.state_dict()
    saved["param_groups"][0]["capturable"] = False
    together = optim.RiemannianAdam(params, lr=0.1)
    together.load_state_dict(saved)
    together.step()
    torch.testing.assert_close([p.detach() for p in params], alone, atol=atol(torch.float64), rtol=0)
