"""RFLO: its gradients against plain loops and against exact ones, step by step, and what it leaves alone."""

import copy
import pickle

import pytest
import torch
from support.counting import AliveBytes
from support.online_cases import (
    BATCH,
    FEEDBACKS,
    INFLUENCES,
    LEAKS,
    STEPS,
    WIDE,
    K,
    M,
    N,
    by_trial,
    gradients,
    half_square,
    rule,
    sequences,
    targets,
    written_out,
)
from support.seeds import seeded
from support.tolerances import atol
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import manifold_rnn as mr
from manifold_rnn.errors import DtypeError, NonFiniteError, OptionError, ShapeError, UnsupportedError
from manifold_rnn.nn import Layer
from manifold_rnn.nn.cells import LSTM, Elman, LeakyElman
from manifold_rnn.online import RFLO

EXACT = {"feedback": "transpose", "influence": "full"}
NONLINEARITIES = ["tanh", "relu", "modrelu", torch.sigmoid]
VIEWS = ["update", "trivialized"]
CLONES = {"deepcopy": copy.deepcopy, "pickle": lambda m: pickle.loads(pickle.dumps(m))}


def require_close(one, other, bound=1e-9):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=bound, rtol=bound, msg=name)


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


@pytest.mark.parametrize("feedback", FEEDBACKS)
@pytest.mark.parametrize("influence", INFLUENCES)
@pytest.mark.parametrize("view", VIEWS)
def test_gradients_of_steps_add_up_to_those_of_the_trial(view, influence, feedback):
    network = rule(feedback=feedback, influence=influence, constraint=mr.Orthogonal(), view=view)
    x, target = sequences(), targets()
    y, expected = by_trial(network, x, target)
    network.zero_grad()
    for t in range(STEPS):
        y_t = network.step(x[:, t], target[:, t], loss=half_square)
        torch.testing.assert_close(y_t, y[:, t], atol=atol(WIDE), rtol=1e-12)
    require_close(gradients(network), expected, 1e-12)


def test_updates_of_every_step_and_of_the_trial_agree_to_first_order():
    x, target = sequences(), targets()

    def trained(rate, online):
        network = rule()
        optimizer = torch.optim.SGD(network.parameters(), lr=rate)
        if not online:
            by_trial(network, x, target)
            optimizer.step()
        else:
            for t in range(STEPS):
                network.zero_grad()
                network.step(x[:, t], target[:, t], loss=half_square)
                optimizer.step()
        return nn.utils.parameters_to_vector(network.parameters()).detach()

    gaps = [(trained(rate, True) - trained(rate, False)).norm().item() for rate in (1e-5, 5e-6)]
    assert 3.8 < gaps[0] / gaps[1] < 4.2


def test_an_error_may_be_given_in_the_place_of_a_target():
    one, other, x, target = rule(), rule(), sequences(), targets()
    for t in range(3):
        one.step(x[:, t], target[:, t], loss=half_square)
        other.learn(other.step(x[:, t]) - target[:, t])
    require_close(gradients(one), gradients(other), 0)


@pytest.mark.parametrize("view", VIEWS)
def test_steps_learn_without_recording_too(view):
    one, other, third = (rule(constraint=mr.Orthogonal(), view=view) for _ in range(3))
    x, target = sequences(), targets()
    for t in range(3):
        one.step(x[:, t], target[:, t], loss=half_square)
        with torch.no_grad():
            other.step(x[:, t], target[:, t], loss=half_square)
            third.learn(third.step(x[:, t]) - target[:, t])
    for network in (other, third):
        require_close(gradients(network), gradients(one), 0)


def test_steps_follow_the_rule_in_evaluation_mode_too():
    one, other, x, target = rule(), rule().eval(), sequences(), targets()
    for t in range(3):
        one.step(x[:, t], target[:, t])
        other.step(x[:, t], target[:, t])
    require_close(gradients(one), gradients(other), 0)


def test_a_state_dict_holds_no_sequences_that_run_and_a_copy_does():
    network, x = rule(), sequences()
    network.step(x[:, 0])
    fresh, copied = rule(), copy.deepcopy(network)
    fresh.load_state_dict(network.state_dict())
    following = network.step(x[:, 1])
    assert torch.equal(copied.step(x[:, 1]), following) and not torch.equal(fresh.step(x[:, 1]), following)


@pytest.mark.parametrize("guard", [torch.enable_grad, torch.no_grad])
def test_a_step_computes_a_trivialized_weight_once(guard, monkeypatch):
    network, computed = rule(constraint=mr.Orthogonal(), view="trivialized"), []
    weights = network.layer.weights
    monkeypatch.setattr(network.layer, "weights", lambda suffix: computed.append(suffix) or weights(suffix))
    network.start(BATCH)
    computed.clear()
    with guard():
        network.step(sequences()[:, 0], targets()[:, 0])
    assert computed == ["_l0"]


def test_inference_mode_is_refused_by_its_name():
    network = stepped()
    for act in (
        lambda: network.start(2),
        lambda: network.step(torch.ones(2, M)),
        lambda: network.learn(torch.ones(2, K)),
    ):
        with torch.inference_mode(), pytest.raises(UnsupportedError, match=r"torch\.inference_mode"):
            act()
    with torch.inference_mode():
        network(torch.ones(3, 2, M))


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


def test_start_begins_new_sequences():
    network, x, target = rule(), sequences(), targets()
    h = torch.randn(BATCH, N, dtype=WIDE, generator=seeded(4))
    network.step(x[:, 0], target[:, 0])
    for state in (None, h):
        network.start(BATCH, state)
        network.zero_grad()
        for t in range(STEPS):
            y = network.step(x[:, t], target[:, t], loss=half_square)
        found = gradients(network)
        network.zero_grad()
        outputs, _ = network.carry_on(x, None if state is None else state.unsqueeze(0), every_step=True)
        half_square(outputs, target).backward()
        torch.testing.assert_close(y, outputs[:, -1].detach(), atol=atol(WIDE), rtol=0)
        require_close(found, gradients(network), 1e-12)


def test_a_stream_in_pieces_has_the_outputs_of_the_whole():
    network, x = rule(), sequences()
    first, state = network.carry_on(x[:, :5], every_step=True)
    second, last = network.carry_on(x[:, 5:], state, every_step=True)
    assert not state.requires_grad
    y, h = network.carry_on(x, every_step=True)
    torch.testing.assert_close(torch.cat([first, second], 1), y, atol=atol(WIDE), rtol=0)
    torch.testing.assert_close(last, h, atol=atol(WIDE), rtol=0)


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


def test_steps_run_under_autocast():
    network, x = rule(dtype=torch.float32), sequences(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        network.step(x[:, 0], targets().float()[:, 0])
    assert {p.grad.dtype for p in network.parameters()} == {torch.float32}


def test_steps_go_on_after_a_conversion_and_a_start():
    network, x = stepped().double(), torch.ones(2, M, dtype=WIDE)
    network.start(2)
    assert network.step(x, torch.ones(2, K, dtype=WIDE)).dtype == WIDE


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


def peak_of_steps(steps):
    network = rule(dtype=torch.float32)
    with AliveBytes() as bytes_:
        for _ in range(steps):
            network.step(torch.ones(BATCH, M), torch.ones(BATCH, K))
    return bytes_.peak


def peak_of_trial(steps):
    network = rule(dtype=torch.float32)
    x = torch.ones(BATCH, 1, M).expand(BATCH, steps, M)
    with AliveBytes() as bytes_:
        network(x).square().sum().backward()
    return bytes_.peak


@pytest.mark.parametrize("peak", [peak_of_steps, peak_of_trial])
def test_memory_does_not_grow_with_the_number_of_steps(peak):
    peak(2)  # what torch makes once
    assert peak(400) == peak(100)


@pytest.mark.slow
@pytest.mark.parametrize("peak", [peak_of_steps, peak_of_trial])
def test_memory_does_not_grow_up_to_ten_thousand_steps(peak):
    peak(2)
    assert peak(10_000) == peak(100)


def test_of_a_trial_nothing_but_outputs_and_errors_grows():
    def peak(steps):
        network = rule(dtype=torch.float32)
        x = torch.ones(BATCH, 1, M).expand(BATCH, steps, M)
        with AliveBytes() as bytes_:
            network(x, every_step=True).square().sum().backward()
        return bytes_.peak

    outputs = 4 * BATCH * K  # bytes of a step
    assert (peak(200) - peak(100)) / 100 <= 5 * outputs


class Written(TorchDispatchMode):
    """Counts the numbers that operations write."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = torch.utils._pytree.tree_leaves(result)
        self.count += sum(x.numel() for x in leaves if isinstance(x, torch.Tensor) and not x._is_view())
        return result


def work(n, influence="local"):
    """Multiplications and numbers written in a step with its gradients."""
    layer = Layer(LeakyElman(), M, n)
    network = RFLO(layer, nn.Linear(n, K), influence=influence)
    x, target = torch.ones(BATCH, M), torch.ones(BATCH, K)
    network.step(x, target)
    with FlopCounterMode(display=False) as flops, Written() as written:
        network.step(x, target)
    return flops.get_total_flops() + written.count


@pytest.mark.parametrize(("influence", "power"), [("local", 2), ("diagonal", 2), ("full", 4)])
def test_work_of_a_step_grows_as_a_power_of_the_units(influence, power):
    sizes = (32, 64) if power == 4 else (128, 256)
    small, large = (work(n, influence) for n in sizes)
    assert power - 0.3 < torch.tensor(large / small).log2() < power + 0.05


def layer_with(cell=None, m=M, n=N, **options):
    return Layer(cell or LeakyElman(), m, n, **options)


def linear(n=N, k=K, dtype=torch.float32):
    return nn.Linear(n, k, dtype=dtype)


def stepped():
    network = RFLO(layer_with(), linear())
    network.step(torch.zeros(2, M))
    return network


BAD = {
    "a layer of torch": (lambda: RFLO(nn.RNN(M, N), linear()), UnsupportedError, "Expected a Layer.*got RNN"),
    "two levels": (lambda: RFLO(layer_with(num_layers=2), linear()), UnsupportedError, "num_layers=2"),
    "two directions": (lambda: RFLO(layer_with(bidirectional=True)), UnsupportedError, "bidirectional=True"),
    "a trained start": (lambda: RFLO(layer_with(train_initial_state=True)), UnsupportedError, "train_initial_state"),
    "another cell": (lambda: RFLO(layer_with(LSTM())), UnsupportedError, "got LSTM"),
    "other steps": (lambda: RFLO(layer_with(Doubled())), UnsupportedError, "got Doubled"),
    "a mixing nonlinearity": (
        lambda: RFLO(layer_with(LeakyElman(lambda z: z.softmax(-1)))), UnsupportedError, "acts on each unit alone"),
    "a trained nonlinearity": (lambda: RFLO(layer_with(LeakyElman(nn.PReLU()))), UnsupportedError, "got PReLU"),
    "complex weights": (lambda: RFLO(layer_with(dtype=torch.complex64)), DtypeError, "complex64"),
    "a nonlinear readout": (lambda: RFLO(layer_with(), nn.ReLU()), UnsupportedError, "nn.Linear or None, got ReLU"),
    "a readout of another size": (lambda: RFLO(layer_with(), linear(7)), ShapeError, "in_features=5.*got 7"),
    "a readout of another dtype": (lambda: RFLO(layer_with(), linear(dtype=WIDE)), DtypeError, "got torch.float64"),
    "an unknown feedback": (lambda: RFLO(layer_with(), linear(), feedback="randm"), OptionError, "got 'randm'"),
    "feedback for no readout": (lambda: RFLO(layer_with(), feedback="random"), OptionError, "feedback=None"),
    "transposed feedback": (
        lambda: RFLO(layer_with(), linear(), feedback=torch.ones(K, N)), ShapeError, r"Expected \(5, 3\).*\(3, 5\)"),
    "feedback with NaN": (
        lambda: RFLO(layer_with(), linear(), feedback=torch.full((N, K), torch.nan)), NonFiniteError, "15 of 15"),
    "an unknown influence": (lambda: RFLO(layer_with(), linear(), influence="rtrl"), OptionError, "got 'rtrl'"),
    "an influence of another type": (lambda: RFLO(layer_with(), linear(), influence=3), OptionError, "got 3"),
    "to learn before a step": (lambda: RFLO(layer_with(), linear()).learn(torch.ones(1, K)), OptionError, "got none"),
    "an error of another shape": (lambda: stepped().learn(torch.ones(K)), ShapeError, r"Expected \(2, 3\).*\(3,\)"),
    "an error with infinity": (
        lambda: stepped().learn(torch.full((2, K), torch.inf)), NonFiniteError, "6 of 6 that are not"),
    "a step of a sequence": (lambda: stepped().step(torch.ones(2, 5, M)), ShapeError, r"\(2, 2\).*\(2, 5, 2\)"),
    "another batch": (lambda: stepped().step(torch.ones(3, M)), ShapeError, "another number of sequences"),
    "another input size": (lambda: stepped().step(torch.ones(2, 7)), ShapeError, "input_size 2"),
    "another dtype": (lambda: stepped().step(torch.ones(2, M, dtype=WIDE)), DtypeError, "got torch.float64"),
    "a step with a gradient": (
        lambda: stepped().step(torch.ones(2, M, requires_grad=True)), UnsupportedError, "Detach the inputs"),
    "inputs with a gradient": (
        lambda: stepped()(torch.ones(3, 2, M, requires_grad=True)), UnsupportedError, "Detach the inputs"),
    "a packed sequence": (
        lambda: stepped()(nn.utils.rnn.pack_sequence([torch.ones(3, M)])), UnsupportedError, "got a PackedSequence"),
    "no time step": (lambda: stepped()(torch.ones(0, 2, M)), ShapeError, "no time step"),
    "a state of another size": (
        lambda: stepped().start(2, torch.ones(2, 7)), ShapeError, r"Expected \(2, 5\).*got \(2, 7\)"),
    "a state for other sequences": (
        lambda: stepped().start(4, torch.ones(2, N)), ShapeError, r"Expected \(4, 5\).*got \(2, 5\)"),
    "a state of numbers": (lambda: stepped().start(1, [[0.0] * N]), ShapeError, r"Expected \(1, 5\).*got list"),
    "less than no sequence": (lambda: stepped().start(-1), OptionError, "`batch`.*got -1"),
    "sequences by a word": (lambda: stepped().start("a"), OptionError, "`batch`.*got 'a'"),
    "an error of numbers": (lambda: stepped().learn([1.0]), DtypeError, r"one of shape \(2, 3\), got list"),
    "an error of another dtype": (
        lambda: stepped().learn(torch.ones(2, K, dtype=WIDE)), DtypeError, "Expected torch.float32, got torch.float64"),
    "a loss of each entry": (
        lambda: stepped().step(torch.ones(2, M), torch.ones(2, K), loss=nn.MSELoss(reduction="none")),
        ShapeError, r"Expected a scalar, got shape \(2, 3\)"),
    "a loss without a graph": (
        lambda: stepped().step(torch.ones(2, M), torch.ones(2, K), loss=lambda y, _: y.detach().sum()),
        OptionError, "does not depend on the outputs"),
    "a target of another shape": (
        lambda: stepped().step(torch.ones(2, M), torch.ones(K)), ShapeError, r"Expected \(2, 3\).*got \(3,\)"),
    "a target of numbers": (lambda: stepped().step(torch.ones(2, M), 1.0), ShapeError, r"\(2, 3\).*got float"),
    "a step after a conversion": (
        lambda: stepped().double().step(torch.ones(2, M, dtype=WIDE)), DtypeError, "got torch.float32.*Call start"),
    "to learn after a conversion": (
        lambda: stepped().double().learn(torch.ones(2, K, dtype=WIDE)), DtypeError, "got torch.float32.*Call start"),
    "a gain by a word": (lambda: mr.zoo.rflo(M, N, K, gain="a"), OptionError, "gain of rflo.*got 'a'"),
    "no gain": (lambda: mr.zoo.rflo(M, N, K, gain=0), OptionError, "positive number, got 0"),
    "a complex network": (lambda: mr.zoo.rflo(M, N, K, dtype=torch.complex64), DtypeError, "got torch.complex64"),
    "an input with NaN": (
        lambda: stepped().step(torch.tensor([[0.0, torch.nan]] * 2)), NonFiniteError, "2 of 4 that are not"),
}  # fmt: skip


class Doubled(LeakyElman):
    def step(self, u, state, W):
        return super().step(2 * u, state, W)


@pytest.mark.parametrize(("act", "kind", "message"), BAD.values(), ids=BAD)
def test_what_cannot_be_is_refused_by_name(act, kind, message):
    with pytest.raises(kind, match=f"(?s){message}") as caught:
        act()
    assert type(caught.value) is kind and len(str(caught.value)) <= 400


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


BYPASSED = {
    "gates": (lambda layer, readout: mr.nn.gate_units(layer), "gates over the units"),
    "gates of the readout": (lambda layer, readout: mr.nn.gate_units(Layer(Elman(), M, N), readout), "GatedInput"),
    "spectral_norm": (lambda layer, readout: nn.utils.spectral_norm(readout), "SpectralNorm of the readout"),
    "a hook": (lambda layer, readout: readout.register_forward_hook(lambda m, x, y: 2 * y), "of the readout"),
    "a hook of the layer": (lambda layer, readout: layer.register_forward_hook(print), "hook print of the layer"),
    "another forward": (lambda layer, readout: setattr(readout, "__class__", Doubling), "forward method of Doubling"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BYPASSED.values(), ids=BYPASSED)
def test_what_the_rule_would_bypass_is_refused_before_and_after_it_is_built(change, message):
    network = RFLO(layer_with(Elman()), linear())
    network.step(torch.zeros(2, M))
    change(network.layer, network.readout)
    for act in (
        lambda: RFLO(network.layer, network.readout),
        lambda: network(torch.ones(3, 2, M)),
        lambda: network.step(torch.ones(2, M)),
        lambda: network.learn(torch.ones(2, K)),
    ):
        with pytest.raises(UnsupportedError, match=message) as caught:
            act()
        assert len(str(caught.value)) <= 400
    with torch.no_grad():
        network.eval()(torch.ones(3, 2, M))  # calls the modules


@pytest.mark.parametrize("view", VIEWS)
def test_hooks_of_constraints_and_parametrized_readouts_are_taken(view):
    network = rule(constraint=mr.Orthogonal(), view=view)
    mr.constraints.scope(network.layer)
    nn.utils.parametrizations.weight_norm(network.readout)
    other = RFLO(network.layer, network.readout, feedback="transpose", influence="full")
    found = by_trial(other, sequences(), targets())[1]
    require_close(found, by_trial(other.eval(), sequences(), targets())[1])


def test_nothing_changes_after_a_refusal():
    network = rule()
    network.step(sequences()[:, 0], targets()[:, 0])
    before = [network.state_dict(), gradients(network), network._state, network._influence.trace.clone()]
    for act in (
        lambda: network.learn(torch.full((BATCH, K), torch.nan, dtype=WIDE)),
        lambda: network.learn(torch.ones(BATCH, 7, dtype=WIDE)),
        lambda: network.step(torch.ones(BATCH, 7, dtype=WIDE)),
        lambda: network.step(torch.full((BATCH, M), torch.nan, dtype=WIDE)),
        lambda: network.step(sequences()[:, 0], torch.ones(K, dtype=WIDE)),
        lambda: network.start(BATCH, torch.ones(BATCH, 7, dtype=WIDE)),
    ):
        with pytest.raises(mr.errors.ManifoldError):
            act()
    after = [network.state_dict(), gradients(network), network._state, network._influence.trace]
    torch.testing.assert_close(after, before, atol=0, rtol=0)


def test_a_frozen_nonlinearity_and_single_leaks_are_taken():
    function = nn.PReLU().requires_grad_(False)
    network = RFLO(layer_with(LeakyElman(function, leak=LEAKS), dtype=torch.float32), linear(), **EXACT)
    x = sequences(dtype=torch.float32).transpose(0, 1)
    target = targets().float().transpose(0, 1)
    found = by_trial(network, x, target)[1]
    require_close(found, by_trial(network.eval(), x, target)[1], 1e-4)
