"""Plain parameters of Riemannian optimizers: the functions of torch.optim, with the numbers of `direction`."""

import copy
import io
import warnings

import pytest
import torch
from support.optimizer_cases import OPTIONS, frozen, same
from support.plain_cases import NAMES, REFERENCES, close, run, slopes
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_rnn as mr
from manifold_rnn import optim

CASES = [
    ("RiemannianSGD", {}),
    ("RiemannianSGD", {"momentum": 0.9, "dampening": 0.3}),
    ("RiemannianSGD", {"momentum": 0.9, "nesterov": True}),
    ("RiemannianAdam", {"eps": 1e-3}),
    ("RiemannianAdam", {"amsgrad": True, "betas": (0.8, 0.99)}),
    ("RiemannianRMSprop", {"eps": 1e-3}),
    ("RiemannianRMSprop", {"momentum": 0.9, "initial_accumulator_value": 1.0}),
    ("RiemannianRMSprop", {"centered": True, "eps": 1e-3}),
    ("RiemannianAdagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.1}),
]
IDS = [f"{name.removeprefix('Riemannian')}-{'-'.join(options) or 'default'}" for name, options in CASES]
EACH = pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
DTYPES = (torch.float64, torch.complex128, torch.float32, torch.complex64)


def parameters(generator, constrained=False):
    """Of all kinds: empty, single, transposed, with gaps, of all dtypes."""
    shapes = [(3, 2), (), (0,), (2, 3, 4)]
    params = [torch.randn(s, dtype=d, generator=generator) for s in shapes for d in DTYPES]
    params += [torch.randn(4, 3, generator=generator).t(), torch.randn(6, 4, generator=generator)[:, ::2]]
    params = [torch.nn.Parameter(p) for p in params]
    if constrained:
        params.insert(3, torch.nn.Parameter(mr.Orthogonal().random(4, 4, dtype=torch.float64, generator=generator)))
        params[3].manifold = mr.Orthogonal()
    return params


def twins(name, options, generator, constrained=False):
    params = parameters(generator, constrained)
    others = copy.deepcopy(params)
    for p, q in zip(params, others, strict=True):
        if hasattr(p, "manifold"):
            q.manifold = p.manifold
    return (params, getattr(optim, name)(params, **options)), (others, REFERENCES[name](others, **options))


def joined(optimizer):
    return [plain for _, plain in optimizer._work(captured=False)[1]]


@EACH
@pytest.mark.parametrize("more", [{}, {"weight_decay": 0.1}, {"maximize": True, "weight_decay": 0.1}], ids=str)
@pytest.mark.parametrize("constrained", [False, True])
def test_the_numbers_and_states_are_those_of_direction(name, options, more, constrained, generator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weight decay of a constrained weight
        (p, ours), (q, reference) = twins(name, {"lr": 0.01, **options, **more}, generator, constrained)
    for params, optimizer in ((p, ours), (q, reference)):
        run(params, optimizer, 12, skip=(0, 5))
    close(p, q)
    assert bool(joined(ours)) == ("centered" not in options) and not joined(reference)
    for x, y in zip(p, q, strict=True):
        a, b = ours.state[x], reference.state[y]
        assert a.keys() == b.keys() and a["step"] == b["step"] and type(a["step"]) is int
        moments = [[s[k] for k in sorted(s) if k != "step"] for s in (a, b)]
        close(*moments, single=1e-4)


@EACH
def test_they_are_torchs_own(name, options, generator):
    options = {k: v for k, v in options.items() if k != "initial_accumulator_value" or name == "RiemannianAdagrad"}
    plain = getattr(optim, name).plain
    ours = [p for p in parameters(generator) if not p.is_complex()]
    theirs = copy.deepcopy(ours)
    for params, kind in ((ours, getattr(optim, name)), (theirs, plain)):
        run(params, kind(params, lr=0.01, weight_decay=0.1, **options), 12)
    close(ours, theirs)


@EACH
@pytest.mark.parametrize("constrained", [False, True])
def test_capturable_steps_are_the_same_and_skip(name, options, constrained, generator):
    (p, ours), (q, reference) = twins(name, {"lr": 0.01, "capturable": True, **options}, generator, constrained)
    for params, optimizer in ((p, ours), (q, reference)):
        for bad in (True, False, True):
            slopes(params, torch.Generator().manual_seed(5))
            if bad:
                params[0].grad[0, 0] = torch.inf
            before = [x.detach().clone() for x in params]
            optimizer.step()
            assert not bad or all(map(torch.equal, before, params))
            run(params, optimizer, 3)
        assert optimizer.skipped == 2
        assert all(float(s["step"]) == 10 for s in optimizer.state.values())
    close(p, q)


class Names(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NAMES)
def test_many_parameters_are_one_call(name):
    counts = []
    for many in (4, 64):
        params = [torch.nn.Parameter(torch.ones(3)) for _ in range(many)]
        optimizer = getattr(optim, name)(params, lr=0.01)
        for p in params:
            p.grad = torch.ones(3)
        optimizer.step()
        with Names() as names:
            optimizer.step()
        word = "_foreach" if name == "RiemannianRMSprop" else "_fused"
        assert any(word in n for n in names.seen)
        counts.append(len([n for n in names.seen if "foreach" in n or "fused" in n]))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["capturable", "reference", "file"])
def test_one_state_dict_serves_every_way_of_stepping(name, change, generator):
    options = {"lr": 0.01, **{k: v for k, v in OPTIONS.get(name, {}).items() if k != "centered"}}
    (p, ours), (q, reference) = twins(name, options, generator)
    for params, optimizer in ((p, ours), (q, reference)):
        run(params, optimizer, 4)
    state = copy.deepcopy((reference if change == "reference" else ours).state_dict())  # as a version before has it
    if change == "file":
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    again = getattr(optim, name)(p, **options)
    seen = []
    again.register_load_state_dict_post_hook(lambda o: seen.append("load"))
    again.register_state_dict_post_hook(lambda o, s: seen.append("save"))
    again.load_state_dict(state)
    if change == "capturable":
        for group in again.param_groups:
            group["capturable"] = True
        run(p, again, 2, seed=8)
        for group in again.param_groups:
            group["capturable"] = False
    else:
        run(p, again, 2, seed=8)
    run(p, again, 2, seed=9)
    run(q, reference, 2, seed=8)
    run(q, reference, 2, seed=9)
    close(p, q)
    assert all(s["step"] == 8 for s in again.state_dict()["state"].values()) and seen == ["load", "save"]


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_is_equal_bit_for_bit(name, generator):
    options = {"lr": 0.01, **OPTIONS.get(name, {})}
    params = parameters(generator, constrained=True)[:-1]  # a copy of the last one has no gaps
    optimizer = getattr(optim, name)(params, **options)
    run(params, optimizer, 3)
    others, state = copy.deepcopy(params), copy.deepcopy(optimizer.state_dict())
    others[3].manifold = params[3].manifold
    resumed = getattr(optim, name)(others, **options)
    resumed.load_state_dict(state)
    run(params, optimizer, 3, seed=4)
    run(others, resumed, 3, seed=4)
    assert same(frozen(params, optimizer), frozen(others, resumed))


@pytest.mark.parametrize("name", NAMES)
def test_moments_of_torchs_optimizer_are_taken(name, generator):
    """A run that torch.optim began goes on with its moments and its count."""
    options = {"momentum": 0.9} if name in ("RiemannianSGD", "RiemannianRMSprop") else {}
    params = [p for p in parameters(generator) if not p.is_complex()]
    others = copy.deepcopy(params)
    theirs = getattr(optim, name).plain(params, lr=0.01, **options)
    run(params, theirs, 3)
    run(others, getattr(optim, name).plain(others, lr=0.01, **options), 3)
    ours = getattr(optim, name)(others, lr=0.01, **options)
    ours.load_state_dict({**ours.state_dict(), "state": copy.deepcopy(theirs.state_dict())["state"]})
    run(params, theirs, 3, seed=4)
    run(others, ours, 3, seed=4)
    if name == "RiemannianSGD":  # torch counts no steps of it
        assert all(s["step"] == 3 for s in ours.state.values())
    close(params, others)


def test_a_gradient_scaler_skips_and_scales():
    p, q = ([torch.nn.Parameter(torch.ones(3))] for _ in range(2))
    ours, reference = optim.RiemannianAdam(p, lr=0.01), REFERENCES["RiemannianAdam"](q, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    slopes(p, torch.Generator().manual_seed(3))
    scaler.scale(torch.ones(()))
    for x in p:
        x.grad = 4.0 * x.grad
    scaler.step(ours)
    scaler.update()
    run(q, reference, 1)
    close(p, q)
    before = [x.detach().clone() for x in p]
    p[0].grad.fill_(torch.inf)
    scaler.step(ours)
    assert all(map(torch.equal, before, p))


def test_a_rate_that_is_a_tensor_and_other_tensors_are_stepped_by_themselves(generator):
    class Own(torch.Tensor):
        pass

    special = torch.ones(3).as_subclass(Own).requires_grad_()
    for params, options in (([special], {"lr": 0.01}), (parameters(generator), {"lr": torch.tensor(0.01)})):
        optimizer = optim.RiemannianAdam(params, **options)
        run(params, optimizer, 2)
        assert not joined(optimizer)
    mixed = [*parameters(generator), special]
    optimizer = optim.RiemannianAdam(mixed, lr=0.01)
    run(mixed, optimizer, 2)
    assert sorted(len(plain.params) for plain in joined(optimizer)) == [2, 4, 4, 4, 4]  # those with gaps are not fused


def test_a_subclass_with_its_own_direction_is_not_torchs(generator):
    class Signed(optim.RiemannianAdam):
        def direction(self, batch, x, c, steps, group):
            return c.sign()

    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.full((3,), 5.0)
    Signed([p], lr=0.5).step()
    assert torch.equal(p.detach(), torch.full((3,), 0.5))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_graph_from_before_the_step_is_refused(name, capturable):
    """Torch's fused functions alone would leave the version, and the gradient would be one of other numbers."""
    p = torch.nn.Parameter(torch.ones(3))
    loss, optimizer = p.square().sum(), getattr(optim, name)([p], lr=0.1, capturable=capturable)
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
