"""The options of `constrain`, its starting values, and everything that it refuses."""

import copy
import os

import geoopt
import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, ManifoldError, NonFiniteError, OptionError, ShapeError, UnsupportedError

N = 4
VIEWS = pytest.mark.parametrize("view", ["update", "trivialized"])


def square():
    torch.manual_seed(0)
    return nn.Linear(N, N)


@VIEWS
def test_keep_projects_what_it_finds(view):
    found = square().weight.detach()
    weight = mr.constrain(square(), "weight", mr.Orthogonal(), view=view).weight
    torch.testing.assert_close(weight, mr.Orthogonal().projx(found))


@VIEWS
def test_keep_leaves_a_point_alone(view):
    layer = square()
    with torch.no_grad():
        layer.weight.copy_(mr.Orthogonal().random(N, N))
    before = layer.weight.detach().clone()
    assert torch.equal(mr.constrain(layer, "weight", mr.Orthogonal(), view=view).weight, before)


@VIEWS
def test_haar_is_seeded_and_leaves_free_blocks_alone(view):
    def draw():
        torch.manual_seed(1)
        lstm = nn.LSTM(2, N)
        found = lstm.weight_hh_l0.detach().clone()
        options = {"blocks": 4, "which": (1,), "init": "haar", "view": view}
        return found, mr.constrain(lstm, "weight_hh_l0", mr.Orthogonal(), **options).weight_hh_l0

    (found, a), (_, b) = draw(), draw()
    assert torch.equal(a, b)
    assert mr.linalg.defect(a[N : 2 * N]) < 1e-5
    torch.testing.assert_close(torch.cat([a[:N], a[2 * N :]]), torch.cat([found[:N], found[2 * N :]]))


@VIEWS
def test_a_callable_starts_the_weight(view):
    layer = mr.constrain(square(), "weight", mr.Orthogonal(), view=view, init=lambda w: 3 * torch.eye(len(w)))
    torch.testing.assert_close(layer.weight, torch.eye(N))


def test_special_orthogonal_starts_with_determinant_one():
    layer = square()
    with torch.no_grad():
        layer.weight[0] *= -layer.weight.det().sign()
    weight = mr.constrain(layer, "weight", mr.SpecialOrthogonal()).weight
    torch.testing.assert_close(weight.det(), torch.tensor(1.0))


def test_the_update_view_keeps_identity_storage_and_ties():
    layer = square()
    parameter, pointer = layer.weight, layer.weight.data_ptr()
    other = nn.Linear(N, N)
    other.weight = layer.weight
    mr.constrain(layer, "weight", mr.Orthogonal())
    assert layer.weight is parameter is other.weight
    assert parameter.data_ptr() == pointer
    assert isinstance(parameter, geoopt.ManifoldParameter)
    model = copy.deepcopy(nn.ModuleList([layer, other]))
    assert model[0].weight is model[1].weight
    assert model[0].weight.manifold is model[0].constraints["weight"].manifold


def test_two_weights_of_one_module_and_a_taken_name():
    class Layer(nn.RNN):
        constraints = "mine"

    layer = Layer(N, N)
    for name in ("weight_hh_l0", "weight_ih_l0"):
        mr.constrain(layer, name, mr.Orthogonal(), view="trivialized")
    assert layer.constraints == "mine"
    assert set(layer._constraints) == {"weight_hh_l0", "weight_ih_l0"}
    layer(torch.randn(2, 3, N))[0].sum().backward()
    mr.release(layer, "weight_ih_l0")
    assert isinstance(layer.weight_ih_l0, nn.Parameter)
    layer(torch.randn(2, 3, N))
    mr.release(layer, "weight_hh_l0")
    assert type(layer) is Layer


@pytest.mark.parametrize("view", ["update", "trivialized"])
def test_a_wrapper_that_passes_its_wrapped_module_s_attributes_on(view):
    class Wrapper(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.outer = inner, nn.Parameter(torch.eye(N))

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("inner"), name)

        def forward(self, x):
            return self.inner(x) @ self.outer

    inner = mr.constrain(nn.Linear(N, N), "weight", mr.Orthogonal(), view=view)
    wrapper = mr.constrain(Wrapper(inner), "outer", mr.Orthogonal("qr"), view=view)
    wrapper(torch.ones(2, N)).sum().backward()
    assert [name for name, _ in mr.constraints.parametrizations(wrapper)] == ["outer", "inner.weight"]


def test_both_views_in_one_module():
    layer = nn.RNN(N, N)
    mr.constrain(layer, "weight_hh_l0", mr.Orthogonal())
    mr.constrain(layer, "weight_ih_l0", mr.Orthogonal("qr"), view="trivialized")
    twin = copy.deepcopy(layer)
    twin.load_state_dict(layer.state_dict())
    twin(torch.randn(2, 3, N))[0].sum().backward()
    mr.release(mr.release(twin, "weight_hh_l0"), "weight_ih_l0")
    assert list(twin.state_dict()) == list(nn.RNN(N, N).state_dict())


def test_assigning_moves_a_trivialized_weight_and_refuses_what_is_off():
    layer, W = mr.constrain(square(), "weight", mr.Orthogonal(), view="trivialized"), mr.Orthogonal().random(N, N)
    layer.weight = W
    assert torch.equal(layer.weight, W)
    with pytest.raises(mr.errors.OffManifoldError, match="assigned weight"):
        layer.weight = 2 * W
    with pytest.raises(OptionError, match="shape"):
        layer.weight = W[:2]
    assert torch.equal(layer.weight, W)


@VIEWS
def test_unitary_matrices_in_a_real_cell(view):
    layer = mr.constrain(nn.RNN(2, N), "weight_hh_l0", mr.UnitaryRealForm(), view=view, init="haar")
    weight = layer.weight_hh_l0.detach()
    assert mr.linalg.defect(weight) < 1e-5
    torch.testing.assert_close(weight[:2, :2], weight[2:, 2:])
    assert mr.degrees_of_freedom(layer) == N * N // 4 + 2 * N + 2 * N


@VIEWS
@pytest.mark.parametrize("manifold", [geoopt.Sphere(), geoopt.EuclideanStiefel()], ids=str)
@pytest.mark.parametrize("size", [(N, N), (6, N), (N, 6)], ids=str)
def test_geoopt_manifolds(view, manifold, size):
    """Wide weights are transposed where the manifold wants tall ones."""
    layer = mr.constrain(nn.Linear(*size), "weight", manifold, view=view)
    x = torch.randn(3, size[0])
    optimizer = (geoopt.optim.RiemannianAdam if view == "update" else torch.optim.Adam)(layer.parameters(), 0.05)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = layer(x).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    tall = layer.weight.mT if size[0] > size[1] and not isinstance(manifold, geoopt.Sphere) else layer.weight
    assert manifold.check_point_on_manifold(tall.detach().contiguous(), atol=1e-4)
    mr.release(copy.deepcopy(layer), "weight")


def test_a_geoopt_manifold_has_no_other_retraction():
    layer = mr.constrain(square(), "weight", geoopt.Sphere())
    with pytest.raises(UnsupportedError, match="retraction"):
        mr.set_retraction(layer, "weight", "qr")


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (OptionError, "view", {"view": "frozen"}),
        (OptionError, "on_load", {"on_load": "ignore"}),
        (OptionError, "init", {"init": "zero"}),
        (OptionError, "init", {"init": lambda w: w[0]}),
        (OptionError, "init", {"init": lambda w: None}),
        (NonFiniteError, "init", {"init": lambda w: w / 0}),
        (OptionError, "rebase_every", {"rebase_every": 0, "view": "trivialized"}),
        (OptionError, "rebase_every", {"rebase_every": True, "view": "trivialized"}),
        (OptionError, "rebase_every", {"rebase_every": 5}),
        (ShapeError, "blocks", {"blocks": 3}),
        (OptionError, "which", {"which": (1,)}),
        (OptionError, "which", {"blocks": 2, "which": ()}),
        (OptionError, r"which=0\.", {"blocks": 2, "which": 0}),
        (OptionError, "weight, bias", {"name": "wait"}),
        (ShapeError, "square", {"name": "bias"}),
        (OptionError, "constraint", {"constraint": mr.Orthogonal}),
        (OptionError, "constraint", {"constraint": "orthogonal"}),
        (DtypeError, "complex", {"constraint": mr.Unitary()}),
        (UnsupportedError, "trivialized", {"constraint": mr.FixedBase(mr.Orthogonal()), "view": "update"}),
    ],
)
def test_a_refusal_changes_nothing(error, match, options):
    layer = square()
    before = copy.deepcopy(layer)
    options = {"name": "weight", "constraint": mr.Orthogonal()} | options
    with pytest.raises(error, match=match) as caught:
        mr.constrain(layer, **options)
    assert len(str(caught.value)) <= 400
    assert isinstance(caught.value, ManifoldError)
    assert_untouched(layer, before)


def assert_untouched(layer, before):
    assert type(layer) is type(before)
    assert list(layer.state_dict()) == list(before.state_dict())
    assert all(
        torch.equal(
            a,
            b,
        )
        or a.isnan().any()
        for a, b in zip(layer.parameters(), before.parameters(), strict=True)
    )
    assert all(type(p) is nn.Parameter for p in layer.parameters())
    assert not layer._forward_pre_hooks


@VIEWS
@pytest.mark.parametrize("entry", [(0, 0), (3, 1)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_weight_that_is_not_finite_is_named(view, entry, value):
    layer = square()
    with torch.no_grad():
        layer.weight[entry] = value
    before = copy.deepcopy(layer)
    with pytest.raises(NonFiniteError, match=r"weight.*\n.*1 of 16"):
        mr.constrain(layer, "weight", mr.Orthogonal(), view=view)
    assert_untouched(layer, before)


@VIEWS
def test_twice_is_refused_and_so_is_releasing_nothing(view):
    layer = square()
    with pytest.raises(OptionError, match="no constrained weight"):
        mr.release(layer, "weight")
    mr.constrain(layer, "weight", mr.Orthogonal(), view=view)
    with pytest.raises(OptionError, match="not constrained yet"):
        mr.constrain(layer, "weight", mr.Orthogonal())
    with pytest.raises(OptionError, match="cayley"):
        mr.set_retraction(layer, "weight", "caley")
    with pytest.raises(OptionError, match="bias"):
        mr.release(layer, "bias")


@VIEWS
def test_lazy_weights_are_refused(view):
    with pytest.raises(UnsupportedError, match="lazy"):
        mr.constrain(nn.LazyLinear(3), "weight", mr.Orthogonal(), view=view)


def test_a_dtensor_is_refused(tmp_path):
    dist = pytest.importorskip("torch.distributed")
    tensor = pytest.importorskip("torch.distributed.tensor")
    dist.init_process_group("gloo", store=dist.FileStore(os.fspath(tmp_path / "store"), 1), rank=0, world_size=1)
    try:
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        layer = square()
        constrained = mr.constrain(square(), "weight", mr.Orthogonal())
        for each in (layer, constrained):
            each.weight = nn.Parameter(tensor.distribute_tensor(each.weight.data, mesh, [tensor.Shard(0)]))
        with pytest.raises(UnsupportedError, match="DTensor"):
            mr.constrain(layer, "weight", mr.Orthogonal())
        with pytest.raises(UnsupportedError, match="DTensor"):
            constrained(torch.randn(2, N))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("constraint", [mr.Orthogonal(), mr.UnitDisc(), mr.SchurDisc(), mr.Reflections(2)], ids=repr)
@pytest.mark.parametrize(("build", "blocks"), [(lambda: nn.LSTM(3, 4), 4), (lambda: nn.GRU(3, 4), 3)])
def test_stacked_square_matrices_are_counted_in_the_message(constraint, build, blocks):
    layer = build()
    before = {name: p.clone() for name, p in layer.named_parameters()}
    with pytest.raises(ShapeError, match=f"blocks={blocks}"):
        mr.constrain(layer, "weight_hh_l0", constraint)
    assert all(torch.equal(p, before[name]) for name, p in layer.named_parameters())
    mr.constrain(layer, "weight_hh_l0", constraint, blocks=blocks)  # as the message says


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (6, 3)])
def test_groups_name_the_manifold_of_tall_and_wide_matrices(shape):
    layer = nn.Linear(*shape)
    with pytest.raises(ShapeError, match=r"Stiefel\(\)"):
        mr.constrain(layer, "weight", mr.Orthogonal())
    mr.constrain(layer, "weight", mr.Stiefel())


def test_groups_name_the_manifold_of_kernels_and_of_heads():
    conv, attention = nn.Conv2d(8, 8, 3), nn.MultiheadAttention(16, 4)
    for layer, name, blocks in ((conv, "weight", 1), (attention, "in_proj_weight", 12)):
        with pytest.raises(ShapeError, match=r"Stiefel\(\)"):
            mr.constrain(layer, name, mr.Orthogonal(), blocks=blocks)
        mr.constrain(layer, name, mr.Stiefel(), blocks=blocks)


def test_a_weight_under_a_parametrization_of_torch_is_named_with_what_removes_it():
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    with pytest.raises(OptionError, match=r"_Orthogonal(.|\n)*remove_parametrizations\(module, 'weight'\)"):
        mr.constrain(layer, "weight", mr.Orthogonal())
    nn.utils.parametrize.remove_parametrizations(layer, "weight")
    mr.constrain(layer, "weight", mr.Orthogonal())
