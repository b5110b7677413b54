"""RFLO step by step: the same gradients as over a trial, and states that go on, start anew and are copied."""

import copy

import pytest
import torch
from support.online_cases import (
    BATCH,
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
    stepped,
    targets,
)
from support.seeds import seeded
from support.tolerances import atol
from torch import nn

import manifold_rnn as mr
from manifold_rnn.errors import UnsupportedError


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


def test_steps_run_under_autocast():
    network, x = rule(dtype=torch.float32), sequences(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        network.step(x[:, 0], targets().float()[:, 0])
    assert {p.grad.dtype for p in network.parameters()} == {torch.float32}


def test_steps_go_on_after_a_conversion_and_a_start():
    network, x = stepped().double(), torch.ones(2, M, dtype=WIDE)
    network.start(2)
    assert network.step(x, torch.ones(2, K, dtype=WIDE)).dtype == WIDE
