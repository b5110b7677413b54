"""The section `search` of a run: its losses, its phases, the fixed structure, and runs that resume."""

import gc
import re
import weakref
from itertools import pairwise

import pytest

pytest.importorskip("lightning")
import torch
from support.run_cases import require_same_end, train

from manifold_rnn import cli
from manifold_rnn.cli.trained import trained_network
from manifold_rnn.errors import OptionError
from manifold_rnn.nn import trees
from manifold_rnn.nn.cells.choices import current_record
from manifold_rnn.training import SearchSettings, as_mapping, evaluate, read_run
from manifold_rnn.training.build import build_for_run
from manifold_rnn.training.methods import Method

VALUES = {
    "task": {"name": "Adding", "steps": 5, "sizes": [40, 10, 10]},
    "network": {"cell": "TreeSearch", "hidden_size": 4, "options": {"nodes": 2, "slots": 3}},
    "optimizer": {"lr": 0.03},
    "batch_size": 10,
    "epochs": 2,
    "clip": 1.0,
}
SEARCH = {"margin": 0.1, "least": 2.0, "weights": 1e-3, "tree": 0.2, "target": "mgu", "alternate": 2, "fix": 0.75}
PARTS = ("weight_ih", "weight_hh", "bias", "scorer")


def values(**search):
    return {**VALUES, "search": search}


def watched(settings, tmp_path, monkeypatch):
    """The names of the weights that each step changed, and whether the structure was fixed in each loss."""
    steps, kinds = [], []
    before_step, context = SearchSettings.before_step, SearchSettings.context

    def before(self, network, progress):
        before_step(self, network, progress)
        steps.append({n.removesuffix("_l0") for n, p in network.layer.named_parameters() if p.grad is not None})

    def watched_context(self, network, progress):
        class Context:
            def __enter__(self_):
                self_.inner = context(self, network, progress)
                self_.inner.__enter__()
                kinds.append((progress is None, network.layer.cell.fixed))

            def __exit__(self_, *error):
                return self_.inner.__exit__(*error)

        return Context()

    monkeypatch.setattr(SearchSettings, "before_step", before)
    monkeypatch.setattr(SearchSettings, "context", watched_context)
    train(settings, tmp_path / "run")
    return steps, kinds


def test_the_parts_of_the_loss_are_added(tmp_path):
    losses = {}
    for name, search in {"none": {}, "all": SEARCH, "margin": {"margin": 0.5}, "weights": {"weights": 1e-2}}.items():
        seen = losses[name] = []
        train(values(**search), tmp_path / name, during=lambda m, loss, seen=seen: seen.append(loss.detach()) or loss)
    first = {name: float(seen[0]) for name, seen in losses.items()}
    assert first["none"] < first["weights"] and first["none"] < first["margin"] <= first["none"] + 0.5 * 2
    assert len(losses["all"]) == 8 and first["all"] > first["none"]


def test_the_weights_are_trained_in_turns_and_then_the_structure_is_fixed(tmp_path, monkeypatch):
    steps, kinds = watched(values(alternate=3, fix=0.75), tmp_path, monkeypatch)  # 6 steps of 8 search
    matrices = set(PARTS) - {"scorer"}
    assert steps == [matrices, matrices, {"scorer"}, {"scorer"}, matrices, matrices, matrices, matrices]
    assert [fixed for scored, fixed in kinds if not scored] == [False] * 6 + [True] * 2
    assert {fixed for scored, fixed in kinds if scored} == {True}


def test_hard_choices_need_a_margin_loss_to_train_the_scorer():
    network = {**VALUES["network"], "options": {"nodes": 2, "slots": 3, "choice": "hard"}}
    with pytest.raises(OptionError, match=r"`search.alternate` needs `search.margin`"):
        read_run({**values(alternate=2), "network": network})
    assert read_run({**values(alternate=2, margin=0.1), "network": network}).search.alternate == 2


@pytest.mark.parametrize("choice", ["soft", "straight-through"])
def test_a_network_of_a_fixed_search_is_fixed_but_while_it_searches(choice):
    network = {**VALUES["network"], "options": {"nodes": 2, "slots": 3, "choice": choice}}
    settings = read_run({**values(margin=0.1, fix=0.5), "network": network})
    built, kinds = build_for_run(settings), []
    for progress in (0.0, 0.5, None):
        with settings.search.context(built, progress):
            kinds.append(built.layer.cell.fixed)
    assert kinds == [False, True, True] and built.layer.cell.fixed and built.layer.cell.choice == choice


def test_a_checkpoint_runs_as_it_was_scored(tmp_path):
    record = train(values(margin=0.1, fix=0.5), tmp_path / "run")
    trained = trained_network(tmp_path / "run" / "best.ckpt")
    network, settings = trained.network, trained.settings
    assert network.layer.cell.fixed
    inputs, targets = settings.task.splits().test.tensors
    with torch.no_grad():
        loss = settings.task.loss(network(inputs), targets)
    assert float(loss) == pytest.approx(record.test_loss, rel=1e-5)
    scores = evaluate(settings, stage="test", checkpoint=tmp_path / "run" / "best.ckpt")
    assert scores["test_loss"] == pytest.approx(record.test_loss, rel=1e-5)


def test_the_weight_of_the_margin_loss_grows():
    network = build_for_run(read_run(values(margin=0.1)))
    search, x = SearchSettings(margin=0.1, warmup=0.5), torch.rand(4, 5, 2)
    losses = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        with search.context(network, progress):
            network(x)
            losses.append(search.added_loss(network, None, progress).item())
    assert losses[0] == 0 and losses[1] == pytest.approx(losses[2] / 2) and losses[2] == losses[3] > 0


def test_without_phases_everything_is_trained(tmp_path, monkeypatch):
    steps, kinds = watched(values(margin=0.1), tmp_path, monkeypatch)
    assert steps == [set(PARTS)] * 8 and {fixed for _, fixed in kinds} == {False}


def test_a_frozen_weight_does_not_move(tmp_path):
    scorers = []

    def during(module, loss):
        scorers.append(module.network.layer.scorer_l0.detach().clone())
        return loss

    train(values(alternate=2), tmp_path / "run", during=during)
    moved = [not torch.equal(a, b) for a, b in pairwise(scorers)]
    assert moved == [False] * 4 + [True] * 3


@pytest.mark.parametrize("stop_after", [3, 6])
def test_a_run_resumes_to_the_last_bit(stop_after, tmp_path):
    settings = values(**SEARCH)
    settings["network"] = {**VALUES["network"], "constraint": "Orthogonal", "gates": ["R1"]}
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "parts", stop_after=stop_after)
    train(settings, tmp_path / "parts", resume=True)
    require_same_end(tmp_path / "whole", tmp_path / "parts")
    scores = evaluate(read_run(settings), stage="test", checkpoint=tmp_path / "whole" / "best.ckpt")
    assert scores["test_loss"] > 0


def test_no_graph_is_left_after_a_step(tmp_path, monkeypatch):
    graphs = []

    def recorded(choices, margin):
        graphs.extend(weakref.ref(step.values) for step in choices)
        return margin_loss(choices, margin)

    margin_loss = trees.margin_loss
    monkeypatch.setattr(trees, "margin_loss", recorded)
    train(values(margin=0.1), tmp_path / "run")
    gc.collect()
    assert len(graphs) == 8 * 5 and not any(graph() for graph in graphs) and current_record() is None


def test_it_is_off_by_default():
    settings = read_run({**VALUES})
    assert not settings.search.active and settings.methods() == []
    given = read_run(values(tree=0.1, target=[["x", "h", 0, "add", "tanh"]]))
    assert read_run(as_mapping(given)) == given and given.methods() == [given.search]
    assert isinstance(given.search, Method)


BAD = {
    "`search.margin` needs a finite number of at least 0. Got -1": {"margin": -1},
    "`search.weights` needs a finite.*Got inf": {"weights": float("inf")},
    "`search.tree` needs a number.*'much'": {"tree": "much"},
    "`search.least` needs a positive number. Got 0": {"margin": 1, "least": 0},
    "`search.fix` needs.*Got 0": {"fix": 0},
    "`search.fix` needs.*Got 1.5": {"fix": 1.5},
    "`search.alternate` needs.*Got -2": {"alternate": -2},
    "`search.alternate` needs 0 or an integer from 2.*Got 1": {"alternate": 1},
    "`search.least` needs `search.margin`.*Got 2": {"tree": 1, "target": "mgu", "least": 2.0},
    "`search.warmup` needs `search.margin`.*Got 0.5": {"weights": 1, "warmup": 0.5},
    "`search.warmup` needs a fraction.*Got 2": {"margin": 1, "warmup": 2.0},
    "`search.target` needs `search.tree`.*Got mgu": {"margin": 1, "target": "mgu"},
    "`search.alternate` needs an integer.*1.5": {"alternate": 1.5},
    "`search.target` needs a tree.*'grue'": {"tree": 1, "target": "grue"},
    "`search.target`.*at least 4.*got 3": {"tree": 1},
    "`search.target` needs a tree.*unknown op": {"target": [["x", "h", 0, "sub", "tanh"]]},
    "Unknown key `search.margins`. Did you mean `search.margin`": {"margins": 1},
}


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_value_is_named(name):
    with pytest.raises(OptionError, match=re.compile(name, re.DOTALL)) as caught:
        read_run(values(**BAD[name]))
    assert len(str(caught.value)) <= 400


@pytest.mark.parametrize("network", [{"cell": "LSTM"}, {"zoo": "scornn"}], ids=str)
def test_another_network_is_refused(network):
    with pytest.raises(OptionError, match=r"`search` needs network\.cell=TreeSearch\. Got network"):
        read_run({**VALUES, "network": network, "search": {"margin": 1}})


def test_a_fixed_structure_is_not_searched():
    network = {**VALUES["network"], "options": {"nodes": 2, "slots": 3, "fixed": True}}
    with pytest.raises(OptionError, match=r"`search` needs a cell whose structure is not fixed\. Got network"):
        read_run({**VALUES, "network": network, "search": {"margin": 1}})


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"gates": ["R7"], "constraint": "Orthogonal"}, "`network.gates` needs one of L0, R0, L1, R1. Got 'R7'"),
        ({"options": {"nodes": 0}}, "nodes of TreeSearch"),
        ({"options": {"node": 3}}, "Did you mean `network.options.nodes`"),
        ({"cell": "Tree", "options": {"structure": "gur"}}, "structure of Tree is unknown"),
    ],
    ids=str,
)
def test_a_wrong_network_is_named_before_anything_is_written(network, message, tmp_path):
    given = {**VALUES, "network": {**VALUES["network"], **network}}
    with pytest.raises(OptionError, match=message):
        train(given, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_trains_inspects_and_tests(tmp_path, capsys):
    from manifold_rnn.training.values import dump_yaml

    config, run = tmp_path / "config.yaml", tmp_path / "run"
    config.write_text(dump_yaml(values(margin=0.1, fix=0.5)))
    assert cli.main(["fit", "--config", str(config), "--output", str(run), "--search.least", "2"]) == 0
    assert read_run(run / "run.yaml").search == SearchSettings(margin=0.1, fix=0.5, least=2.0)
    assert cli.main(["inspect", str(run / "last.ckpt"), "--diagnostics", "[structures]"]) == 0
    assert "different trees" in capsys.readouterr().out
    assert cli.main(["test", "--config", str(run / "run.yaml"), "--checkpoint", str(run / "best.ckpt")]) == 0


def test_a_tree_in_plain_values_is_a_network_of_a_run(tmp_path):
    nodes = [["x", "h", 0, "add", "tanh"], ["h", 0, 1, "add", "identity"]]
    network = {"cell": "Tree", "hidden_size": 4, "options": {"structure": nodes}}
    given = {**VALUES, "network": {**network, "constraint": "Orthogonal", "gates": ["R1"]}}
    record = train(given, tmp_path / "run")
    assert record.failure is None and record.defect < 1e-5 and read_run(tmp_path / "run" / "run.yaml")
