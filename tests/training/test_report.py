import io
import json
import math

import pytest

pytest.importorskip("lightning")
from rich.console import Console

from manifold_rnn.tasks import Digits
from manifold_rnn.training import EpochRecord, Result, plot_curves, plot_eigenvalues, print_table, write_results

PNG = b"\x89PNG\r\n\x1a\n"


def result(name="exprnn", epochs=3, **changes):
    history = [EpochRecord(k, 1 / k, 1 / k, 1 - 1 / k, 0.5) for k in range(1, epochs + 1)]
    values = {"test_accuracy": 0.95, "test_loss": 0.1, "defect": 1e-6, "seconds_per_epoch": 0.5, "constrained": True}
    return Result(
        name, 8, 42, history=history, spectrum_start=[1j, -1j], spectrum_end=[1 + 0j], **{**values, **changes}
    )


@pytest.fixture(params=[0, 1, 3, 7], ids="{} results".format)
def results(request):
    return [result(f"net{k}", epochs=k) for k in range(request.param)]


def test_what_is_written_can_be_read_back(tmp_path, results):
    write_results(tmp_path / "r.json", results, {"seed": 3})
    document = json.loads((tmp_path / "r.json").read_text())
    assert document["seed"] == 3
    assert [row["name"] for row in document["results"]] == [r.name for r in results]
    for row, r in zip(document["results"], results, strict=True):
        assert [complex(*pair) for pair in row["spectrum_start"]] == r.spectrum_start
        assert len(row["history"]) == len(r.history)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_become_null(tmp_path, value):
    write_results(tmp_path / "r.json", [result(test_loss=value)], {})
    assert json.loads((tmp_path / "r.json").read_text())["results"][0]["test_loss"] is None


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    write_results(path, [], {"version": 1})
    monkeypatch.setattr("manifold_rnn.training.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_results(path, [], {"version": 2})
    assert json.loads(path.read_text())["version"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(
    "plot", [lambda p, r: plot_curves(p, r, Digits()), plot_eigenvalues], ids=["curves", "spectra"]
)
def test_pictures_are_drawn_for_any_number_of_results(tmp_path, results, plot):
    plot(tmp_path / "p.png", results)
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.png"]


def test_pictures_leave_no_global_state(tmp_path):
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    plot_eigenvalues(tmp_path / "p.png", [result()])
    assert plt.get_fignums() == before


def printed(results, width=80):
    stream = io.StringIO()
    print_table(results, Digits(), Console(file=stream, width=width))
    return stream.getvalue()


def test_the_table_has_a_row_for_each_result_and_nothing_is_cut_at_80_columns():
    text = printed([result("lstm", test_accuracy=0.5, defect=None), result("exprnn")])
    assert "…" not in text
    assert any("lstm" in line and "50.0%" in line for line in text.splitlines())
    assert any("exprnn" in line and "95.0%" in line and "1.0e-06" in line for line in text.splitlines())


def test_the_table_says_why_a_network_failed():
    text = printed([result("exprnn", failure="stopped after 2 of 8 epochs", test_accuracy=None)])
    assert "exprnn: stopped after 2 of 8 epochs" in text
