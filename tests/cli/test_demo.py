import io
import json
import signal
import subprocess
import sys
import threading

import pytest

pytest.importorskip("lightning")
import torch
from rich.console import Console

from manifold_rnn import retractions
from manifold_rnn.training import DemoSettings, demo, run_demo

NAMES = ["lstm", *(label for name in DemoSettings().chosen() for label in demo._VARIANTS.get(name, [name]))]
FILES = {"results.json", "curves.png", "eigenvalues.png"}


def run(folder, **changes):
    """A small demo: its exit status, what it printed, what it wrote."""
    settings = DemoSettings(**{"epochs": 2, "hidden_size": 6, "batch_size": 256, "output": folder, **changes})
    stream = io.StringIO()
    status = run_demo(settings, Console(file=stream, width=100))
    return status, stream.getvalue(), json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "made" / "here"
    return folder, *run(folder)


def test_every_network_is_trained_and_reported(small):
    _, status, text, document = small
    rows = document["results"]
    assert status == 0
    assert not document["interrupted"]
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert len(row["history"]) == 2
        assert 0 <= row["test_accuracy"] <= 1
        assert row["seconds_per_epoch"] > 0
        assert row["failure"] is None
        assert f"{row['test_accuracy']:.1%}" in text
        assert text.count(f"{row['name']:<10} epoch") == 2


def test_any_networks_of_the_zoo_may_be_chosen(tmp_path):
    status, _, document = run(tmp_path, epochs=1, networks="lem, goru,cornn", retraction="qr")
    names = [row["name"] for row in document["results"]]
    assert status == 0 and names == ["lstm", "lem", "goru", "cornn"]
    assert document["results"][2]["hidden_size"] in (4, 8, 16)


def test_only_the_files_that_are_named_are_written(small):
    assert {entry.name for entry in small[0].iterdir()} == FILES


def test_budgets_are_equal_and_zoo_networks_have_the_size_asked_for(small):
    lstm, *rows = small[3]["results"]
    assert rows[0]["hidden_size"] == 6
    for row in rows:
        assert abs(row["parameters"] - rows[0]["parameters"]) <= 0.3 * rows[0]["parameters"]
    assert abs(lstm["parameters"] - rows[0]["parameters"]) <= 0.3 * rows[0]["parameters"]


def test_constrained_networks_stay_orthogonal_with_eigenvalues_on_the_circle(small):
    lstm, *rows = small[3]["results"]
    assert lstm["defect"] is None
    for row in rows:
        assert row["defect"] < 1e-5
        for spectrum in (row["spectrum_start"], row["spectrum_end"]):
            moduli = [abs(complex(*value)) for value in spectrum]
            if row["name"] == "enrnn":  # has some in the disc
                assert max(moduli) <= 1 + 1e-5 and min(moduli) < 1
            else:
                assert moduli == pytest.approx([1] * len(moduli), abs=1e-5)


def test_equal_seeds_give_equal_results_and_others_do_not(small, tmp_path):
    def timeless(rows):
        for row in rows:
            row["seconds_per_epoch"] = None
            for record in row["history"]:
                record["seconds"] = None
        return rows

    first = timeless(json.loads((small[0] / "results.json").read_text())["results"])
    assert timeless(run(tmp_path / "same")[2]["results"]) == first
    assert timeless(run(tmp_path / "other", seed=1)[2]["results"]) != first


@pytest.mark.parametrize("name", retractions.names())
def test_any_retraction_can_be_asked_for(tmp_path, name):
    status, _, document = run(tmp_path, epochs=1, retraction=name)
    assert status == 0
    assert all(row["failure"] is None for row in document["results"])


def test_a_terminal_shows_one_bar_for_each_network(tmp_path):
    stream = io.StringIO()
    settings = DemoSettings(epochs=2, hidden_size=6, batch_size=256, output=tmp_path)
    assert run_demo(settings, Console(file=stream, width=100, force_terminal=True)) == 0
    for name in NAMES:
        assert any(name in line and "epoch 2/2" in line for line in stream.getvalue().splitlines())


def test_torchs_random_state_and_threads_are_left_alone(tmp_path):
    before = torch.random.get_rng_state(), torch.get_num_threads()
    run(tmp_path, epochs=1)
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_a_network_that_diverges_is_reported_and_the_others_go_on(tmp_path, monkeypatch):
    from manifold_rnn.errors import NonFiniteError
    from manifold_rnn.training import fitting

    step = fitting.SequenceModule.training_step

    def diverging(self, batch, batch_idx):
        if "LSTM" in type(self.network).__name__:
            raise NonFiniteError("Training needs a finite loss.\nGot nan in epoch 1.")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(fitting.SequenceModule, "training_step", diverging)
    status, text, document = run(tmp_path, epochs=1)
    lstm, *rows = document["results"]
    assert status == 1
    assert "lstm: Training needs a finite loss. Got nan in epoch 1." in text
    assert lstm["test_accuracy"] is None
    assert all(row["test_accuracy"] is not None for row in rows)


def test_the_demo_runs_in_a_thread_where_no_signal_can_be_caught(tmp_path):
    seen = []
    thread = threading.Thread(target=lambda: seen.append(run(tmp_path, epochs=1)[0]))
    thread.start()
    thread.join()
    assert seen == [0]


def test_ctrl_c_leaves_what_is_done(tmp_path):
    command = [
        sys.executable,
        "-m",
        "manifold_rnn",
        "demo",
        "--epochs",
        "500",
        "--hidden-size",
        "6",
        "--output",
        str(tmp_path),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if " epoch   3/500" in line:
            process.send_signal(signal.SIGINT)
            break
    rest, errors = process.communicate(timeout=300)
    document = json.loads((tmp_path / "results.json").read_text())
    assert process.returncode == 130
    assert not errors
    assert document["interrupted"]
    assert document["results"][0]["failure"].startswith("stopped after")
    assert "lstm" in rest
    assert {entry.name for entry in tmp_path.iterdir()} == FILES


def test_ctrl_c_before_the_first_epoch_ends_leaves_an_empty_report(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "stop_on_interrupt", lambda console: _stopped())
    status, _, document = run(tmp_path)
    assert status == 130
    assert document["results"] == []
    assert document["interrupted"]
    assert {entry.name for entry in tmp_path.iterdir()} == FILES


def _stopped():
    from contextlib import nullcontext

    return nullcontext(lambda: True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_defaults_read_the_digits_well(tmp_path, seed):
    stream = io.StringIO()
    run_demo(DemoSettings(seed=seed, output=tmp_path), Console(file=stream))
    rows = json.loads((tmp_path / "results.json").read_text())["results"]
    assert all(row["test_accuracy"] > 0.9 for row in rows if row["constrained"])
