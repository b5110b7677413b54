"""Plain parameters go through torch's own functions: the numbers of `direction`, which a subclass still uses."""

import copy
import io
import warnings

import pytest
import torch
from support.optimizer_cases import OPTIONS, frozen, same
from torch.utils._python_dispatch import TorchDispatchMode

import manifold_rnn as mr
from manifold_rnn import optim
from manifold_rnn.errors import NonFiniteError, OptimizerError, OptionError, UnsupportedError

NAMES = ("RiemannianSGD", "RiemannianAdam", "RiemannianRMSprop", "RiemannianAdagrad")
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
REFERENCES = {name: type(f"{name}Reference", (getattr(optim, name),), {}) for name in NAMES}  # by `direction`


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


def slopes(params, generator):
    for p in params:
        g = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        p.grad = g.mT.contiguous().mT if p.ndim > 1 else g  # whose memory is not in the order of the parameter's


def twins(name, options, generator, constrained=False):
    params = parameters(generator, constrained)
    others = copy.deepcopy(params)
    for p, q in zip(params, others, strict=True):
        if hasattr(p, "manifold"):
            q.manifold = p.manifold
    return (params, getattr(optim, name)(params, **options)), (others, REFERENCES[name](others, **options))


def run(params, optimizer, steps, seed=3, skip=()):
    generator = torch.Generator().manual_seed(seed)
    for k in range(steps):
        slopes(params, generator)
        for i in skip if k == 0 else ():
            params[i].grad = None
        optimizer.step()


def close(a, b, single=1e-5):
    for p, q in zip(a, b, strict=True):
        atol = single if p.dtype in (torch.float32, torch.complex64) else 1e-12
        torch.testing.assert_close(p.detach(), q.detach(), atol=atol, rtol=0)


def joined(optimizer):
    return [plain for _, plain in optimizer._work()[1]]


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


# --- bad input: named, and nothing is changed ---


def sparse(params, optimizer):
    params[0].grad = torch.eye(3).to_sparse()


def no_number(params, optimizer):
    params[1].grad[0] = torch.nan


def too_large(params, optimizer):
    params[0].grad[0, 0] = -torch.inf


def other_shape(params, optimizer):
    optimizer.state[params[0]]["exp_avg"] = torch.ones(5)


def off_its_manifold(params, optimizer):
    with torch.no_grad():
        params[2].mul_(2)


def no_result(params, optimizer):
    params[2].grad.fill_(1e38)


BAD = {
    "sparse": (sparse, UnsupportedError, "dense gradients"),
    "nan": (no_number, NonFiniteError, "1 of 3 .* number 1 of group 0"),
    "infinity": (too_large, NonFiniteError, "1 of 9 .* number 0 of group 0"),
    "moments": (other_shape, OptimizerError, "'exp_avg' .* shape"),
    "constrained one": (off_its_manifold, mr.errors.OffManifoldError, "overwritten"),
}


@pytest.mark.parametrize("bad", BAD)
def test_bad_input_is_named_and_nothing_is_changed(bad):
    spoil, error, words = BAD[bad]
    params = [torch.nn.Parameter(torch.eye(3)), torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.eye(3))]
    params[2].manifold = mr.Orthogonal()
    optimizer = optim.RiemannianAdam(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    spoil(params, optimizer)
    before = frozen(params, optimizer)
    with pytest.raises(error, match=words) as caught:
        optimizer.step()
    assert len(str(caught.value)) <= 400
    assert same(before, frozen(params, optimizer))


def transposed(p):
    p.data = torch.randn(4, 3, generator=torch.Generator().manual_seed(2)).t()


def spaced(p):
    p.data = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))[:, ::2]


def double(p):
    p.data = p.data.double()


@pytest.mark.parametrize("change", [transposed, spaced, double])
@pytest.mark.parametrize("name", NAMES)
def test_another_memory_of_a_parameter_is_seen(name, change):
    """Torch's fused functions do not look at strides, and do not check that dtypes agree within a list."""
    ways = []
    for kind in (getattr(optim, name), REFERENCES[name]):
        params = [torch.nn.Parameter(torch.ones(3, 4)) for _ in range(2)]
        optimizer = kind(params, lr=0.01)
        run(params, optimizer, 1)
        change(params[1])
        if change is double:
            optimizer.load_state_dict(optimizer.state_dict())
        run(params, optimizer, 2)
        ways.append(params)
    assert ways[0][1].dtype == (torch.float64 if change is double else torch.float32)
    close(*([p.float() for p in params] for params in ways))  # the first step was one in float32


@pytest.mark.parametrize("name", ["RiemannianAdam", "RiemannianRMSprop", "RiemannianAdagrad"])
@pytest.mark.parametrize("load", [False, True])
def test_moments_of_whole_matrices_are_refused(name, load):
    """Torch's fused functions write beyond the memory of moments that are smaller than their parameters."""
    params = [torch.nn.Parameter(torch.eye(4)) for _ in range(2)]
    optimizer = getattr(optim, name)(params, lr=0.01)
    run(params, optimizer, 1)
    state = optimizer.state[params[1]]
    square = next(k for k in state if k in ("exp_avg_sq", "square_avg", "sum"))
    state[square] = torch.ones(1, 1)  # as ``second_moment="matrix"`` has it on a manifold
    if load:
        optimizer.load_state_dict(optimizer.state_dict())
    before = frozen(params, optimizer)
    with pytest.raises(OptimizerError, match=f"'{square}' .* shape"):
        optimizer.step()
    assert same(before, frozen(params, optimizer))


@pytest.mark.parametrize(
    "options", [{"lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1.0}, {"weight_decay": -0.1}], ids=str
)
def test_bad_options_of_plain_parameters_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        optim.RiemannianAdam([torch.nn.Parameter(torch.ones(3))], **options)
