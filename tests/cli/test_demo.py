"""The demo: a shipped comparison with equal budgets, which settings override."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("lightning")
import torch

import manifold_rnn as mr
from manifold_rnn import retractions
from manifold_rnn.cli import main
from manifold_rnn.cli.demo import DemoSettings, demo_grid
from manifold_rnn.errors import NonFiniteError
from manifold_rnn.training import SequenceModule, read_run

LABELS = [
    "LSTM",
    *(f"dtriv, rebase every {k}" for k in (1, 100, 0)),
    "enrnn",
    "exprnn",
    "full_urnn",
    "scornn",
    "scurnn",
]
FILES = {"report.html", "results.json", "table.md", "table.csv", "curves.svg", "eigenvalues.svg", "time.svg"}
SMALL = {"epochs": 2, "hidden_size": 6, "batch_size": 256, "workers": 1}


def run(folder, capsys=None, **changes):
    """A small demo: its exit status, what it printed, what it wrote."""
    flags = [text for key, value in {**SMALL, "output": folder, **changes}.items() for text in (f"--{key}", str(value))]
    status = main(["demo", *flags])
    document = json.loads((folder / "results.json").read_text())
    return (
        status,
        capsys.readouterr().out if capsys else "",
        {row["choices"]["network"].get("zoo", "LSTM"): row for row in document["runs"]},
        document,
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    return folder, *run(folder)


def test_every_network_is_trained_and_reported_once(small, capsys):
    folder, status, _, _, document = small
    assert status == 0 and len(document["runs"]) == len(LABELS)
    for row in document["runs"]:
        assert len(row["history"]) == 2 and row["failure"] is None and row["seconds_per_step"] > 0
        assert 0 <= row["test_metric"] <= 1
    assert run(folder, capsys)[0] == 0  # a second time there is nothing to do, and the table is printed again
    text = capsys.readouterr().out
    assert FILES <= {entry.name for entry in folder.iterdir()}


def test_the_table_has_every_network(small, capsys):
    folder, *_, document = small
    assert main(["demo", *[t for k, v in {**SMALL, "output": folder}.items() for t in (f"--{k}", str(v))]]) == 0
    text = capsys.readouterr().out
    assert "of which 9 have ended before" in text and "Report: " in text
    for row in document["rows"]:
        assert f"{row['test_mean']:.1%}" in text and str(row["hidden_size"]) in text


def test_any_published_networks_may_be_chosen(tmp_path):
    status, _, rows, _ = run(tmp_path, epochs=1, networks="lem, goru,cornn", retraction="qr")
    assert status == 0 and list(rows) == ["LSTM", "lem", "goru", "cornn"]
    assert rows["goru"]["hidden_size"] in (4, 8, 16)


def test_budgets_are_equal_and_the_first_network_has_the_size_asked_for(small):
    *_, document = small
    lstm, first, *others = document["runs"]
    assert first["hidden_size"] == 6
    for row in (lstm, *others):
        assert abs(row["parameters"] - first["parameters"]) <= 0.3 * first["parameters"]


def test_constrained_networks_stay_orthogonal_with_eigenvalues_on_the_circle(small):
    *_, document = small
    lstm, *others = document["runs"]
    assert lstm["defect"] is None
    for row in others:
        assert row["defect"] < 1e-5
        for spectrum in (row["spectrum_start"], row["spectrum_end"]):
            moduli = [abs(complex(*value)) for value in spectrum]
            if row["choices"]["network"]["zoo"] == "enrnn":  # which has some in the disc
                assert max(moduli) <= 1 + 1e-5 and min(moduli) < 1
            else:
                assert moduli == pytest.approx([1] * len(moduli), abs=1e-5)


def test_equal_seeds_give_equal_results_and_others_do_not(small, tmp_path):
    def timeless(rows):
        return [
            [row["test_loss"], row["spectrum_end"], [epoch["val_loss"] for epoch in row["history"]]] for row in rows
        ]

    first = timeless(small[-1]["runs"])
    networks = {"networks": "exprnn"}
    again = timeless(run(tmp_path / "same", **networks)[-1]["runs"])
    assert again[1] == first[5]
    assert timeless(run(tmp_path / "other", seed=1, **networks)[-1]["runs"])[1] != again[1]


@pytest.mark.parametrize("name", retractions.names())
def test_any_retraction_can_be_asked_for(name):
    grid = demo_grid(DemoSettings(hidden_size=4, retraction=name))
    networks = [read_run(grid.run_mapping(case.choices, 0)).network for case in grid.cases()]
    built = [mr.training.build_network(network, 1, 10) for network in networks]
    assert len(built) == 9 and [network.retraction for network in networks] == [None, *[name] * 8]


def test_every_setting_overrides_that_of_the_shipped_comparison():
    grid = demo_grid(DemoSettings(2, 8, 5, "o", "polar", 7, 0.5, "lem"))
    settings = read_run(grid.run_mapping(grid.cases()[1].choices, grid.seeds[0]))
    assert (settings.epochs, settings.seed, settings.task.seed, settings.batch_size) == (2, 5, 5, 7)
    assert settings.optimizer.lr == 0.5 and settings.network.zoo == "lem" and settings.network.retraction is None
    assert settings.network.budget == mr.degrees_of_freedom(mr.zoo.lem(1, 8, 10))


def test_the_defaults_are_the_shipped_comparison():
    assert demo_grid(DemoSettings(networks="all")).base == demo_grid(DemoSettings()).base | {}
    assert [list(entry.values()) for entry in demo_grid(DemoSettings()).grid["network"]][0] == ["LSTM"]
    assert demo_grid(DemoSettings()).base["network"]["budget"] == 2794  # as the file says
    assert len(demo_grid(DemoSettings(networks="all")).cases()) == 3 + len(mr.zoo.available())


def test_torchs_random_state_and_threads_are_left_alone(tmp_path):
    before = torch.random.get_rng_state(), torch.get_num_threads()
    run(tmp_path, epochs=1, networks="scornn")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_a_network_that_diverges_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    step = SequenceModule.training_step

    def diverging(self, batch, batch_idx):
        if type(self.network.layer.cell).__name__ == "LSTM":
            raise NonFiniteError("Training needs a finite loss.\nGot nan in epoch 1.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SequenceModule, "training_step", diverging)
    status, text, rows, _ = run(tmp_path, capsys, epochs=1, networks="scornn,lem")
    assert status == 1
    assert "LSTM: seed 0: Training needs a finite loss. Got nan in epoch 1." in text
    assert rows["LSTM"]["test_metric"] is None and rows["lem"]["test_metric"] is not None


def test_the_demo_runs_in_a_thread_where_no_signal_can_be_caught(tmp_path):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(run(tmp_path, epochs=1, networks="scornn")[0]))
    thread.start()
    thread.join()
    assert seen == [0]


def test_ctrl_c_leaves_what_is_done_and_the_same_command_resumes(tmp_path):
    flags = {**SMALL, "epochs": 3, "networks": "scornn,lem", "output": tmp_path}
    command = [sys.executable, "-m", "manifold_rnn", "demo", *(t for k, v in flags.items() for t in (f"--{k}", str(v)))]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("1/3"):
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=300)
    document = json.loads((tmp_path / "results.json").read_text())
    assert process.returncode == 130 and "Traceback" not in errors
    assert 1 <= len(document["runs"]) < 3 and "repeat the command to resume" in rest and "LSTM" in rest
    assert main([str(word) for word in command[3:]]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_defaults_read_the_digits_well(tmp_path, seed):
    assert main(["demo", "--seed", str(seed), "--output", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert len(runs) == 9 and all(run["test_metric"] > 0.9 for run in runs if run["defect"] is not None)
