"""RFLO over whole trials: its gradients against plain loops and against exact ones, and what it leaves alone."""

import copy
import pickle

import pytest
import torch
from support.online_cases import (
    BATCH,
    EXACT,
    FEEDBACKS,
    INFLUENCES,
    STEPS,
    VIEWS,
    WIDE,
    K,
    M,
    N,
    by_trial,
    gradients,
    half_square,
    require_close,
    rule,
    sequences,
    targets,
    written_out,
)
from support.seeds import seeded
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import Elman, LeakyElman
from manifold_rnn.online import RFLO

NONLINEARITIES = ["tanh", "relu", "modrelu", torch.sigmoid]
CLONES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}


@pytest.mark.parametrize("influence", INFLUENCES)
@pytest.mark.parametrize("feedback", FEEDBACKS)
def test_outputs_and_gradients_are_those_of_plain_loops(feedback, influence):
    network, x, target = rule(feedback=feedback, influence=influence), sequences(7), targets(7)
    y, found = by_trial(network, x, target)
    expected_y, expected = written_out(network, x, target)
    torch.testing.assert_close(y, expected_y, atol=atol(WIDE), rtol=1e-12)
    require_close(found, expected, 1e-12)


@pytest.mark.parametrize("every_step", [True, False])
@pytest.mark.parametrize("constraint", [None, *VIEWS])
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES, ids=str)
def test_transposed_feedback_and_full_influence_are_exact(nonlinearity, constraint, every_step):
    options = {} if constraint is None else {"constraint": mr.Orthogonal(), "view": constraint}
    network, x, target = rule(nonlinearity, **EXACT, **options), sequences(), targets()
    wanted = target if every_step else target[:, -1]
    y, found = by_trial(network, x, wanted, every_step)
    expected_y, expected = by_trial(network.eval(), x, wanted, every_step)
    torch.testing.assert_close(y, expected_y, atol=atol(WIDE), rtol=1e-12)
    require_close(found, expected)


@pytest.mark.parametrize("constraint", [mr.SchurDisc(), mr.DampedSkew(), mr.UnitDisc(), mr.StickyDisc()], ids=repr)
def test_exact_gradients_reach_the_coordinates_of_other_constraints(constraint):
    network = rule(**EXACT, constraint=constraint, view="trivialized")
    found, expected = (by_trial(net, sequences(), targets())[1] for net in (network, copy.deepcopy(network).eval()))
    require_close(found, expected)


@pytest.mark.parametrize("influence", INFLUENCES)
def test_without_recurrence_every_influence_is_exact(influence):
    network, x, target = rule(feedback="transpose", influence=influence), sequences(), targets()
    nn.init.zeros_(network.layer.weight_hh_l0)
    found = by_trial(network, x, target)[1]
    require_close(found, by_trial(network.eval(), x, target)[1])


def test_the_diagonal_influence_is_exact_for_a_diagonal_matrix():
    network, x, target = rule(feedback="transpose", influence="diagonal"), sequences(), targets()
    W = network.layer.weight_hh_l0
    W.data = W.data.diagonal().diag()
    found = by_trial(network, x, target)[1]
    require_close(found, by_trial(network.eval(), x, target)[1])


def test_the_published_rule_is_not_the_gradient():
    network, x, target = rule(feedback="transpose"), sequences(), targets()
    found = by_trial(network, x, target)[1]
    expected = by_trial(network.eval(), x, target)[1]
    name = "layer.weight_hh_l0"
    assert (found[name] - expected[name]).norm() > 0.1 * expected[name].norm()
    for name in ("readout.weight", "readout.bias"):  # which learn by their exact gradients
        torch.testing.assert_close(found[name], expected[name], atol=1e-12, rtol=1e-12)


def test_with_leak_one_the_gradient_reaches_one_step_back():
    torch.manual_seed(0)
    layer = Layer(Elman(), M, N, batch_first=True, dtype=WIDE)
    network = RFLO(layer, nn.Linear(N, K, dtype=WIDE), feedback="transpose")
    x, target = sequences(), targets()[:, -1]
    found = by_trial(network, x, target, every_step=False)[1]
    h = layer(x[:, :-1])[1].detach()
    network.zero_grad()
    half_square(network.readout(layer(x[:, -1:], h)[0][:, -1]), target).backward()
    require_close(found, gradients(network), 1e-12)


def test_an_error_may_be_given_in_the_place_of_a_target():
    one, other, x, target = rule(), rule(), sequences(), targets()
    for t in range(3):
        one.step(x[:, t], target[:, t], loss=half_square)
        other.learn(other.step(x[:, t]) - target[:, t])
    require_close(gradients(one), gradients(other), 0)


def test_without_a_readout_the_error_is_that_of_the_units():
    whole = rule(**EXACT)
    network, x = RFLO(whole.layer, influence="full"), sequences()
    target = torch.randn(BATCH, STEPS, N, dtype=WIDE, generator=seeded(6))
    y, found = by_trial(network, x, target)
    expected_y, expected = by_trial(network.eval(), x, target)
    torch.testing.assert_close(y, expected_y, atol=atol(WIDE), rtol=0)
    require_close(found, expected)
    network.zero_grad()
    network.start(BATCH)
    for t in range(STEPS):
        network.learn(network.step(x[:, t]) - target[:, t])
    require_close(gradients(network), expected)
    assert network.alignment() == 1


def test_axes_of_inputs_are_those_of_the_layer():
    network, x = rule(), sequences()
    expected, h = network.carry_on(x, every_step=True)
    network.layer.batch_first = False
    y, last = network.carry_on(x.transpose(0, 1), every_step=True)
    torch.testing.assert_close(y.transpose(0, 1), expected, atol=0, rtol=0)
    torch.testing.assert_close(network(x.transpose(0, 1)), expected[:, -1], atol=0, rtol=0)
    for every_step in (True, False):
        one, state = network.carry_on(x[0], every_step=every_step)
        torch.testing.assert_close(one, expected[0] if every_step else expected[0, -1], atol=atol(WIDE), rtol=0)
        torch.testing.assert_close(state, h[:, 0], atol=atol(WIDE), rtol=0)
    network.eval()
    torch.testing.assert_close(network.carry_on(x[0], every_step=True)[0], expected[0], atol=atol(WIDE), rtol=0)
    assert last.shape == (1, BATCH, N) and network.carry_on(x[0], state)[1].shape == (1, N)


def test_evaluation_has_exact_gradients_also_of_the_inputs():
    network, x = rule().eval(), sequences().requires_grad_()
    network(x).sum().backward()
    assert x.grad.abs().min() > 0
    with torch.no_grad():
        assert not network.train()(x.detach()).requires_grad


def test_a_frozen_weight_gets_no_gradient():
    network = rule()
    for frozen in (network.layer.weight_ih_l0, network.readout.bias):
        frozen.requires_grad_(False)
    by_trial(network, sequences(), targets())
    network.step(sequences()[:, 0], targets()[:, 0])
    assert network.layer.weight_ih_l0.grad is None and network.readout.bias.grad is None
    assert network.layer.weight_hh_l0.grad is not None
    network.requires_grad_(False)
    network.step(sequences()[:, 0], targets()[:, 0])


def test_gradients_accumulate_and_scale_with_the_loss():
    network, x, target = rule(), sequences(), targets()
    once = by_trial(network, x, target)[1]
    network.zero_grad()
    for _ in range(2):
        (0.25 * half_square(network(x, every_step=True), target)).backward()
    require_close(gradients(network), {name: 0.5 * g for name, g in once.items()}, 1e-12)


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("influence", INFLUENCES)
def test_an_orthogonal_weight_learns_on_its_manifold(influence, view):
    network = rule(influence=influence, constraint=mr.Orthogonal(), view=view, dtype=torch.float32)
    kind = mr.optim.RiemannianAdam if view == "update" else torch.optim.Adam
    optimizer, x, target = kind(network.parameters(), lr=1e-2), sequences(dtype=torch.float32), targets()[:, -1].float()
    before, losses = network.layer.weight_hh_l0.detach().clone(), []
    for _ in range(30):
        optimizer.zero_grad()
        loss = half_square(network(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    W = network.layer.weight_hh_l0.detach()
    assert losses[-1] < 0.7 * losses[0]
    assert mr.linalg.defect(W) < 1e-5 and (W - before).abs().max() > 1e-2


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES)
def test_copies_and_files_hold_the_feedback(clone):
    network, x = rule(constraint=mr.Orthogonal(), view="trivialized"), sequences()
    network.step(x[:, 0])
    other = clone(network)
    expected = by_trial(network, x, targets())[1]
    require_close(by_trial(other, x, targets())[1], expected, 0)
    fresh = RFLO(copy.deepcopy(network.layer), nn.Linear(N, K, dtype=WIDE), generator=seeded(9))
    assert not torch.equal(fresh.feedback, network.feedback)
    fresh.load_state_dict(network.state_dict())
    require_close(by_trial(fresh, x, targets())[1], expected, 0)


def test_the_generator_decides_the_feedback_and_no_other_number_is_drawn():
    network = rule()
    state = torch.get_rng_state()
    first, again, other = (RFLO(network.layer, network.readout, generator=seeded(s)).feedback for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    drawn = RFLO(Layer(LeakyElman(), M, 2000), nn.Linear(2000, 5), generator=seeded()).feedback
    assert abs(drawn.var().item() - 1 / 5) < 0.01


def test_single_precision_agrees_with_double():
    network = rule()
    expected = by_trial(network, sequences(), targets())[1]
    found = by_trial(network.float(), sequences().float(), targets().float())[1]
    require_close({name: g.double() for name, g in found.items()}, expected, 1e-4)


def test_runs_under_autocast():
    network, x = rule(dtype=torch.float32), sequences(dtype=torch.float32)
    expected = by_trial(network, x, targets().float())[1]
    with torch.autocast("cpu", torch.bfloat16):
        found = by_trial(network, x, targets().float())[1]
    require_close(found, expected, 1e-6)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of tensors where the graph breaks
def test_compiles_around_the_rule_and_exports_what_it_learned():
    network, x = rule(), sequences()
    expected = by_trial(network, x, targets())
    torch._dynamo.reset()
    y, found = by_trial(torch.compile(network, backend="eager"), x, targets())
    torch.testing.assert_close(y, expected[0], atol=0, rtol=0)
    require_close({name.removeprefix("_orig_mod."): g for name, g in found.items()}, expected[1], 0)
    exported = torch.export.export(network.eval(), (x,)).module()
    torch.testing.assert_close(exported(x), expected[0][:, -1], atol=atol(WIDE), rtol=0)
