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
from support import ROOT

import manifold_rnn as mr
from manifold_rnn import retractions
from manifold_rnn.cli import main
from manifold_rnn.cli.demo import demo_grid
from manifold_rnn.errors import NonFiniteError
from manifold_rnn.study import read_grid
from manifold_rnn.training import SequenceModule, read_run

FILES = {"report.html", "results.json", "table.md", "table.csv", "curves.svg", "eigenvalues.svg", "time.svg"}
SMALL = {"epochs": 2, "hidden_size": 6, "batch_size": 256, "workers": 1}


def flags(folder, **changes):
    return [text for k, v in {**SMALL, "output": folder, **changes}.items() for text in (f"--{k}", str(v))]


def run(folder, **changes):
    """A small demo: its exit status, and its runs by network."""
    status = main(["demo", *flags(folder, **changes)])
    runs = json.loads((folder / "results.json").read_text())["runs"]
    names = [" ".join(map(str, row["choices"]["network"].values())) for row in runs]
    return status, {name.removesuffix(" qr"): row for name, row in zip(names, runs, strict=True)}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    return folder, *run(folder)


def test_every_network_is_trained_and_reported_once(small, capsys):
    folder, status, runs = small
    names = ["LSTM", "dtriv 1", "dtriv 100", "dtriv 0", "enrnn", "exprnn", "full_urnn", "scornn", "scurnn"]
    assert status == 0 and list(runs) == names
    for row in runs.values():
        assert len(row["history"]) == 2 and row["failure"] is None and row["seconds_per_step"] > 0
    assert main(["demo", *flags(folder)]) == 0  # a second time there is nothing to do, and the table is printed again
    text = capsys.readouterr().out
    assert "of which 9 have ended before" in text and "Report: " in text
    for row in runs.values():
        assert f"{row['test_metric']:.1%}" in text and str(row["hidden_size"]) in text
    assert {entry.name for entry in folder.iterdir()} >= FILES


def test_any_published_networks_may_be_chosen(tmp_path):
    status, runs = run(tmp_path, epochs=1, networks="lem, goru,cornn", retraction="qr")
    assert status == 0 and list(runs) == ["LSTM", "lem", "goru", "cornn"]
    assert runs["goru"]["hidden_size"] in (4, 8, 16)


def test_budgets_are_equal_and_the_first_network_has_the_size_asked_for(small):
    *_, runs = small
    assert runs["dtriv 1"]["hidden_size"] == 6
    for row in runs.values():
        assert abs(row["parameters"] - runs["dtriv 1"]["parameters"]) <= 0.3 * runs["dtriv 1"]["parameters"]


def test_constrained_networks_stay_orthogonal_with_eigenvalues_on_the_circle(small):
    *_, runs = small
    assert runs["LSTM"]["defect"] is None
    for name in [name for name in runs if name != "LSTM"]:
        assert runs[name]["defect"] < 1e-5
        for spectrum in (runs[name]["spectrum_start"], runs[name]["spectrum_end"]):
            moduli = [abs(complex(*value)) for value in spectrum]
            if name == "enrnn":  # which has some in the disc
                assert max(moduli) <= 1 + 1e-5 and min(moduli) < 1
            else:
                assert moduli == pytest.approx([1] * len(moduli), abs=1e-5)


def test_equal_seeds_give_equal_results_and_others_do_not(small, tmp_path):
    def timeless(row):
        return [row["test_loss"], row["spectrum_end"], [epoch["val_loss"] for epoch in row["history"]]]

    first = timeless(small[-1]["exprnn"])
    assert timeless(run(tmp_path / "same", networks="exprnn")[-1]["exprnn"]) == first
    assert timeless(run(tmp_path / "other", networks="exprnn", seed=1)[-1]["exprnn"]) != first


@pytest.mark.parametrize("name", retractions.names())
def test_any_retraction_can_be_asked_for(name):
    grid = demo_grid({"hidden_size": 4, "retraction": name})
    networks = [read_run(grid.run_mapping(case.choices, 0)).network for case in grid.cases()]
    built = [mr.training.build_network(network, 1, 10) for network in networks]
    assert len(built) == 9 and [network.retraction for network in networks] == [None, *[name] * 8]


def test_every_setting_overrides_that_of_the_shipped_comparison():
    grid = demo_grid(
        {"epochs": 2, "hidden_size": 8, "seed": 5, "retraction": "polar", "batch_size": 7, "lr": 0.5, "networks": "lem"}
    )
    settings = read_run(grid.run_mapping(grid.cases()[1].choices, grid.seeds[0]))
    assert (settings.epochs, settings.seed, settings.task.seed, settings.batch_size) == (2, 5, 5, 7)
    assert settings.optimizer.lr == 0.5 and settings.network.zoo == "lem" and settings.network.retraction is None
    assert settings.network.budget == mr.degrees_of_freedom(mr.zoo.lem(1, 8, 10))


def test_the_defaults_are_the_shipped_comparison():
    shipped = read_grid(ROOT / "manifold_rnn" / "study" / "demo.yaml")
    assert demo_grid({}) == shipped  # so the budget in the file is right
    assert len(demo_grid({"networks": "all"}).cases()) == 3 + len(mr.zoo.available())


def test_torchs_random_state_is_left_alone(tmp_path):
    before = torch.random.get_rng_state()
    run(tmp_path, epochs=1, networks="scornn")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_that_diverges_is_reported_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    step = SequenceModule.training_step

    def diverging(self, batch, batch_idx):
        if type(self.network.layer.cell).__name__ == "LSTM":
            raise NonFiniteError("Training needs a finite loss.\nGot nan in epoch 1.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(SequenceModule, "training_step", diverging)
    status, runs = run(tmp_path, epochs=1, networks="scornn,lem")
    assert status == 1
    assert "LSTM: seed 0: Training needs a finite loss. Got nan in epoch 1." in capsys.readouterr().out
    assert runs["LSTM"]["test_metric"] is None and runs["lem"]["test_metric"] is not None


def test_the_demo_runs_in_a_thread_where_no_signal_can_be_caught(tmp_path):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(run(tmp_path, epochs=1, networks="scornn")[0]))
    thread.start()
    thread.join()
    assert seen == [0]


def test_ctrl_c_leaves_what_is_done_and_the_same_command_resumes(tmp_path):
    arguments = ["demo", *flags(tmp_path, epochs=3, networks="scornn,lem")]
    command = [sys.executable, "-m", "manifold_rnn", *arguments]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("1/3"):
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=1200)
    document = json.loads((tmp_path / "results.json").read_text())
    assert process.returncode == 130 and "Traceback" not in errors
    assert 1 <= len(document["runs"]) < 3 and "Repeat the command to resume" in rest and "LSTM" in rest
    assert main(arguments) == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_defaults_read_the_digits_well(tmp_path, seed):
    assert main(["demo", "--seed", str(seed), "--output", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert len(runs) == 9 and all(run["test_metric"] > 0.9 for run in runs if run["defect"] is not None)
