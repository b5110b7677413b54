"""Convolutions that are orthogonal maps: every singular value, the layers they are put on, and where they start."""

import copy
import io
import math
import pickle

import pytest
import torch
from support import naive
from support.seeds import seeded
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors
from manifold_rnn.diagnostics import conv_singular_values

REAL, COMPLEX = torch.float64, torch.complex128
CASES = {  # out, in, taps, stride, groups
    "square": (6, 6, (3, 3), 1, 1),
    "one tap": (5, 3, (1, 1), 1, 1),
    "even": (4, 4, (2, 4), 1, 1),
    "more outputs": (7, 4, (3, 2), 1, 1),
    "more inputs": (3, 6, (2, 3), 1, 1),
    "a row": (4, 4, (1, 3), 1, 1),
    "groups": (6, 4, (3, 3), 1, 2),
    "1d": (5, 5, (4,), 1, 1),
    "1d, stride": (4, 3, (5,), 2, 1),
    "stride": (6, 5, (3, 3), 2, 1),
    "stride of the taps": (4, 4, (2, 2), 2, 2),
    "stride, more outputs": (14, 3, (3, 4), 2, 1),
    "two strides": (4, 4, (2, 3), (2, 1), 1),
    "one channel to four": (4, 1, (3, 3), 2, 1),
}
OF_COMPLEX = [(case, COMPLEX) for case in ("square", "more outputs", "1d", "groups", "stride", "one channel to four")]


def conv(case, constraint=None, dtype=REAL, scale=0.5, **options):
    out, into, taps, stride, groups = CASES[case] if isinstance(case, str) else case
    torch.manual_seed(0)
    kind = nn.Conv1d if len(taps) == 1 else nn.Conv2d
    layer = kind(into * groups if isinstance(case, str) else into, out, taps, stride, groups=groups, dtype=dtype)
    mr.constrain(layer, "weight", constraint or mr.OrthogonalConv(), view="trivialized", **options)
    with torch.no_grad():
        for p in layer.constraints.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype, generator=seeded(1)), alpha=scale)
    return layer


def entry(layer):
    return layer.constraints["weight"]


def off(layer, size):
    values = conv_singular_values(layer.weight, size, stride=layer.stride, groups=layer.groups)
    return max(values.norm - 1, 1 - values.smallest)


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((c, d) for c in CASES for d in (torch.float32, REAL)), ("groups", torch.complex64), *OF_COMPLEX],
    ids=str,
)
def test_all_singular_values_are_1(case, dtype):
    layer = conv(case, dtype=dtype)
    assert off(layer, 12) < 5 * atol(dtype) / 10 and entry(layer).defect() < 5 * atol(dtype) / 10


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (REAL, 1e-12)], ids=str)
@pytest.mark.parametrize(("taps", "stride"), [(k, s) for s in (1, 2) for k in range(s, 6)])
@pytest.mark.parametrize("channels", [8, pytest.param(64, marks=pytest.mark.slow)])
def test_the_figure_for_kernels_and_strides_on_32_by_32(channels, taps, stride, dtype, most):
    layer = conv((channels, channels, (taps, taps), stride, 1), dtype=dtype, scale=0.1)
    assert off(layer, 32) < most


def operator(layer, size):
    """The matrix of a layer, by its own forward on every pixel."""
    basis = torch.eye(layer.in_channels * math.prod(size), dtype=layer.weight.dtype)
    return layer(basis.reshape(-1, layer.in_channels, *size)).flatten(1).mT


@pytest.mark.parametrize(
    ("taps", "stride", "padding"),
    [(3, 1, 1), (5, 1, "same"), (2, 1, "same"), (4, 1, "same"), (3, 2, 1), (4, 2, 1), (2, 2, 0), (5, 2, 2), (3, 3, 0)],
)
@pytest.mark.parametrize("channels", [(4, 4), (2, 4), (4, 2)], ids=str)
def test_circular_padding_makes_the_layer_an_orthogonal_map(channels, taps, stride, padding):
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, taps, stride, padding, padding_mode="circular", bias=False, dtype=REAL)
    mr.constrain(layer, "weight", mr.OrthogonalConv(), view="trivialized")
    matrix, side = operator(layer, (6, 6)).detach(), entry(layer).side
    assert side == (
        "both" if matrix.shape[0] == matrix.shape[1] else "rows" if len(matrix) < len(matrix.T) else "columns"
    )
    assert side in repr(layer)
    torch.testing.assert_close(torch.linalg.svdvals(matrix), torch.ones(min(matrix.shape), dtype=REAL))


@pytest.mark.parametrize("padding", [0, 1, 2, 4])
@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize(("channels", "stride"), [((4, 4), 1), ((3, 4), 1), ((2, 8), 2)], ids=str)
def test_other_padding_lets_no_image_grow(channels, stride, padding, mode):
    if mode == "circular" and padding > 1:
        pytest.skip("refused")
    torch.manual_seed(0)
    layer = nn.Conv2d(*channels, 3, stride, padding, padding_mode=mode, bias=False, dtype=REAL)
    mr.constrain(layer, "weight", mr.OrthogonalConv(), view="trivialized")
    values = torch.linalg.svdvals(operator(layer, (6, 6)).detach())
    assert values.max() < 1 + 1e-12
    if padding >= 2 and stride == 1:  # nothing is cut off: no image shrinks
        torch.testing.assert_close(values, torch.ones_like(values))


@pytest.mark.parametrize("size", [8, 9, 11])
def test_circular_padding_reads_pixels_twice_where_the_stride_does_not_divide_the_image(size):
    layer = nn.Conv1d(2, 4, 3, 2, 1, padding_mode="circular", bias=False, dtype=REAL)
    mr.constrain(layer, "weight", mr.OrthogonalConv(), view="trivialized", init="haar")
    norm = torch.linalg.matrix_norm(operator(layer, (size,)).detach(), 2)
    torch.testing.assert_close(norm, torch.tensor(1.0 if size % 2 == 0 else 2.0, dtype=REAL).sqrt())


def test_dilation_is_orthogonal_too():
    layer = nn.Conv2d(3, 3, 3, padding=2, dilation=2, padding_mode="circular", bias=False, dtype=REAL)
    mr.constrain(layer, "weight", mr.OrthogonalConv(), view="trivialized")
    torch.testing.assert_close(torch.linalg.svdvals(operator(layer, (7, 6)).detach()), torch.ones(126, dtype=REAL))


@pytest.mark.parametrize(("case", "dtype"), [*((c, REAL) for c in CASES), *OF_COMPLEX], ids=str)
def test_agrees_with_the_product_of_its_factors_and_every_gradient(case, dtype):
    module = entry(conv(case, dtype=dtype))
    W = module()
    core, frames = module.core(), module.frames() if module.frames else None
    groups, kernels = module.geometry.groups, []
    out, into = (W.shape[1], W.shape[0] // groups) if module.exchanged else (W.shape[0] // groups, W.shape[1])
    for g in range(groups):
        rows = core[g] if core.shape[-2:] == (out, into * math.prod(module.geometry.stride)) else core[g].mT
        one = rows.unflatten(-1, (*module.geometry.stride, into)).movedim(-1, 1)
        zero = torch.zeros(sum(module.counts), into, into, dtype=dtype)
        projectors = zero if frames is None else [frames[k, g] @ frames[k, g].mH for k in range(sum(module.counts))]
        kernel = naive.orthogonal_kernel(one, projectors, module.counts)
        axes = tuple(range(2, kernel.ndim))
        kernels.append(kernel.transpose(0, 1).flip(axes).conj() if module.exchanged else kernel)
    expected = torch.cat(kernels)
    torch.testing.assert_close(W, expected, atol=1e-13, rtol=0)
    g = torch.randn(W.shape, dtype=dtype, generator=seeded(2))
    own, same = (torch.autograd.grad(K, list(module.parameters()), g, retain_graph=True) for K in (W, expected))
    torch.testing.assert_close(own, same, atol=1e-11, rtol=0)


@pytest.mark.parametrize("dtype", [REAL, pytest.param(COMPLEX, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize("case", ["square", "more inputs", "1d, stride"])
@pytest.mark.parametrize("kind", ["bcop", "soc"])
def test_gradients_of_both_orders(kind, case, dtype):
    if kind == "soc" and case != "square":
        pytest.skip("equal channels only")
    small = {"square": (2, 2, (3, 3), 1, 1), "more inputs": (2, 3, (2, 2), 1, 1), "1d, stride": (2, 2, (3,), 2, 1)}
    module = entry(conv(small[case], mr.OrthogonalConv(kind), dtype))
    names, values = zip(*module.named_parameters(), strict=True)

    def weight(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), ())

    values = tuple(v.detach().requires_grad_() for v in values)
    assert torch.autograd.gradcheck(weight, values) and torch.autograd.gradgradcheck(weight, values, fast_mode=True)


# --- where a kernel starts ---


@pytest.mark.parametrize(
    ("case", "dtype"),
    [*((c, REAL) for c in CASES), ("groups", torch.float32), ("stride", torch.float32), *OF_COMPLEX[1:5]],
    ids=str,
)
def test_a_kernel_of_the_form_is_found_again_and_assigned(case, dtype):
    W = conv(case, dtype=dtype).weight.detach()
    again = conv(case, dtype=dtype, init=lambda _: W, scale=0)
    torch.testing.assert_close(again.weight.detach(), W, atol=2 * atol(dtype), rtol=0)
    other = conv(case, dtype=dtype, init="haar")
    assert case == "one channel to four" or not torch.allclose(other.weight, W, atol=1e-2)
    other.weight = W
    torch.testing.assert_close(other.weight.detach(), W, atol=2 * atol(dtype), rtol=0)


@pytest.mark.parametrize("taps", [1, 3, 5])
def test_starts_at_the_identity(taps):
    dirac = torch.zeros(5, 5, taps, taps, dtype=REAL)
    dirac[:, :, taps // 2, taps // 2] = torch.eye(5)
    layer = conv((5, 5, (taps, taps), 1, 1), init=lambda _: dirac, scale=0)
    torch.testing.assert_close(layer.weight.detach(), dirac, atol=1e-14, rtol=0)


def test_starts_nearer_to_a_free_kernel_than_a_random_one_is():
    torch.manual_seed(0)
    free = nn.Conv2d(8, 8, 3).weight.detach()
    free = free * math.sqrt(8) / free.norm()  # the length of an orthogonal kernel
    near, random = (mr.OrthogonalConv().trivialize(K)() for K in (free, mr.OrthogonalConv().random_like(free)))
    assert (near - free).norm() < 0.8 * (random - free).norm()


def test_random_kernels_have_no_mean_and_follow_the_seed():
    like = torch.empty(4, 4, 2, 2)
    torch.manual_seed(3)
    one = mr.OrthogonalConv().random_like(like)
    torch.manual_seed(3)
    assert torch.equal(one, mr.OrthogonalConv().random_like(like))
    draws = mr.OrthogonalConv(groups=400).random_like(torch.empty(1600, 4, 2, 2)).unflatten(0, (400, 4))
    assert draws.mean(0).abs().max() < 5 * 0.25 / 20  # entries have variance 1/16 at most


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e30])
@pytest.mark.parametrize("kind", ["bcop", "soc"])
def test_starts_from_kernels_of_any_size(size, kind):
    W = torch.randn(4, 4, 3, 3, generator=seeded()) * size
    module = mr.OrthogonalConv(kind).trivialize(W)
    module().sum().backward()
    assert module.defect() < 1e-5 and all(p.grad.isfinite().all() for p in module.parameters())


def test_a_kernel_that_is_not_reached_is_refused_and_nothing_changes():
    layer = conv("square")
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(errors.OffManifoldError, match="OrthogonalConv cannot represent"):
        layer.weight = torch.randn(6, 6, 3, 3, dtype=REAL)
    assert all(torch.equal(v, before[k]) for k, v in layer.state_dict().items())
    entry(layer).assign_nearest(torch.randn(6, 6, 3, 3, dtype=REAL))
    assert off(layer, 8) < 1e-13


@pytest.mark.parametrize("own", [torch.float32, REAL], ids=str)
def test_a_kernel_of_another_precision_is_assigned_up_to_the_rounding_of_both(own):
    layer = conv("more outputs", dtype=own)
    W = layer.weight.detach().to(REAL if own == torch.float32 else torch.float32)
    layer.weight = W
    torch.testing.assert_close(layer.weight.detach().double(), W.double(), atol=1e-5, rtol=0)
    with pytest.raises(errors.OffManifoldError):
        layer.weight = W.to(COMPLEX) * 1j


# --- as any other constraint ---


KINDS = {"bcop": ("groups", mr.OrthogonalConv()), "soc": ((4, 4, (5, 3), 1, 2), mr.OrthogonalConv("soc"))}


@pytest.fixture(params=KINDS)
def layer(request):
    case, constraint = KINDS[request.param]
    case = (4, 4, (5, 3), 1, 2) if request.param == "soc" else case
    return conv(case, constraint)


def test_saves_copies_pickles_converts_and_releases(layer):
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(torch.load(file))
    for same in (other, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.testing.assert_close(same.weight, layer.weight, atol=1e-15, rtol=0)
    W = layer.weight.detach().clone()
    assert layer.float().weight.dtype == torch.float32 and entry(layer).defect() < 1e-5
    torch.testing.assert_close(layer.double().weight.detach(), W, atol=1e-5, rtol=0)
    W = layer.weight.detach().clone()
    mr.release(layer, "weight")
    torch.testing.assert_close(layer.weight.detach(), W, atol=1e-15, rtol=0)  # transforms round as memory lies
    assert type(layer) is nn.Conv2d


def test_what_is_not_finite_is_not_loaded_nor_assigned(layer):
    before = layer.weight.detach().clone()
    for key in [k for k in layer.state_dict() if k.startswith("constraints")]:
        state = layer.state_dict()
        with pytest.raises(errors.NonFiniteError):
            layer.load_state_dict({**state, key: torch.full_like(state[key], torch.nan)})
    assert torch.equal(layer.weight, before)


def test_trains_and_stays_orthogonal():
    torch.manual_seed(0)
    layer = mr.constrain(nn.Conv2d(8, 8, 3, padding=1), "weight", mr.OrthogonalConv(), view="trivialized")
    x, goal = torch.randn(4, 8, 6, 6), torch.randn(4, 8, 6, 6)
    optimizer, losses = torch.optim.Adam(layer.parameters(), lr=0.02), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (layer(x) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and entry(layer).defect() < 1e-5


def test_another_retraction_moves_the_same_kernel():
    layer = conv("more inputs")
    W = layer.weight.detach().clone()
    mr.set_retraction(layer, "weight", "qr")
    torch.testing.assert_close(layer.weight.detach(), W, atol=1e-13, rtol=0)
    assert entry(layer).retraction.name == "qr"
    with pytest.raises(errors.UnsupportedError, match="no retraction"):
        mr.set_retraction(conv((2, 2, (3, 3), 1, 1), mr.OrthogonalConv("soc")), "weight", "qr")


def test_degrees_of_freedom():
    count = {name: mr.degrees_of_freedom(entry(conv(name))) for name in CASES}
    assert count["square"] == 15 + 4 * 3 * 3 and count["one tap"] == 3 * 5 - 6
    assert count["more inputs"] == 3 * 6 - 6 + 3 * 9 and count["groups"] == 2 * (4 * 3 - 6 + 4 * 4)
    assert mr.degrees_of_freedom(entry(conv("square", dtype=COMPLEX))) == 36 + 2 * 4 * 9
    assert mr.degrees_of_freedom(entry(conv((3, 3, (5, 5), 1, 1), mr.OrthogonalConv("soc")))) == 3 * 3 * 4 + 3
    layer = conv("square")
    assert mr.degrees_of_freedom(layer) == count["square"] + 6 and entry(layer).degrees_of_freedom() == count["square"]


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while tracing
@pytest.mark.parametrize("kind", KINDS)
def test_compiles_exports_is_vmapped_and_left_alone_by_autocast(kind):
    layer = conv((3, 3, (3,), 1, 1), mr.OrthogonalConv(kind))
    x = torch.randn(2, layer.in_channels, 6, dtype=REAL, generator=seeded())
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x), atol=1e-12, rtol=0)
    modules = [entry(layer), entry(copy.deepcopy(layer))]
    parameters, buffers = torch.func.stack_module_state(modules)
    weights = torch.func.vmap(lambda p, b: torch.func.functional_call(modules[0], (p, b), ()))(parameters, buffers)
    torch.testing.assert_close(weights[1], layer.weight, atol=1e-13, rtol=0)
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.weight.dtype == torch.float32 and entry(layer).defect() < 1e-5


def test_a_layer_on_the_meta_device_waits_for_its_numbers():
    with torch.device("meta"):
        layer = nn.Conv2d(4, 6, 3)
    mr.constrain(layer, "weight", mr.OrthogonalConv(), view="trivialized")
    full = mr.constrain(nn.Conv2d(4, 6, 3), "weight", mr.OrthogonalConv(), view="trivialized")
    layer.to_empty(device="cpu").load_state_dict(full.state_dict())
    assert torch.equal(layer.weight, full.weight)


def test_matching_constrains_every_convolution_of_a_model():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 2, stride=2))
    mr.constrain_matching(model, {"*.weight": mr.OrthogonalConv()}, view="trivialized")
    assert [entry(model[k]).side for k in (0, 2)] == ["columns", "rows"] and entry(model[2]).geometry.stride == (2, 2)
