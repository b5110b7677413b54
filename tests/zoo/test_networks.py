"""What every network of the zoo must do; the list of builders is the list of cases."""

import copy
import inspect

import pytest
import torch
from support.seeds import seeded
from torch import nn

import manifold_rnn as mr
from manifold_rnn import zoo
from manifold_rnn.constraints import parametrizations

VIEWS = ["update", "trivialized"]
RETRACTIONS = ["cayley", "exp", "qr", "polar"]


ROTATIONS = ("dtriv", "exprnn", "scornn")  # real and orthogonal
COMPLEX = ("full_urnn", "scurnn")


def recurrent_numbers(name, n, view):
    """Real numbers that a recurrent matrix of size n has by the papers' counts."""
    if name in COMPLEX:
        return n * n + (n if name == "scurnn" and view == "trivialized" else 0)
    short = n // 4 if name == "enrnn" else 0
    long = n - short
    return long * (long - 1) // 2 + short * short + long * short


def options(name):
    return inspect.signature(getattr(zoo, name)).parameters


ON_MANIFOLDS = [name for name in zoo.available() if {"retraction", "view"} <= set(options(name))]


@pytest.fixture(params=zoo.available())
def build(request):
    return getattr(zoo, request.param)


@pytest.fixture(params=[(name, view) for name in ON_MANIFOLDS for view in VIEWS], ids="-".join)
def pair(request):
    name, view = request.param
    return getattr(zoo, name), view


def sequences(dtype=torch.float32):
    return torch.randn(4, 9, 2, dtype=dtype, generator=seeded(1))


def train(network, steps=10, lr=0.01):
    kind = mr.optim.RiemannianAdam if isinstance(network.layer.weight_hh_l0, nn.Parameter) else torch.optim.Adam
    optimizer = kind(network.parameter_groups(lr))
    x, target = sequences(network.readout.weight.dtype), torch.arange(4) % 3
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_available_lists_every_builder():
    builders = [name for name in zoo.__all__ if inspect.isfunction(getattr(zoo, name)) and name != "available"]
    assert zoo.available() == sorted(builders)


def test_reads_out_the_last_step_or_every_step(build):
    network, x = build(2, 8, 3), sequences()
    every = network(x, every_step=True)
    assert every.shape == (4, 9, 3)
    torch.testing.assert_close(network(x), every[:, -1])


def test_reads_out_the_last_step_of_each_packed_sequence(build):
    network, x, lengths = build(2, 8, 3), sequences(), [3, 9, 1, 5]
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    every = network(x, every_step=True)
    torch.testing.assert_close(network(packed), torch.stack([every[i, n - 1] for i, n in enumerate(lengths)]))
    padded, _ = nn.utils.rnn.pad_packed_sequence(network(packed, every_step=True), batch_first=True)
    torch.testing.assert_close(padded[1], every[1])


@pytest.mark.parametrize("retraction", RETRACTIONS)
@pytest.mark.parametrize("name", ON_MANIFOLDS)
def test_both_views_start_from_the_same_weights(name, retraction):
    build = getattr(zoo, name)
    one, other = (build(2, 8, 3, view=view, retraction=retraction, generator=seeded()) for view in VIEWS)
    torch.testing.assert_close(one.layer.all_weights, other.layer.all_weights, atol=1e-6, rtol=0)
    torch.testing.assert_close(one(sequences()), other(sequences()), atol=1e-6, rtol=1e-5)


def test_the_generator_decides_the_weights(build):
    first, again, other = (build(2, 8, 3, generator=seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), again.parameters(), strict=True))
    assert not all(torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True))


def largest_defect(network):
    return max(entry.defect() for _, entry in parametrizations(network))


@pytest.mark.parametrize("retraction", RETRACTIONS)
def test_trains_and_keeps_its_matrix_on_its_manifold_with_the_same_determinant(pair, retraction):
    build, view = pair
    network = build(2, 8, 3, view=view, retraction=retraction, generator=seeded())
    before = network.layer.weight_hh_l0.detach().clone()
    losses = train(network)
    after = network.layer.weight_hh_l0.detach()
    assert losses[-1] < losses[0]
    assert (after - before).abs().max() > 1e-3
    assert largest_defect(network) < 1e-5
    if build.__name__ in ROTATIONS:
        torch.testing.assert_close(torch.det(after), torch.det(before).round(), atol=1e-5, rtol=0)
    elif build.__name__ == "enrnn":
        assert not after[6:, :6].any() and mr.linalg.defect(after[:6, :6]) < 1e-5
        torch.testing.assert_close(torch.det(after[:6, :6]), torch.det(before[:6, :6]).round(), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_thousand_steps_in_single_precision_leave_the_matrix_where_it_belongs(pair):
    build, view = pair
    network = build(2, 32, 3, view=view, generator=seeded())
    losses = train(network, steps=1000, lr=1e-3)
    assert losses[-1] < losses[0] and largest_defect(network) < 1e-5


def test_learns_on_its_own_terms(build):
    network = build(2, 8, 3, generator=seeded())
    losses = train(network)
    assert losses[-1] < losses[0]


def test_groups_hold_every_parameter_once(build):
    network = build(2, 8, 3)
    held = [p for group in network.parameter_groups(0.5) for p in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, network.parameters()))


def test_groups_spare_the_matrix_from_decay(pair):
    build, view = pair
    *recurrent, others = build(2, 8, 3, view=view).parameter_groups(0.5)
    numbers = sum(p.numel() for group in recurrent for p in group["params"])
    assert numbers == (64 if view == "update" else recurrent_numbers(build.__name__, 8, view))
    assert others["lr"] == 0.5 and recurrent[0]["lr"] < 0.5
    assert all(group["weight_decay"] == 0 for group in recurrent)


def test_counts_real_degrees_of_freedom(pair):
    build, view = pair
    n, m, k = 8, 2, 3
    rest = 2 * n * m + n + 2 * n * k + k + 2 * n if build.__name__ in COMPLEX else n * m + n + n * k + k
    assert mr.degrees_of_freedom(build(m, n, k, view=view)) == recurrent_numbers(build.__name__, n, view) + rest


def test_copies_and_saves(build):
    saves_again(build(2, 8, 3), build(2, 8, 3))


def test_copies_and_saves_in_both_views(pair):
    build, view = pair
    saves_again(build(2, 8, 3, view=view), build(2, 8, 3, view=view))


def saves_again(network, other):
    other.load_state_dict(network.state_dict())
    for same in (other, copy.deepcopy(network)):
        torch.testing.assert_close(same(sequences()), network(sequences()), rtol=0, atol=0)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_works_at_any_hidden_size_and_in_double(pair, n):
    build, view = pair
    if build.__name__ == "enrnn" and n == 1:
        with pytest.raises(mr.errors.OptionError, match="short_size"):
            build(2, n, 3)
        return
    network = build(2, n, 3, view=view, dtype=torch.float64)
    assert network(sequences(torch.float64)).dtype == torch.float64


def test_a_live_network_takes_another_retraction(pair):
    build, view = pair
    network = build(2, 8, 3, view=view, generator=seeded())
    before = network(sequences())
    mr.set_retraction(network.layer, "weight_hh_l0", "exp")
    torch.testing.assert_close(network(sequences()), before, atol=1e-5, rtol=1e-4)
    assert train(network)[-1] < train(network)[0] + 1


@pytest.mark.parametrize("name", ON_MANIFOLDS)
def test_a_wrong_option_is_named(name):
    build = getattr(zoo, name)
    with pytest.raises(mr.errors.OptionError, match="cayley"):
        build(2, 8, 3, retraction="caley")
    with pytest.raises(mr.errors.OptionError, match="view"):
        build(2, 8, 3, view="moved")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_compiles_and_exports(build):
    network = build(2, 8, 3).eval()
    x = torch.randn(4, 5, 2, generator=seeded(1))
    expected = network(x)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, atol=1e-5, rtol=1e-4)
    exported = torch.export.export(network, (x,)).module()
    torch.testing.assert_close(exported(x), expected, atol=1e-5, rtol=1e-4)
