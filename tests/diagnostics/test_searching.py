"""Search for inputs that reach features: it ends where it should, and its mutants are what they should be."""

import pytest
import torch
from torch import nn

import manifold_rnn as mr
from manifold_rnn.diagnostics import Feature, coverage, search
from manifold_rnn.diagnostics.mutation import Mutation, root_mean_square
from manifold_rnn.errors import NonFiniteError, OptionError, ShapeError

KNOWN = torch.tensor([[0.0, 1.0, 2.0, 4.0], [0.0, 0.0, 0.0, 0.0]]).unsqueeze(-1)
OPTIONS = {"generations": 10, "survivors": 3, "offspring": 30}


def same(x):
    return x


def counted(**options):
    return coverage(same, KNOWN, torch.zeros(1, 4, 1), **{"pieces": 2, **options})


def towards(x, generator):
    """Mutants that move by up to 0.5 up or down."""
    return x + torch.rand(x.shape, generator=generator) - 0.5


@pytest.mark.parametrize(("metric", "at"), [("boundary", 2), ("change", 3), ("temporal", "ca"), ("temporal", "bb")])
def test_a_feature_that_can_be_reached_is_reached(metric, at):
    start = counted()
    found = search(same, start, torch.full((2, 4, 1), 0.1), mutate=towards, feature=(metric, at), **OPTIONS)
    assert found.reached and found.fitness[-1] <= 0 < found.fitness[0]
    assert list(found.fitness) == sorted(found.fitness, reverse=True) and len(found.fitness) <= 11
    # the best input reaches the very feature that was asked for, as coverage counts it
    again = coverage(same, KNOWN, found.best, pieces=2)
    assert Feature(metric, at) not in again.unreached and found.best.shape == (1, 4, 1)
    assert metric != "temporal" or again.words == (at,)


def test_a_feature_beyond_every_mutant_is_unreached_and_no_defect():
    found = search(
        same, counted(), torch.zeros(1, 4, 1), mutate=lambda x, _: x.clone(), feature=("boundary", 0), **OPTIONS
    )
    assert not found.reached and len(found.fitness) == 11 and found.fitness[-1] == pytest.approx(0.8)
    assert "not reached; an input that reaches it may still exist" in found.table()
    high = counted(boundary=1.5)  # no mapped value is above 1
    assert not search(same, high, KNOWN, mutate=towards, feature=("boundary", 3), **OPTIONS).reached


def test_a_feature_that_the_seeds_reach_needs_no_generation():
    found = search(same, counted(), KNOWN, feature=("boundary", 3))
    assert found.reached and found.fitness == (pytest.approx(-0.2),) and found.seed == 0 and found.cases == 2
    assert torch.equal(found.best, KNOWN[:1]) and found.distance == 0


def test_without_a_feature_the_nearest_is_searched_for():
    seeds = torch.tensor([[0.0, 0.0, 3.0, 0.0]]).unsqueeze(-1)  # 0.05 from boundary 2, and all of change 2 is reached
    assert search(same, counted(), seeds, mutate=towards, **OPTIONS).feature[0] in ("boundary", "change", "temporal")
    scale = coverage(same, KNOWN, seeds, boundary=0.8, change=0.0, pieces=1, symbols=2)
    assert search(same, scale, seeds, mutate=towards, **OPTIONS).feature == ("boundary", 2)


def test_equal_seeds_give_equal_searches_and_others_do_not():
    torch.manual_seed(0)
    layer, x = nn.LSTM(2, 6, batch_first=True), torch.rand(30, 8, 2)
    start = coverage(layer, x, x[:3])
    state = torch.get_rng_state()
    runs = [
        search(layer, start, x[:5], feature=("boundary", 1), offspring=40, generations=3, seed=s) for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0].best, runs[1].best) and runs[0].fitness == runs[1].fitness
    assert not torch.equal(runs[0].best, runs[2].best) and torch.equal(state, torch.get_rng_state())


def test_mutants_stay_within_the_radius_of_their_own_seed():
    seeds = torch.rand(4, 4, 1) + torch.arange(4.0).view(4, 1, 1)
    options = {**OPTIONS, "generations": 4, "mutate": towards, "feature": ("boundary", 0)}
    near = search(same, counted(), seeds[:1], radius=0.2, **options)
    far = search(same, counted(), seeds[:1], **options)
    assert near.distance <= 0.2 < far.distance
    assert near.distance == pytest.approx(float(root_mean_square(near.best, seeds[near.seed][None])))
    own = search(same, counted(), seeds, radius=0.5, distance=lambda x, y: (x - y).abs().amax((1, 2)), **options)
    assert (own.best - seeds[own.seed]).abs().max() <= 0.5
    none = search(same, counted(), seeds, radius=1e-9, **options)
    assert none.cases == 4 and none.distance == 0 and len(none.fitness) == 5


def test_time_first_and_batch_first_layers_are_searched_alike():
    torch.manual_seed(0)
    first, x = nn.LSTM(2, 6, batch_first=True), torch.rand(30, 8, 2)
    last = mr.nn.LSTM(2, 6)
    last.load_state_dict(first.state_dict())
    options = {"feature": ("change", 4), "offspring": 30, "generations": 2}
    one = search(first, coverage(first, x, x[:3]), x[:5], **options)
    two = search(last, coverage(last, x.transpose(0, 1)), x[:5].transpose(0, 1), **options)
    assert two.best.shape == (8, 1, 2) and torch.allclose(one.best, two.best.transpose(0, 1))
    own = search(last, coverage(last, x.transpose(0, 1)), x[:5].transpose(0, 1), mutate=towards, **options)
    assert own.best.shape == (8, 1, 2)


def test_the_distance_is_euclidean_and_does_not_depend_on_the_number_of_entries():
    x = torch.zeros(1, 2, 2)
    y = torch.eye(2)[None]  # whose largest singular value is 1, and Euclidean norm the root of 2
    assert root_mean_square(x, y).item() == pytest.approx(0.5**0.5)
    large = y.repeat_interleave(5, 1).repeat_interleave(5, 2)
    assert root_mean_square(torch.zeros_like(large), large).item() == pytest.approx(0.5**0.5)
    assert root_mean_square(torch.zeros(1, 3, dtype=torch.complex64), torch.full((1, 3), 2j)).item() == pytest.approx(2)


def test_noise_has_the_variance_of_the_paper_and_stays_in_the_range_of_the_seeds():
    seeds = torch.full((1, 40, 1), 0.5)
    seeds[0, 0], seeds[0, 1] = 0, 1
    middle = torch.full((2000, 40, 1), 0.5)
    mutants = Mutation(seeds, None, 0, 0)(middle)
    deviations = (mutants - 0.5).flatten(1).std(1)
    assert mutants.min() >= 0 and mutants.max() <= 1
    assert deviations.square().mean() == pytest.approx(0.0125, rel=0.05)  # of variances from 0.005 to 0.02
    assert deviations.min() > 0.04 and deviations.max() < 0.21
    wide = Mutation(10 * seeds - 3, None, 0, 0)(10 * middle - 3)
    assert torch.allclose(wide, 10 * mutants - 3, atol=1e-4)


@pytest.mark.parametrize("one_hot", [True, False])
def test_symbols_are_replaced_by_symbols_of_the_seeds(one_hot):
    symbols = torch.tensor([[0, 1, 4, 1, 0, 4, 4, 0]] * 3)
    seeds = nn.functional.one_hot(symbols, 6).float() if one_hot else symbols
    mutants = Mutation(seeds, None, 0, 0)(seeds)
    assert mutants.dtype == seeds.dtype and mutants.shape == seeds.shape
    if one_hot:
        assert (mutants.sum(-1) == 1).all() and set(mutants.unique().tolist()) == {0.0, 1.0}
        mutants = mutants.argmax(-1)
    assert set(mutants.unique().tolist()) <= {0, 1, 4} and (mutants != symbols).any()


def test_marks_of_0_or_1_stay_marks():
    seeds = mr.tasks.Adding(steps=12).sample(5)[0]
    mutants = Mutation(seeds, None, 0, 0)(seeds)
    assert torch.equal(mutants[..., 1], seeds[..., 1]) and (mutants[..., 0] != seeds[..., 0]).all()
    marks = seeds[..., 1:].expand(-1, -1, 3)
    for binary in (marks, marks[..., 0], marks.to(torch.complex64)):
        mutants = Mutation(binary, None, 0, 0)(binary)
        assert ((mutants == 0) | (mutants == 1)).all() and mutants.dtype == binary.dtype
        assert (mutants != binary).any() and mutants.shape == binary.shape


def test_a_network_of_symbols_can_be_searched():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Embedding(5, 3), mr.nn.GRU(3, 6, batch_first=True))
    x = torch.randint(5, (40, 9))
    found = search(network, coverage(network, x, x[:2]), x[:4], offspring=20, generations=3)
    assert found.best.shape == (1, 9) and found.best.dtype == torch.int64


START, SEEDS = counted(), torch.rand(3, 4, 1)
BAD = {
    "an unknown metric": ({"feature": ("NC", 0)}, OptionError, "boundary or change with a step from 0 to 3"),
    "a step outside": ({"feature": ("change", 4)}, OptionError, "Got 'change' with 4"),
    "a word as a step": ({"feature": ("change", "aa")}, OptionError, "Got 'change' with 'aa'"),
    "an unknown letter": ({"feature": ("temporal", "ad")}, OptionError, "2 letters from a to c"),
    "a long word": ({"feature": ("temporal", "aaa")}, OptionError, "Got 'temporal' with 'aaa'"),
    "no feature": ({"feature": "boundary"}, OptionError, "needs a pair"),
    "no survivors": ({"survivors": 0}, OptionError, "`survivors` needs an integer of at least 1. Got 0"),
    "half a generation": ({"generations": 0.5}, OptionError, "`generations` needs an integer"),
    "no offspring": ({"offspring": 0}, OptionError, "`offspring` needs an integer"),
    "no radius": ({"radius": 0}, OptionError, "`radius` needs a positive number or None. Got 0"),
    "a seed that is none": ({"seed": "x"}, OptionError, "`seed` needs an integer.*Got 'x'"),
    "no seeds": ({"seeds": SEEDS[:0]}, ShapeError, "at least one input"),
    "a seed without time": ({"seeds": torch.ones(3)}, ShapeError, r"Got shape \(3,\)"),
    "NaN": ({"seeds": SEEDS * torch.nan}, NonFiniteError, "finite inputs"),
    "other mutants": ({"mutate": lambda x, g: x[:1]}, ShapeError, "`mutate` needs to return cases of the shape"),
    "mutants that are none": ({"mutate": lambda x, g: None}, ShapeError, "Got NoneType"),
    "NaN in mutants": ({"mutate": lambda x, g: x / 0}, NonFiniteError, "`mutate` needs to return finite"),
    "one distance": ({"radius": 1.0, "distance": lambda x, y: (x - y).norm()}, ShapeError, "a number for each of"),
    "other units": ({"seeds": torch.rand(3, 4, 2)}, ShapeError, "1 units"),
}


@pytest.mark.parametrize(("options", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_answered_by_name(options, kind, message):
    seeds, rest = options.get("seeds", SEEDS), {k: v for k, v in options.items() if k != "seeds"}
    with pytest.raises(kind, match=message) as caught:
        search(same, START, seeds, **{"feature": ("boundary", 0), "offspring": 5, **rest})
    assert len(str(caught.value)) <= 400


def test_if_all_is_covered_a_feature_has_to_be_named():
    everything = coverage(same, KNOWN, KNOWN, boundary=0, change=0, pieces=1, symbols=2)
    assert not everything.unreached
    with pytest.raises(OptionError, match=r"needs an unreached feature\. Got none"):
        search(same, everything, KNOWN)


def test_the_picture_shows_the_fitness_by_generation():
    pytest.importorskip("matplotlib")
    found = search(same, START, torch.zeros(1, 4, 1), mutate=towards, feature=("boundary", 3), **OPTIONS)
    axes = found.plot()
    assert list(axes.get_lines()[0].get_ydata()) == list(found.fitness) and "boundary 3" in axes.get_title()
