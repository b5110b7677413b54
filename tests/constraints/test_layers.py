"""Any layer of torch: constrain, train in both views, save, load into a plain model, release."""

import copy
from typing import NamedTuple

import pytest
import torch
from support import counting
from torch import Tensor, nn

import manifold_rnn as mr

VIEWS = ["update", "trivialized"]


class Case(NamedTuple):
    """A module, the weight to constrain, how, its inputs, and the matrices that must be orthonormal then."""

    make: object
    name: str
    manifold: object
    inputs: tuple
    matrices: object = lambda W: W
    options: dict = {}  # noqa: RUF012


def tall(W):
    return W if W.shape[-2] >= W.shape[-1] else W.mT


def flat(W):
    return tall(W.flatten(1))


def grouped(groups):
    return lambda W: tall(W.flatten(1).unflatten(0, (groups, -1)))


def stacked(blocks):
    return lambda W: tall(W.unflatten(0, (blocks, -1)))


class Tied(nn.Module):
    """An autoencoder whose two linear maps share a weight."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.tanh(self.encode(x)))


class Parent(nn.Module):
    """Attention, whose forward reads its child's projection."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)[0]


class Heads(nn.Module):
    """A batch of maps, one a head."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 4, 2))

    def forward(self, x):
        return torch.einsum("hij,bhj->bhi", self.weight, x)


def normal(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))


SQUARE, ST = mr.Orthogonal(), mr.Stiefel()
SEQUENCE = (normal(5, 3, 4),)
CASES = {
    "Linear, square": Case(lambda: nn.Linear(4, 4), "weight", SQUARE, (normal(9, 4),)),
    "Linear, tall": Case(lambda: nn.Linear(4, 7), "weight", ST, (normal(9, 4),)),
    "Linear, wide": Case(lambda: nn.Linear(7, 4), "weight", ST, (normal(9, 7),), tall),
    "Linear, complex": Case(
        lambda: nn.Linear(4, 4, dtype=torch.complex64), "weight", mr.Unitary(), (normal(9, 4, dtype=torch.complex64),)
    ),
    "Bilinear": Case(lambda: nn.Bilinear(4, 3, 5), "weight", ST, (normal(9, 4), normal(9, 3))),
    "Conv1d": Case(lambda: nn.Conv1d(3, 5, 3), "weight", ST, (normal(2, 3, 8),), flat),
    "Conv2d": Case(lambda: nn.Conv2d(2, 12, 2), "weight", ST, (normal(2, 2, 6, 6),), flat),
    "Conv3d": Case(lambda: nn.Conv3d(2, 3, 2), "weight", ST, (normal(2, 2, 4, 4, 4),), flat),
    "ConvTranspose1d": Case(lambda: nn.ConvTranspose1d(3, 5, 3), "weight", ST, (normal(2, 3, 8),), flat),
    "ConvTranspose2d": Case(lambda: nn.ConvTranspose2d(3, 2, 2), "weight", ST, (normal(2, 3, 6, 6),), flat),
    "ConvTranspose3d": Case(lambda: nn.ConvTranspose3d(3, 2, 2), "weight", ST, (normal(2, 3, 4, 4, 4),), flat),
    "Conv2d, groups": Case(
        lambda: nn.Conv2d(4, 6, 2, groups=2), "weight", ST, (normal(2, 4, 6, 6),), grouped(2)
    ),
    "ConvTranspose2d, groups": Case(
        lambda: nn.ConvTranspose2d(4, 6, 2, groups=2), "weight", ST, (normal(2, 4, 6, 6),), grouped(2)
    ),
    "Conv2d, depthwise": Case(lambda: nn.Conv2d(4, 4, 3, groups=4), "weight", ST, (normal(2, 4, 6, 6),), grouped(4)),
    "Conv2d, one group": Case(
        lambda: nn.Conv2d(4, 6, 2, groups=2), "weight", ST, (normal(2, 4, 6, 6),), lambda W: W[3:].flatten(1).mT,
        {"which": (1,)},
    ),
    "Conv2d, complex": Case(
        lambda: nn.Conv2d(2, 3, 2, dtype=torch.complex64), "weight", ST,
        (normal(2, 2, 6, 6, dtype=torch.complex64),), flat,
    ),
    "Conv2d, every pixel": Case(
        lambda: nn.Conv2d(4, 4, 2), "weight", SQUARE, (normal(2, 4, 6, 6),), lambda W: W.permute(2, 3, 0, 1),
        {"matrix_dims": (0, 1)},
    ),
    "Embedding": Case(lambda: nn.Embedding(9, 4), "weight", ST, (torch.arange(9),)),
    "MultiheadAttention, heads": Case(
        Parent, "attention.in_proj_weight", ST, (normal(2, 5, 8),), stacked(6), {"blocks": 6}
    ),
    "MultiheadAttention, output": Case(Parent, "attention.out_proj.weight", SQUARE, (normal(2, 5, 8),)),
    "MultiheadAttention, output of heads": Case(
        Parent, "attention.out_proj.weight", ST, (normal(2, 5, 8),), lambda W: stacked(2)(W.mT),
        {"matrix_dims": (1, 0), "blocks": 2},
    ),
    "a batch of matrices": Case(Heads, "weight", ST, (normal(5, 3, 2),)),
    "RNN": Case(lambda: nn.RNN(4, 6), "weight_hh_l0", SQUARE, SEQUENCE),
    "GRU": Case(lambda: nn.GRU(4, 6), "weight_hh_l0", SQUARE, SEQUENCE, stacked(3), {"blocks": 3}),
    "LSTM": Case(lambda: nn.LSTM(4, 6), "weight_hh_l0", SQUARE, SEQUENCE, stacked(4), {"blocks": 4}),
    "LSTM, input": Case(lambda: nn.LSTM(4, 3), "weight_ih_l0", ST, SEQUENCE, stacked(4), {"blocks": 4}),
    "RNNCell": Case(lambda: nn.RNNCell(4, 6), "weight_hh", SQUARE, (normal(3, 4), normal(3, 6))),
    "GRUCell": Case(
        lambda: nn.GRUCell(4, 6), "weight_hh", SQUARE, (normal(3, 4), normal(3, 6)), lambda W: W[6:12],
        {"blocks": 3, "which": (1,)},
    ),
    "LSTMCell": Case(
        lambda: nn.LSTMCell(4, 6), "weight_hh", SQUARE, (normal(3, 4), (normal(3, 6), normal(3, 6))), stacked(4),
        {"blocks": 4},
    ),
    "tied": Case(Tied, "*.weight", SQUARE, (normal(9, 4),)),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture(params=VIEWS)
def view(request):
    return request.param


def build(case):
    torch.manual_seed(0)
    return case.make()


def constrained(case, view):
    model = build(case)
    if "*" in case.name:
        return mr.constrain_matching(model, {case.name: case.manifold}, view=view)
    return mr.constrain(model, case.name, case.manifold, view=view, **case.options)


def weight(model, case):
    path, _, leaf = case.name.replace("*", "encode").rpartition(".")
    return getattr(model.get_submodule(path), leaf)


def output(model, case):
    y = model(*case.inputs)
    return y[0] if isinstance(y, tuple) else y


def train(model, case, view, steps=20):
    kind = mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam
    optimizer, losses = kind(model.parameters(), lr=0.01), []
    goal = 0.3 * torch.randn_like(output(model, case))
    for _ in range(steps):
        optimizer.zero_grad()
        value = (output(model, case) - goal).abs().square().mean()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def free(model, case):
    """The same model without constraints."""
    model = copy.deepcopy(model)
    mr.release(model, case.name.replace("*", "encode"))
    if "*" in case.name:
        mr.release(model, "decode.weight")
    return model


def test_trains_on_the_manifold(case, view):
    model = constrained(case, view)
    before = weight(model, case).detach().clone()
    losses = train(model, case, view)
    W = weight(model, case).detach()
    assert W.shape == weight(build(case), case).shape and losses[-1] < losses[0]
    assert (W - before).abs().max() > 1e-3
    assert mr.linalg.defect(case.matrices(W)).max() < 1e-5


def test_starts_at_the_projection_of_the_weight_found(case, view):
    found, W = case.matrices(weight(build(case), case).detach()), weight(constrained(case, view), case).detach()
    torch.testing.assert_close(case.matrices(W), case.manifold.projx(found), atol=1e-5, rtol=0)


def test_both_views_compute_the_same(case):
    one, other = (constrained(case, view) for view in VIEWS)
    torch.testing.assert_close(output(one, case), output(other, case), atol=1e-5, rtol=1e-5)


def test_the_weight_is_computed_once_in_a_forward(case):
    model = constrained(case, "trivialized")
    with counting.evaluations(model) as counts:
        output(model, case)
    assert counts.total() == 1


def test_a_plain_model_takes_the_weights(case, view):
    model = constrained(case, view)
    train(model, case, view, steps=3)
    state = model.state_dict() if view == "update" else free(model, case).state_dict()
    plain = build(case)
    plain.load_state_dict(state)
    torch.testing.assert_close(output(plain, case), output(model, case), atol=1e-5, rtol=1e-5)
    again = constrained(case, view)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(output(again, case), output(model, case), atol=0, rtol=0)


def test_copies_and_releases(case, view):
    model = constrained(case, view)
    y = output(model, case)
    torch.testing.assert_close(output(copy.deepcopy(model), case), y, atol=0, rtol=0)
    plain = free(model, case)
    torch.testing.assert_close(output(plain, case), y, atol=1e-6, rtol=1e-6)
    assert type(weight(plain, case)) is nn.Parameter
    assert {type(m) for m in plain.modules()} == {type(m) for m in build(case).modules()}


def test_degrees_of_freedom_are_those_of_the_matrices(case, view):
    model, plain = constrained(case, view), mr.degrees_of_freedom(build(case))
    M = case.matrices(weight(model, case).detach())
    reals = M.numel() * (2 if M.is_complex() else 1)
    expected = plain - reals + case.manifold.degrees_of_freedom(tuple(M.shape), M.dtype)
    assert mr.degrees_of_freedom(model) == expected


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_is_the_adjoint_and_read_alike(groups, view):
    """Where patches do not overlap, either kernel embeds small images in large ones without changing lengths."""
    z = normal(2, 4, 3, 3)
    for layer in (nn.Conv2d(4, 4, 2, 2, groups=groups), nn.ConvTranspose2d(4, 4, 2, 2, groups=groups)):
        W = mr.constrain(layer, "weight", ST, view=view).weight.detach()
        y = nn.functional.conv_transpose2d(z, W, stride=2, groups=groups)
        torch.testing.assert_close(y.square().sum(), z.square().sum())
        torch.testing.assert_close(nn.functional.conv2d(y, W, stride=2, groups=groups), z)


@pytest.mark.parametrize("pattern", ["encode.weight", "decode.weight"])
def test_a_tie_is_never_torn(pattern):
    model = Tied()
    with pytest.raises(mr.errors.UnsupportedError, match="tied"):
        mr.constrain_matching(model, {pattern: SQUARE}, view="trivialized")
    with pytest.raises(mr.errors.UnsupportedError, match=r"'decode.weight' is tied to 'encode.weight'"):
        mr.constrain(model, "decode.weight", SQUARE, view="trivialized")
    assert model.encode.weight is model.decode.weight and type(model.decode) is nn.Linear
    mr.constrain(model, "decode.weight", SQUARE)
    assert model.encode.weight is model.decode.weight and mr.linalg.defect(model.encode.weight) < 1e-5


@pytest.mark.parametrize("names", [["0.weight"], ["2.weight"], ["*.weight"]], ids=str)
def test_a_module_with_two_names_has_one_weight(names, view):
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    mr.constrain_matching(model, dict.fromkeys(names, SQUARE), view=view)
    x = normal(9, 4)
    assert torch.equal(model(x), shared(torch.tanh(shared(x)))) and mr.linalg.defect(shared.weight) < 1e-5
    assert mr.degrees_of_freedom(model) == 6 + 4
    assert type(mr.release(model, "2.weight")[0].weight) is nn.Parameter


def test_tied_weights_stay_tied(view):
    model = constrained(CASES["tied"], view)
    train(model, CASES["tied"], view)
    assert torch.equal(model.encode.weight, model.decode.weight)
    numbers = {p: p.numel() for p in model.parameters()}
    assert sum(numbers.values()) == 8 + (16 if view == "update" else 6)


def test_modules_on_the_meta_device(case, view):
    with torch.device("meta"):
        model = case.make()
    if "*" in case.name:
        mr.constrain_matching(model, {case.name: case.manifold}, view=view)
    else:
        mr.constrain(model, case.name, case.manifold, view=view, **case.options)
    W: Tensor = weight(model, case)
    assert W.is_meta and W.shape == weight(build(case), case).shape
    real = model.to_empty(device="cpu")
    real.load_state_dict(constrained(case, view).state_dict())
    torch.testing.assert_close(output(real, case), output(constrained(case, view), case), atol=0, rtol=0)


@pytest.mark.parametrize("init", ["haar", lambda w: 2 * w], ids=["haar", "callable"])
def test_any_start_on_the_meta_device(init, view):
    layer = mr.constrain(nn.Conv2d(2, 3, 2, device="meta"), "weight", ST, view=view, init=init)
    assert layer.weight.is_meta


ON_META = [mr.FixedBase(SQUARE), mr.StickyDisc(), *map(mr.Birkhoff, ("orthostochastic", "permutations", "sinkhorn"))]
ON_META += [mr.FixedSpectrum(), mr.DiagonalGram(), mr.Reflections(), mr.Rotations(), mr.SchurForm()]


@pytest.mark.parametrize("default", [True, False], ids=["default device", "device of the layer"])
@pytest.mark.parametrize("structured", ON_META, ids=repr)
def test_structured_constraints_on_the_meta_device(structured, default):
    real = mr.constrain(nn.Linear(4, 4), "weight", structured, view="trivialized", init=lambda w: 0.5 * torch.eye(4))
    with torch.device("meta" if default else "cpu"):
        blank = mr.constrain(nn.Linear(4, 4, device="meta"), "weight", structured, view="trivialized")
    blank = blank.to_empty(device="cpu")
    blank.load_state_dict(real.state_dict())
    torch.testing.assert_close(blank.weight, real.weight)


def test_a_large_kernel_is_left_alone_where_it_is_a_point():
    """Rounding grows with the columns of the matrix, not with the width of the kernel."""
    kernel = mr.constrain(nn.Conv2d(60, 512, 3), "weight", ST, init="haar").weight.detach()
    again = nn.Conv2d(60, 512, 3)
    again.weight.data.copy_(kernel)
    assert torch.equal(mr.constrain(again, "weight", ST).weight, kernel)


def test_one_kernel_read_in_several_ways():
    kernel = nn.Conv2d(4, 4, 3)
    W = {
        dims: mr.constrain(copy.deepcopy(kernel), "weight", ST, matrix_dims=dims).weight.detach()
        for dims in [(0, 1), (0, (1, 2, 3)), ((0, 1), (2, 3)), ((-3, -2), 0)]
    }
    assert mr.linalg.defect(W[0, 1].permute(2, 3, 0, 1)).max() < 1e-5
    assert mr.linalg.defect(W[0, (1, 2, 3)].flatten(1).mT) < 1e-5
    assert mr.linalg.defect(W[(0, 1), (2, 3)].flatten(2).flatten(0, 1)) < 1e-5
    batch = W[(-3, -2), 0].permute(3, 1, 2, 0).flatten(1, 2)
    assert mr.linalg.defect(batch).max() < 1e-5
