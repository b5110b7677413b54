"""The exponential series of a skew kernel, what `OrthogonalConv` refuses, and what `Contraction` bounds of a kernel."""

import copy
import math

import pytest
import torch
from support import naive
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn import errors
from manifold_rnn.diagnostics import conv_singular_values

REAL, COMPLEX = torch.float64, torch.complex128


def series(channels=3, taps=(9, 9), error=1e-6, groups=1, dtype=REAL, scale=1.0):
    like = torch.randn(channels * groups, channels, *taps, dtype=dtype, generator=seeded())
    return mr.OrthogonalConv("soc", error=error, groups=groups).trivialize(scale * like)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e6])
@pytest.mark.parametrize("error", [1e-8, 1e-4, 0.1])
@pytest.mark.parametrize("taps", [(3,), (3, 3), (9, 9), (17,), (1, 13)], ids=str)
def test_the_stated_error_holds_whatever_the_taps_are(taps, error, scale):
    module = series(taps=taps, error=error, scale=scale)
    values = conv_singular_values(module().detach(), [max(8, k) for k in taps])
    assert max(values.norm - 1, 1 - values.smallest) <= error * (1 + 1e-6) + 1e-14
    L = conv_singular_values(module.skew()[0].detach(), [8] * len(taps))
    assert (
        L.norm < module.bound and module.bound ** (module.terms + 1) / math.factorial(module.terms + 1) <= 1.01 * error
    )


@pytest.mark.parametrize("dtype", [REAL, COMPLEX], ids=str)
@pytest.mark.parametrize("taps", [(7,), (5, 5)], ids=str)
def test_the_series_agrees_with_convolutions_of_the_kernel_and_every_gradient(taps, dtype):
    module = series(taps=taps, error=0.1, groups=2, dtype=dtype)
    W = module()
    expected = torch.cat([naive.exponential_kernel(L, module.terms) for L in module.skew()])
    torch.testing.assert_close(W, expected, atol=1e-14, rtol=0)
    g = torch.randn(W.shape, dtype=dtype, generator=seeded(2))
    own, same = (torch.autograd.grad(K, module.taps, g, retain_graph=True) for K in (W, expected))
    torch.testing.assert_close(own, same, atol=1e-12, rtol=0)


def test_the_symbol_of_the_skew_kernel_is_skew():
    L = series().skew()[0].detach()
    A = torch.fft.fft2(torch.nn.functional.pad(L, (0, 5, 0, 5)).roll((-1, -1), (-2, -1))).permute(2, 3, 0, 1)
    torch.testing.assert_close(A, -A.mH, atol=1e-13, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("constraint", [mr.OrthogonalConv(), mr.OrthogonalConv("soc")], ids=["bcop", "soc"])
def test_half_precision_is_orthogonal_up_to_its_rounding(constraint, dtype):
    layer = mr.constrain(nn.Conv2d(4, 4, 5, dtype=dtype), "weight", constraint, view="trivialized")
    with torch.no_grad():
        for p in layer.constraints.parameters():
            p.add_(torch.randn(p.shape, generator=seeded()).to(dtype))
    assert layer.weight.dtype == dtype and layer.constraints["weight"].defect() < 10 * torch.finfo(dtype).eps
    layer.weight.square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.constraints.parameters())


@pytest.mark.parametrize(("terms", "largest"), [(5, 1.0009), (6, 1.00015)])
def test_how_far_a_series_is_from_1_where_the_norm_is_1(terms, largest):
    frequency = torch.linspace(-1, 1, 2001, dtype=REAL)
    size = sum((1j * frequency) ** k / math.factorial(k) for k in range(terms + 1)).abs()
    assert math.isclose(size.max(), largest, abs_tol=1e-5)
    assert (size - 1).abs().max() <= 1 / math.factorial(terms + 1)


@pytest.mark.parametrize(
    ("channels", "most"), [((2, 8), 1e-12), ((8, 2), 1e-12), ((1, 6), 0.3), ((6, 1), 0.3)], ids=str
)
def test_many_channels_on_one_side_leave_factors_open_and_the_start_near(channels, most):
    torch.manual_seed(0)
    W = mr.OrthogonalConv().random_like(torch.empty(*channels, 3, 3, dtype=REAL))
    assert (mr.OrthogonalConv().trivialize(W)() - W).abs().max() < most


# --- refusals ---


def on(layer, constraint=None, **options):
    return lambda: mr.constrain(
        layer(), "weight", constraint or mr.OrthogonalConv(), **{"view": "trivialized", **options}
    )


SOC, KERNEL = mr.OrthogonalConv("soc"), torch.ones(4, 4, 3, 3)
BAD = {
    "kind": (lambda: mr.OrthogonalConv("cayley"), errors.OptionError, "'bcop' or 'soc', got 'cayley'"),
    "retraction": (lambda: mr.OrthogonalConv(retraction="caley"), errors.OptionError, "cayley"),
    "error": (lambda: mr.OrthogonalConv("soc", error=0), errors.OptionError, "above 0"),
    "error NaN": (lambda: mr.OrthogonalConv("soc", error=math.nan), errors.OptionError, "above 0"),
    "stride 0": (lambda: mr.OrthogonalConv(stride=0), errors.OptionError, "stride"),
    "groups": (lambda: mr.OrthogonalConv(groups=1.5), errors.OptionError, "groups"),
    "view": (on(lambda: nn.Conv2d(3, 3, 3), view="update"), errors.UnsupportedError, "trivialized"),
    "blocks": (on(lambda: nn.Conv2d(4, 4, 3), blocks=2), errors.OptionError, "whole weight"),
    "a block": (on(lambda: nn.Conv2d(4, 4, 3), {0: mr.OrthogonalConv()}), errors.OptionError, "whole weight"),
    "dims": (on(lambda: nn.Conv2d(4, 4, 3), matrix_dims=(0, 1)), errors.OptionError, r"Got {'matrix_dims': \(0, 1\)}"),
    "rebase": (on(lambda: nn.Conv2d(4, 4, 3), rebase_every=2), errors.UnsupportedError, "no base"),
    "matrix": (on(lambda: nn.Linear(4, 4)), errors.ShapeError, r"got \(4, 4\)"),
    "bias": (
        lambda: mr.constrain(nn.Conv1d(4, 4, 3), "bias", mr.OrthogonalConv(), view="trivialized"),
        errors.UnsupportedError,
        "'bias'",
    ),
    "3d": (on(lambda: nn.Conv3d(4, 4, 3)), errors.UnsupportedError, "Conv3d"),
    "transposed": (on(lambda: nn.ConvTranspose2d(4, 4, 3)), errors.UnsupportedError, "ConvTranspose2d"),
    "reflect": (on(lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")), errors.UnsupportedError, "copies"),
    "wide padding": (on(lambda: nn.Conv1d(4, 4, 3, padding=2, padding_mode="circular")), errors.OptionError, "twice"),
    "small kernel": (on(lambda: nn.Conv2d(4, 4, 2, stride=3)), errors.ShapeError, r"at least \(3, 3\), got \(2, 2\)"),
    "dilation": (on(lambda: nn.Conv2d(4, 4, 3, stride=2, dilation=2)), errors.UnsupportedError, "with dilation"),
    "depthwise": (on(lambda: nn.Conv2d(4, 4, 3, groups=4)), errors.UnsupportedError, "shift"),
    "stride twice": (on(lambda: nn.Conv2d(4, 4, 3), mr.OrthogonalConv(stride=2)), errors.OptionError, r"\(1, 1\)"),
    "groups twice": (on(lambda: nn.Conv2d(4, 4, 3), mr.OrthogonalConv(groups=2)), errors.OptionError, "Leave them out"),
    "stride axes": (
        lambda: mr.OrthogonalConv(stride=(2,)).trivialize(torch.ones(4, 4, 3, 3)),
        errors.ShapeError,
        "axis",
    ),
    "groups cut": (lambda: mr.OrthogonalConv(groups=3).trivialize(torch.ones(4, 4, 3)), errors.ShapeError, "groups 3"),
    "integers": (lambda: mr.OrthogonalConv().trivialize(torch.ones(4, 4, 3).long()), errors.DtypeError, "int64"),
    "NaN": (
        lambda: mr.OrthogonalConv().trivialize(KERNEL / 0),
        errors.NonFiniteError,
        "144 of 144",
    ),
    "empty": (lambda: mr.OrthogonalConv().trivialize(torch.ones(4, 0, 3)), errors.ShapeError, "none of them 0"),
    "soc channels": (on(lambda: nn.Conv2d(4, 6, 3), SOC), errors.ShapeError, "equal input and output"),
    "soc even": (on(lambda: nn.Conv2d(4, 4, 4), SOC), errors.ShapeError, "odd"),
    "soc stride": (on(lambda: nn.Conv2d(4, 4, 3, stride=2), SOC), errors.ShapeError, "stride 1"),
    "soc haar": (on(lambda: nn.Conv2d(4, 4, 3), SOC, init="haar"), errors.UnsupportedError, "haar"),
    "a cell": (
        lambda: mr.nn.RNN(2, 4, constraint=mr.OrthogonalConv(), view="trivialized"),
        errors.ShapeError,
        "kernel",
    ),
    "a gate": (
        lambda: mr.nn.LSTM(2, 4, constraint={"g": mr.OrthogonalConv()}, view="trivialized"),
        errors.OptionError,
        "whole weight",
    ),
}


@pytest.mark.parametrize(("make", "kind", "words"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_by_name(make, kind, words):
    with pytest.raises(kind, match=words) as raised:
        make()
    assert len(str(raised.value)) <= 400 and str(raised.value).endswith(".")


def test_a_refused_layer_is_as_before():
    layer = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    before = layer.weight.detach().clone()
    with pytest.raises(errors.UnsupportedError):
        mr.constrain(layer, "weight", mr.OrthogonalConv(), view="trivialized")
    assert type(layer) is nn.Conv2d and torch.equal(layer.weight, before) and isinstance(layer.weight, nn.Parameter)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"stride": (2, 2)}, errors.UnsupportedError, r"got \(2, 2\)"),
        ({"stride": 1}, None, ""),
        ({"padding": (0, 1)}, None, ""),
        ({"padding": 2}, errors.OptionError, "twice"),
        ({"padding_mode": "reflect"}, errors.UnsupportedError, "copies"),
        ({"stride": 2, "dilation": 2}, errors.UnsupportedError, "after constrain"),
    ],
    ids=str,
)
@pytest.mark.parametrize("constraint", [mr.OrthogonalConv(), SOC], ids=["bcop", "soc"])
def test_a_layer_that_is_changed_so_that_it_is_no_longer_orthogonal_is_refused_until_released(
    constraint, change, kind, words
):
    layer = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    mr.constrain(layer, "weight", constraint, view="trivialized")
    vars(layer).update(change)
    if kind is None:
        layer(torch.randn(1, 4, 6, 6))
        return
    for same in (layer, copy.deepcopy(layer)):
        with pytest.raises(kind, match=words) as raised:
            same(torch.randn(1, 4, 6, 6))
        assert len(str(raised.value)) <= 400
    mr.release(layer, "weight")
    assert type(layer) is nn.Conv2d


def test_taps_that_are_not_finite_are_named():
    module = series()
    with torch.no_grad():
        module.taps[0, 0, 0, 0, 0] = torch.nan
    with pytest.raises(errors.NonFiniteError, match="taps"):
        module()


# --- Contraction on a kernel ---


@pytest.mark.parametrize(("taps", "stride"), [((3, 3), 1), ((2, 5), 1), ((3, 3), 2), ((4, 4), 2), ((2, 2), 2)], ids=str)
def test_contraction_bounds_the_flattened_kernel_and_so_the_operator_up_to_the_root_of_the_overlaps(taps, stride):
    overlaps = math.prod(-(-k // stride) for k in taps)
    for seed in range(5):
        torch.manual_seed(seed)
        layer = mr.constrain(nn.Conv2d(3, 4, taps, stride, dtype=REAL), "weight", mr.Contraction(0.5), init="haar")
        found = conv_singular_values(layer.weight, 20, stride=stride).norm
        assert found <= 0.5 * overlaps**0.5 * (1 + 1e-12)
    constant = torch.full((1, 1, *taps), 1 / math.prod(taps) ** 0.5, dtype=REAL)  # the worst case
    worst = conv_singular_values(constant, 20, stride=stride).norm
    assert worst <= overlaps**0.5 * (1 + 1e-12)
    if all(k % stride == 0 for k in taps):
        assert math.isclose(worst, overlaps**0.5)
