"""What a comparison's file may say, and the cases that follow from it."""

import json
import math

import pytest
import torch

pytest.importorskip("jsonargparse")
from support import ROOT
from support.study_cases import AXES, BASE, SMALL

from manifold_rnn.errors import OptionError
from manifold_rnn.study import CompareSettings, Grid, read_grid
from manifold_rnn.study.comparison import describe
from manifold_rnn.study.grid import folder_name, headings, label, shown_value
from manifold_rnn.training import build_network
from manifold_rnn.training.mapping import read_run

TEXT = """
base: {task: {name: Digits}, network: {cell: Elman, hidden_size: 8}, optimizer: {lr: 1e-3}}
grid:
  network.constraint: [Orthogonal, Unitary]
  optimizer.lr: [1e-3, 1e-2]
seeds: [3, 4]
"""
BAD = {
    "a typo": ("sedes: [0]\n", "'grid.yaml': Unknown key `sedes`. Did you mean `seeds`?"),
    "no YAML": ("grid: [1\n", "'grid.yaml' needs to be a YAML file."),
    "a list": ("[1, 2]\n", "'grid.yaml' needs to contain a mapping. Got [1, 2]."),
    "nothing": ("", "'grid.yaml' needs to contain a mapping. Got None."),
    "nothing that varies": (
        "base: {}\n",
        "A comparison needs either `grid` or `search`. Got neither.",
    ),
    "both": ("grid: {a: [1]}\nsearch: {b: {low: 1, high: 2}}\ntrials: 2\n", "either `grid` or `search`. Got both."),
    "a value for a list": ("grid: {network.cell: elman}\n", "`grid.network.cell` needs a list of values. Got elman."),
    "a value twice": ("grid: {epochs: [1, 1]}\n", "`grid.epochs` needs every value once."),
    "a choice twice": ("search: {a: {choices: [1, 1]}}\ntrials: 1\n", "`search.a` needs every value once."),
    "no seeds": ("grid: {epochs: [1]}\nseeds: []\n", "`seeds` needs a list of at least one integer. Got none."),
    "a seed twice": ("grid: {epochs: [1]}\nseeds: [1, 1]\n", "`seeds` needs every seed once."),
    "a seed below 0": (
        "grid: {epochs: [1]}\nseeds: [0, -1]\n",
        "`seeds` needs integers from 0 to 2^32 - 1. Got 0, -1.",
    ),
    "half a seed": ("grid: {epochs: [1]}\nseeds: [0.5]\n", "`seeds` needs a list, each an integer. Got [0.5]."),
    "a grid over seeds": ("grid: {seed: [1]}\n", "keys of a run other than seed and output. Got seed."),
    "a seed in the base": (
        "base: {seed: 7}\ngrid: {epochs: [1]}\n",
        "`base` needs keys of a run other than seed and output. Got seed.",
    ),
    "a folder in the base": (
        "base: {output: a}\ngrid: {epochs: [1]}\n",
        "keys of a run other than seed and output. Got output.",
    ),
    "a number that varies": (
        "grid: {1: [a]}\n",
        "`what varies` needs keys of a run other than seed and output. Got 1.",
    ),
    "a number inside a value": (
        "grid: {network: [{1: a, zoo: lem}]}\n",
        "`grid.network` needs plain values, with strings",
    ),
    "a set as a value": ("grid: {epochs: [!!set {a}]}\n", "`grid.epochs` needs plain values"),
    "trials of a grid": (
        "grid: {epochs: [1]}\ntrials: 3\n",
        "`trials` needs a search, because a grid runs all combinations.",
    ),
    "a search without trials": ("search: {epochs: {low: 1, high: 2}}\n", "`trials` needs an integer of at least 1"),
    "an open range": ("search: {epochs: {low: 1}}\ntrials: 1\n", "`search.epochs` needs a range {low, high, log}"),
    "a range upside down": ("search: {a: {low: 2, high: 1}}\ntrials: 1\n", "`search.a` needs low below high"),
    "a logarithm of 0": ("search: {a: {low: 0, high: 1, log: true}}\ntrials: 1\n", "above 0 if log is true"),
    "a mixture": ("search: {a: {low: 1, high: 2, choices: [1]}}\ntrials: 1\n", "{choices: [...]} and no other key"),
    "pruning by number": ("grid: {epochs: [1]}\npruning: 3\n", "`pruning` needs true or false. Got 3."),
}


def written(folder, text):
    path = folder / "grid.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "answer"), BAD.values(), ids=BAD.keys())
def test_a_wrong_file_is_refused_with_what_would_be_right(text, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)
    with pytest.raises(OptionError) as refusal:
        read_grid("grid.yaml")
    assert answer in str(refusal.value)
    assert len(str(refusal.value)) <= 400


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(OptionError, match="No such file"):
        read_grid(tmp_path / "missing.yaml")


def test_every_combination_is_run_with_every_seed_and_the_first_seed_first(tmp_path):
    grid = read_grid(written(tmp_path, TEXT))
    cases = grid.cases()
    assert len({case.key for case in cases}) == len(cases) == 8
    assert [case.seed for case in cases] == [3] * 4 + [4] * 4
    assert {tuple(case.choices.values()) for case in cases} == {
        (constraint, lr) for constraint in ("Orthogonal", "Unitary") for lr in (1e-3, 1e-2)
    }
    assert Grid(**grid.plain()) == grid


def test_choices_are_laid_over_the_base_and_leave_it_as_it_was(tmp_path):
    grid = read_grid(written(tmp_path, TEXT))
    before = grid.plain()
    run = grid.run_mapping({"network.constraint": "Unitary", "optimizer.lr": 0.01}, 4)
    assert run["network"] == {"cell": "Elman", "hidden_size": 8, "constraint": "Unitary"}
    assert run["optimizer"] == {"lr": 0.01} and run["seed"] == 4
    assert grid.plain() == before


def test_a_choice_may_be_several_settings():
    grid = Grid({"network": {"hidden_size": 8}}, {"network": [{"zoo": "scornn"}, {"cell": "LSTM", "hidden_size": 4}]})
    runs = [grid.run_mapping(case.choices, 0)["network"] for case in grid.cases()]
    assert runs == [{"hidden_size": 8, "zoo": "scornn"}, {"hidden_size": 4, "cell": "LSTM"}]
    assert [label(case.choices) for case in grid.cases()] == ["scornn", "LSTM, hidden size 4"]


def test_names_tell_values_apart_and_folders_tell_runs_apart():
    choices = {"network.constraint": "Orthogonal", "optimizer.lr": 0.001, "network.view": None}
    assert label(choices) == "Orthogonal · lr 0.001 · view none"
    assert headings(["a.name", "b.name", "c.lr_of_all"]) == {
        "a.name": "a.name",
        "b.name": "b.name",
        "c.lr_of_all": "lr of all",
    }
    assert shown_value([True, None, {"a_b": 1e-5, "c": "d"}]) == "true, none, a b 1e-05, d"
    one, other = (folder_name(choices, 0, run) for run in ("a", "b"))
    assert one != other
    assert one.startswith("orthogonal-lr-0.001-view-none-seed-0-") and "/" not in folder_name({"k": "../x"}, 0, "")


@pytest.mark.parametrize("key", ["network.constraint", "network.retraction", "network.view", "optimizer.name"])
def test_a_typo_in_a_combination_is_refused_before_anything_runs(key):
    with pytest.raises(OptionError, match=r"(?s)orthogonl.*needs one of"):
        describe(Grid(BASE, {key: ["orthogonl"]}))


def test_a_list_in_the_place_of_a_name_is_refused():
    with pytest.raises(OptionError, match=r"`task\.name` needs one of .*Got \['Digits'\]\."):
        describe(Grid(BASE, {"task.name": [["Digits"]]}))


def test_rates_of_constrained_weights_in_the_base_leave_cells_without_constraint_comparable():
    base = {**BASE, "optimizer": {"constrained": "RMSprop", "constrained_lr": 1e-4, "options": {"alpha": 0.9}}}
    assert describe(Grid(base, {"network.constraint": [None, "Orthogonal"]}))["metric"] == "accuracy"


def test_what_reports_say_of_the_task_comes_from_the_task():
    about = describe(Grid(BASE, AXES))
    assert about == {
        "task": "UCI digits",
        "metric": "accuracy",
        "higher_is_better": True,
        "baseline": {"loss": pytest.approx(2.3026, abs=1e-4), "metric": 0.1},
    }


def test_a_comparison_has_one_metric():
    base = {"network": {"cell": "LSTM", "hidden_size": 4}}
    tasks = [{"name": "Digits"}, {"name": "Adding", "sizes": [8, 8, 8]}]
    with pytest.raises(OptionError, match="needs one metric"):
        describe(Grid(base, {"task": tasks}))


def test_a_search_is_tried_at_its_ends_and_choices():
    search = {"optimizer.lr": {"low": 0.1, "high": 1.0}, "network.retraction": {"choices": ["cayley", "caley"]}}
    with pytest.raises(OptionError, match=r"caley.*needs one of"):
        describe(Grid({**BASE, "network": {"cell": "Elman", "constraint": "Orthogonal"}}, search=search, trials=3))


@pytest.mark.parametrize("changes", [
    {"output": ""}, {"output": " "}, {"output": "a\0b"}, {"study": ""}, {"workers": 10**6}, {"workers": "2x"},
    {"workers": 1.5}, {"patience": math.nan}, {"extend": 3}, {"storage": 3},
], ids=str)  # fmt: skip
def test_settings_of_a_comparison_made_from_python_are_checked(changes):
    with pytest.raises(OptionError, match=f"`{next(iter(changes))}` needs"):
        CompareSettings("grid.yaml", **changes)


@pytest.mark.parametrize("changes", [
    {"seeds": [0.5]}, {"seeds": ["a"]}, {"seeds": 3}, {"pruning": 3}, {"grid": [1]}, {"base": None},
    {"grid": {"epochs": list(range(1, 1001)), "batch_size": list(range(1, 1001))}},
], ids=lambda changes: str(changes)[:30])  # fmt: skip
def test_a_grid_made_from_python_is_checked(changes):
    with pytest.raises(OptionError, match=f"`{next(iter(changes))}` needs"):
        Grid(**{"base": BASE, "grid": SMALL, **changes})


def test_a_search_has_no_more_draws_than_different_runs():
    choices = {"network.retraction": {"choices": [None, "cayley", "qr"]}, "epochs": {"low": 1, "high": 2}}
    base = {**BASE, "network": {**BASE["network"], "constraint": "Orthogonal"}}  # whose default is cayley
    assert len(Grid(base, search=choices, trials=50).cases()) == 4
    assert len(Grid(base, search=choices, trials=3, seeds=[0, 1]).cases()) == 6
    assert len(Grid(base, search={**choices, "clip": {"low": 1, "high": 2.0}}, trials=50).cases()) == 50


def test_a_grid_that_varies_a_mapping_and_a_part_of_it_is_refused():
    with pytest.raises(OptionError, match="`network` needs to vary as a whole or in parts"):
        Grid(BASE, {"network": [{"cell": "Elman", "hidden_size": 5}], "network.hidden_size": [6]})


def test_a_grid_of_numbers_of_numpy_is_one_of_plain_numbers():
    import numpy as np

    axes, base = {"network.hidden_size": list(np.arange(4, 8))}, {**BASE, "epochs": np.int64(4)}
    plain = Grid(BASE, {"network.hidden_size": [4, 5, 6, 7]}, seeds=[0, 1, 2])
    assert Grid(base, axes, seeds=list(np.arange(3))).cases() == plain.cases()


def test_a_grid_from_a_pipe_has_a_name_that_lasts():
    assert {CompareSettings(path).name for path in ("/dev/fd/63", "/dev/fd/11", "/dev/stdin")} == {"stdin"}


@pytest.mark.parametrize("name", ["digits", "robustness"])
def test_the_comparisons_among_the_examples_describe_networks_that_can_be_built(name):
    grid = read_grid(ROOT / "examples" / "comparisons" / f"{name}.yaml")
    mappings = [grid.run_mapping(case.choices, case.seed) for case in grid.cases()]
    networks = {json.dumps(mapping["network"]): read_run(mapping) for mapping in mappings}
    for run in networks.values():
        built = build_network(run.network, run.task.input_size, run.task.output_size)
        assert built(torch.zeros(2, run.task.length, run.task.input_size)).shape == (2, 10)
    assert len(networks) == {"digits": 12, "robustness": 5}[name]
