"""Test campaigns: what they count, on a network whose answers and states are known."""

import json

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import campaign, coverage
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError


class Known(nn.Module):
    """A layer that sums its inputs, and two outputs: whether the last sum is above 1/2."""

    def __init__(self):
        super().__init__()
        self.layer = nn.RNN(1, 1, nonlinearity="relu", bias=False, batch_first=True)
        for p in self.layer.parameters():
            nn.init.ones_(p)

    def forward(self, x):
        last = self.layer(x)[0][:, -1]
        return torch.cat([last - 0.5, 0.5 - last], 1)


SEEDS = torch.tensor([[0.0, 0.0, 0.4], [0.0, 0.0, 0.9], [0.1, 0.1, 0.7]]).unsqueeze(-1)
KNOWN = torch.rand(50, 3, 1, generator=torch.Generator().manual_seed(0))


def up(x, generator):
    """Add 0.3 to the last step: the answer for the first seed alone changes."""
    mutants = x.clone()
    mutants[:, -1] += 0.3
    return mutants


def run(**options):
    network = Known()
    start = coverage(network, KNOWN, pieces=3)
    return campaign(network, start, SEEDS, **{"cases": 9, "rounds": 2, "generations": 0, "mutate": up, **options})


def test_changed_answers_within_the_radius_are_counted_and_broken_seeds_once():
    found = run(radius=0.18)  # a step of 0.3 is 0.3 / sqrt(3) = 0.1732 away
    assert found.cases == 12 and found.seeds == 3 and found.coverage.cases == 12
    assert found.adversarial == 3 and found.broken == (0,) and found.perturbation == pytest.approx(0.3 / 3**0.5)
    assert found.examples.shape == (1, 3, 1) and found.examples[0, -1] == pytest.approx(0.7)
    assert found.searches == () and found.coverage.history["cases"] == (3, 7, 12)


def test_beyond_the_radius_a_changed_answer_is_not_adversarial_but_its_case_counts():
    found = run(radius=0.17)
    assert found.adversarial == 0 and found.broken == () and found.perturbation is None
    assert found.examples.shape == (0, 3, 1) and found.coverage.reached == run(radius=0.18).coverage.reached
    own = run(radius=0.31, distance=lambda x, y: (x - y).abs().amax((1, 2)))
    assert own.adversarial == 3 and own.perturbation == pytest.approx(0.3)


def test_of_several_adversarial_cases_the_nearest_is_the_example():
    def further(x, generator, steps=[0.6, 0.2, 0.4]):  # noqa: B006 - one list for all calls
        mutants = x.clone()
        mutants[:, -1] += steps[0]
        steps.append(steps.pop(0))
        return mutants

    found = run(radius=1.0, mutate=further, rounds=3)
    assert found.broken == (0,) and found.adversarial == 3 and found.examples[0, -1] == pytest.approx(0.6)


def test_searches_go_on_from_what_is_covered_and_add_to_it():
    torch.manual_seed(0)
    network, x = mr.zoo.Network(mr.nn.LSTM(2, 8, batch_first=True), 3), torch.rand(80, 6, 2)
    start = coverage(network, x)
    options = {"cases": 60, "rounds": 3, "offspring": 20, "generations": 3}
    plain, guided = (campaign(network, start, x[:10], **{**options, **more}) for more in ({"generations": 0}, {}))
    assert 0 < len(guided.searches) <= 9 and len({s.feature for s in guided.searches}) == len(guided.searches)
    for metric, places in plain.coverage.reached.items():
        assert len(places) <= len(guided.coverage.reached[metric])
    for found in guided.searches:
        assert found.reached == (found.feature not in coverage(network, x, found.best).unreached)
        assert not found.reached or found.feature not in guided.coverage.unreached
    assert guided.cases == guided.coverage.cases > plain.cases == 70
    assert guided.cases == 70 + sum(s.cases - 10 for s in guided.searches)
    more = campaign(network, guided.coverage, x[:10], **{**options, "generations": 0})
    assert more.cases == 70 and more.coverage.cases == guided.cases + 70
    assert all({*guided.coverage.reached[m]} <= {*places} for m, places in more.coverage.reached.items())
    assert more.coverage.history["cases"][: len(guided.coverage.history["cases"])] == guided.coverage.history["cases"]


def test_a_campaign_is_reproducible_and_changes_nothing_of_the_network():
    torch.manual_seed(0)
    layer = nn.LSTM(2, 8, 2, batch_first=True, dropout=0.5)
    x = torch.rand(40, 6, 2)
    start = coverage(layer, x)
    random, before = torch.get_rng_state(), [p.clone() for p in layer.parameters()]
    options = {
        "cases": 40,
        "rounds": 2,
        "offspring": 10,
        "generations": 2,
        "classify": lambda out: out[0][:, -1].argmax(-1),
    }
    one, two = (campaign(layer, start, x[:300], **options) for _ in range(2))
    assert one.record() == two.record() and torch.equal(one.examples, two.examples)
    assert campaign(layer, start, x[:300], seed=1, **options).record() != one.record()
    assert layer.training and torch.equal(random, torch.get_rng_state()) and not layer._forward_hooks
    assert all(map(torch.equal, before, layer.parameters()))


def test_more_seeds_than_a_batch_are_compared_with_their_own_answers():
    network, x = Known(), torch.rand(600, 3, 1)
    found = campaign(network, coverage(network, KNOWN, pieces=3), x, 600, 1, lambda x, _: x.clone(), 0)
    assert found.adversarial == 0 and found.cases == 1200
    found = campaign(network, coverage(network, KNOWN, pieces=3), x, 600, 1, lambda x, _: 0 * x, 0, radius=9.0)
    assert found.broken == tuple((x.sum((1, 2)) > 0.5).nonzero().flatten().tolist())


def test_a_network_that_does_not_classify_is_covered_without_answers():
    found = run(classify=None)
    assert found.adversarial is None and found.perturbation is None and "no answers were compared" in found.table()
    assert found.coverage.cases == 12


def test_progress_is_told_after_each_round():
    calls = []
    run(progress=lambda fraction, cases: calls.append((fraction, cases)))
    assert calls == [(0.5, 7), (1.0, 12)]


def test_the_record_is_plain_and_complete_and_the_table_ascii():
    found = run(generations=1, offspring=2)
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    names = {"cases", "adversarial", "unique_seeds_broken", "mean_perturbation", "coverage", "unreached", "searches"}
    assert names <= record.keys() and record["unique_seeds_broken"] == 1 and len(record["coverage"]) == 7
    assert record["unreached"] == [str(feature) for feature in found.coverage.unreached]
    text = found.table()
    assert text.isascii() and "seeds broken       1" in text and "not defects" in text


def test_the_picture_names_what_was_found():
    pytest.importorskip("matplotlib")
    assert run(radius=0.18).plot().get_title() == "Test campaign: 3 adversarial, 1 seeds broken"


REGRESSION = mr.zoo.Network(mr.nn.RNN(1, 2, batch_first=True), 1)
BAD = {
    "cases": (Known(), {"cases": -1}, OptionError, "`cases` needs an integer of at least 0. Got -1"),
    "rounds": (Known(), {"rounds": 0}, OptionError, "`rounds` needs an integer of at least 1. Got 0"),
    "no classes": (REGRESSION, {}, ShapeError, r"outputs of shape \(B, classes\).*Got shape \(3, 1\).*classify=None"),
    "a layer": (nn.RNN(1, 2, batch_first=True), {}, ShapeError, "Got tuple"),
    "one answer": (Known(), {"classify": lambda out: out.sum()}, ShapeError, "`classify` needs to return an answer"),
    "a function": (lambda x: x, {}, OptionError, "campaign needs a torch module.\\nGot function"),
    "no radius": (Known(), {"radius": -1.0}, OptionError, "`radius` needs a positive number"),
}


@pytest.mark.parametrize(("network", "options", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_by_name(network, options, kind, message):
    start = coverage(network, KNOWN, pieces=3)
    with pytest.raises(kind, match=message) as caught:
        campaign(network, start, SEEDS, **{"cases": 3, "generations": 0, **options})
    assert len(str(caught.value)) <= 400
    assert not isinstance(network, nn.Module) or not network._forward_hooks


def test_outputs_of_nan_are_no_answers():
    network = Known()
    start = coverage(network, KNOWN, pieces=3)
    network.register_forward_hook(lambda _module, _inputs, output: output * torch.nan)
    with pytest.raises(NonFiniteError, match="finite outputs"):
        campaign(network, start, SEEDS, cases=3, rounds=1, generations=0)


@pytest.mark.parametrize("wrong", [{"classify": 3}, {"seed": 2**70}])
def test_options_of_another_kind_are_named(wrong):
    with pytest.raises(OptionError, match=f"`{next(iter(wrong))}`"):
        run(**wrong)
    with pytest.raises(OptionError, match="`coverage`"):
        campaign(Known(), SEEDS, SEEDS)
