"""The section `learning` of a run: its values, what it refuses, and runs that learn by it, stop and resume."""

import pytest

pytest.importorskip("lightning")
import torch
from support.run_cases import VALUES, answer, require_same_end, slow, train

import manifold_rnn as mr
from manifold_rnn.cli import main
from manifold_rnn.cli.trained import trained_network
from manifold_rnn.errors import ManifoldError, OptionError
from manifold_rnn.training import LearningSettings, as_mapping, evaluate, read_run
from manifold_rnn.training.build import build_for_run

LEAKY = {"cell": "LeakyElman", "hidden_size": 6, "options": {"leak": 0.25}}
DIGITS = {"task": {"name": "Digits", "by": "rows"}, "network": LEAKY, "learning": {"rule": "rflo"}, "epochs": 1}
ORTHOGONAL = {**LEAKY, "constraint": "Orthogonal"}
RUNS = {
    "random feedback": {"network": LEAKY},
    "orthogonal, diagonal": {
        "network": {**ORTHOGONAL, "view": "update"},
        "learning": {"rule": "rflo", "influence": "diagonal", "seed": 3},
    },
    "coordinates, transposed": {
        "network": {**ORTHOGONAL, "view": "trivialized", "rebase_every": 7},
        "learning": {"rule": "rflo", "feedback": "transpose"},
    },
    "published network": {"network": {"zoo": "rflo", "hidden_size": 6}},
    "carried stream": {"task": {"name": "Characters", "length": 8}, "network": LEAKY},
}


@pytest.fixture
def values(request, tmp_path):
    values = {**VALUES, "optimizer": {"lr": 0.03}, "learning": {"rule": "rflo"}, **RUNS[request.param]}
    if values["task"]["name"] == "Characters":
        path = tmp_path / "text.txt"
        path.write_text("".join("abcd"[i * i % 17 % 4] for i in range(900)))
        values["task"] = {**values["task"], "path": str(path)}
    return values


@pytest.mark.parametrize("values", ["carried stream", *slow(*list(RUNS)[:-1])], indirect=True)
def test_a_run_that_was_stopped_resumes_to_the_last_bit(values, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    record = train(values, whole)
    assert record.failure is None and record.history[-1]["train_loss"] < record.history[0]["train_loss"]
    assert train(values, parts, stop_after=13).stopped
    train(values, parts, resume=True)
    require_same_end(whole, parts)


def test_a_checkpoint_is_evaluated_and_inspected(tmp_path, capsys):
    record = train(DIGITS, tmp_path)
    checkpoint = tmp_path / "best.ckpt"
    scores = evaluate(read_run(DIGITS), stage="test", checkpoint=checkpoint)
    assert scores["test_metric"] == pytest.approx(record.test_metric)
    network = trained_network(checkpoint).network
    assert isinstance(network, mr.online.RFLO)
    assert torch.equal(network.feedback, build_for_run(read_run(DIGITS)).feedback)
    assert main(["inspect", str(checkpoint)]) == 0
    assert "rule: rflo" in capsys.readouterr().out


def test_flags_choose_the_rule(tmp_path, capsys):
    flags = ["--task", "Digits", "--task.by", "rows", "--network.cell", "LeakyElman", "--network.hidden_size", "4"]
    flags += ["--learning.rule", "rflo", "--learning.influence", "full", "--max_steps", "3", "--epochs", "1"]
    assert main(["fit", *flags, "--output", str(tmp_path / "run")]) == 0
    assert "influence: full" in (tmp_path / "run" / "run.yaml").read_text()


def test_values_come_back_and_old_settings_mean_backpropagation():
    settings = read_run({**DIGITS, "learning": {"rule": "rflo", "feedback": "transpose", "seed": 5}})
    assert settings.learning == LearningSettings("rflo", "transpose", seed=5) and settings.methods()
    assert read_run(as_mapping(settings)) == settings
    mapping = as_mapping(read_run({key: DIGITS[key] for key in ("task", "network")}))
    del mapping["learning"]
    assert read_run(mapping).learning == LearningSettings() and not read_run(mapping).methods()


def test_the_seed_decides_the_feedback_and_not_the_weights():
    networks = []
    for seed in (0, 0, 1):
        torch.manual_seed(0)
        networks.append(build_for_run(read_run({**DIGITS, "learning": {"rule": "rflo", "seed": seed}})))
    torch.manual_seed(0)
    plain = build_for_run(read_run({**DIGITS, "learning": {}}))
    first, again, other = networks
    assert torch.equal(first.feedback, again.feedback) and not torch.equal(first.feedback, other.feedback)
    for network in networks:
        torch.testing.assert_close(dict(network.named_parameters()), dict(plain.named_parameters()), atol=0, rtol=0)
        assert network.rates == plain.rates


WRONG = {
    "a rule": ({"learning": {"rule": "rfl"}}, "`learning.rule` needs one of backpropagation, rflo. Got 'rfl'."),
    "a key": ({"learning": {"rul": "rflo"}}, "Unknown key `learning.rul`. Did you mean `learning.rule`?"),
    "a feedback": (
        {"learning": {"rule": "rflo", "feedback": "sign"}},
        "`learning.feedback` needs one of random, transpose. Got 'sign'.",
    ),
    "an influence": (
        {"learning": {"rule": "rflo", "influence": 1}},
        "`learning.influence` needs one of local, diagonal, full. Got 1.",
    ),
    "a seed": ({"learning": {"rule": "rflo", "seed": -1}}, "`learning.seed` needs an integer from 0 to 2^32 - 1."),
    "an option without the rule": ({"learning": {"seed": 3}}, "`learning.seed` needs `learning.rule=rflo`"),
    "a text": ({"learning": "rflo"}, "`learning` needs a mapping of its settings. Got 'rflo'."),
    "two levels": ({"network": {**LEAKY, "num_layers": 2}}, "`network.num_layers` needs 1 level"),
    "too much memory": (
        {"network": {**LEAKY, "hidden_size": 100_000}, "learning": {"rule": "rflo", "influence": "full"}},
        "`learning.influence` needs an influence that fits into memory.",
    ),
    "too much memory by a budget": (
        {"network": {"cell": "LeakyElman", "budget": 4_000_000}, "learning": {"rule": "rflo", "influence": "full"}},
        "`learning.influence` needs an influence that fits into memory. Got full with 1,",
    ),
    "gates": (
        {"pruning": {"penalty": 1e-3}},
        "`learning.rule` needs backpropagation together with the section `pruning`",
    ),
    "trees": (
        {"network": {"cell": "TreeSearch", "hidden_size": 4}, "search": {"fix": 0.5}},
        "`learning.rule` needs backpropagation together with the section `search`",
    ),
    "another cell": ({"network": {"cell": "LSTM", "hidden_size": 4}}, "`network.cell` needs Elman or LeakyElman for"),
    "a published network of another cell": (
        {"network": {"zoo": "lem", "hidden_size": 4}},
        "RFLO needs a cell with a leaky form.",
    ),
    "complex numbers": ({"network": {**LEAKY, "numbers": "complex"}}, "RFLO needs a real layer"),
    "a leak": ({"network": {**LEAKY, "options": {"leak": 2.0}}}, "The leak of LeakyElman is out of range."),
    "leaks of other units": (
        {"network": {**LEAKY, "options": {"leak": [0.1, 0.2]}}},
        "LeakyElman needs one leak for each unit.",
    ),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_a_mistake_is_answered_by_its_key(changes, message):
    with pytest.raises(ManifoldError) as refusal:
        build_for_run(read_run({**DIGITS, **changes}))
    assert message in str(refusal.value) and len(str(refusal.value)) <= 400


@pytest.mark.parametrize(("precision", "size"), [("float32", 4), ("float64", 8)])
def test_the_full_influence_needs_memory_for_two_of_it(precision, size, monkeypatch):
    asked = []
    monkeypatch.setattr("manifold_rnn.training.methods.learning.require_memory", lambda key, n, *_: asked.append(n))
    values = {"learning": {"rule": "rflo", "influence": "full"}, "precision": precision, "batch_size": 3}
    build_for_run(read_run({**DIGITS, **values}))
    n, m = LEAKY["hidden_size"], 8
    assert set(asked) == {2 * size * 3 * n * n * (n + m + 1)}


def test_settings_from_python_are_checked_too():
    with pytest.raises(OptionError, match=r"`learning.rule` needs one of"):
        LearningSettings("rtrl")
    with pytest.raises(OptionError, match=r"`learning.influence` needs `learning.rule=rflo`"):
        LearningSettings(influence="full")


def test_a_refused_run_leaves_no_folder(tmp_path, capsys):
    flags = ["--task", "Digits", "--network.cell", "LSTM", "--learning.rule", "rflo"]
    assert "Got LSTM" in answer(["fit", *flags, "--output", tmp_path / "run"], capsys)
    assert not (tmp_path / "run").exists()
