"""The folder of a run: what is refused, what is said of it, and what is written there."""

import json
import signal
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import torch
import yaml
from support.run_cases import VALUES, train
from support.scan_cases import fastest_cpu_scan

from manifold_rnn.cli import main
from manifold_rnn.training.checkpoint import RUN, read_checkpoint, write_checkpoint
from manifold_rnn.training.folder import lock_folder, replacing
from manifold_rnn.training.record import write_json

# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train({**VALUES, "epochs": 1}, folder / "run")
    return folder / "run"


def damaged(content):
    middle = len(content) // 3
    wrong = bytes(byte ^ 0xFF for byte in content[middle : middle + 80])  # more than a gap between two parts
    return content[:middle] + wrong + content[middle + 80 :]


FILES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "with wrong bytes": damaged,
    "text": lambda content: b"epoch 3",
}


def answers(arguments, capsys):
    status = main([str(a) for a in arguments])
    err = capsys.readouterr().err
    assert status == 2
    assert err.count("\n") == 1 and err.startswith("manifold-rnn: error: ") and len(err) <= 450
    return err


def state_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def copied(trained, tmp_path):
    import shutil

    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_checkpoint_is_answered_with_one_line_and_left_alone(kind, copied, capsys):
    path = copied / "last.ckpt"
    path.write_bytes(FILES[kind](path.read_bytes()))
    before = state_of(copied)
    resume = ["fit", "--config", copied / "run.yaml", "--output", copied, "--resume"]
    for command in (resume, ["inspect", path], ["test", "--config", copied / "run.yaml", "--checkpoint", path]):
        assert "is damaged or not a checkpoint of this package" in answers(command, capsys)
    assert state_of(copied) == before


def test_a_file_of_tensors_that_is_no_checkpoint_is_refused(tmp_path, capsys):
    torch.save([torch.ones(2)], tmp_path / "x.ckpt")
    assert "its digest does not match its content" in answers(["inspect", tmp_path / "x.ckpt"], capsys)
    write_checkpoint(tmp_path / "x.ckpt", {"x": torch.ones(2)})
    assert "it does not contain the expected entries" in answers(["inspect", tmp_path / "x.ckpt"], capsys)


CHANGES = {
    "size": (["--network.hidden_size", "9"], "Expected network.hidden_size=9, got network.hidden_size=8."),
    "network": (["--network.zoo", "scornn"], "Expected network.zoo=scornn"),
    "task": (["--task.delay", "4"], "Expected task.delay=4"),
    "seed": (["--seed", "4"], "Expected seed=4, got seed=0."),
    "rate": (["--optimizer.lr", "4"], "Expected optimizer.lr=4.0, got optimizer.lr=0.03."),
}


@pytest.mark.parametrize(("flags", "answer"), CHANGES.values(), ids=CHANGES)
def test_a_checkpoint_of_another_run_is_refused_and_left_alone(flags, answer, copied, capsys):
    before = state_of(copied)
    fit = ["fit", "--config", copied / "run.yaml", "--output", copied, "--resume", *flags]
    assert answer in answers(fit, capsys)
    assert answer in answers(["test", "--config", copied / "run.yaml", "--output", copied, *flags], capsys)
    assert state_of(copied) == before


def test_weights_that_do_not_fit_are_refused(copied, capsys):
    content = read_checkpoint(copied / "last.ckpt")
    content["state_dict"]["network.readout.weight"] = torch.zeros(2, 2)
    write_checkpoint(copied / "last.ckpt", content)
    fit = ["fit", "--config", copied / "run.yaml", "--output", copied, "--resume"]
    assert "does not fit the network" in answers(fit, capsys)


def test_a_folder_with_a_run_is_refused_without_resume(copied, capsys):
    before = state_of(copied)
    err = answers(["fit", "--config", copied / "run.yaml", "--output", copied], capsys)
    assert "already contains a run" in err and "--resume" in err
    assert state_of(copied) == before


def test_a_run_goes_on_where_its_folder_was_moved_to(copied, capsys):
    where = ["--config", copied / "run.yaml", "--output", copied, "--resume", "--epochs", 2]
    assert main(["fit", *map(str, where)]) == 0
    assert "epoch 2/2" in capsys.readouterr().out
    assert len(read_checkpoint(copied / "last.ckpt")[RUN]["history"]) == 2


def test_a_run_without_its_last_checkpoint_is_not_begun_anew_over_its_best(copied, capsys):
    (copied / "last.ckpt").unlink()
    before = state_of(copied)
    where = ["--config", copied / "run.yaml", "--output", copied, "--resume"]
    assert "has no last.ckpt" in answers(["fit", *where], capsys)
    assert state_of(copied) == before


def test_a_folder_in_which_another_process_trains_is_left_alone(copied, capsys):
    lock = lock_folder(copied)
    try:
        before = state_of(copied)
        where = ["--config", copied / "run.yaml", "--output", copied, "--resume", "--epochs", 2]
        assert "Another process is training in" in answers(["fit", *where], capsys)
        assert state_of(copied) == before
    finally:
        lock.release()
    assert main(["fit", *map(str, where)]) == 0


def test_a_run_that_was_cut_inside_an_epoch_takes_no_more_steps(tmp_path, capsys):
    train({**VALUES, "max_steps": 15, "patience": None}, tmp_path / "run")
    where = ["--config", tmp_path / "run" / "run.yaml", "--output", tmp_path / "run", "--resume"]
    assert "Expected max_steps=15, got 30" in answers(["fit", *where, "--max_steps", 30], capsys)
    assert main(["fit", *map(str, where)]) == 0  # it is over


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused_before_anything_is_written(trained, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**VALUES, "accelerator": "gpu"}))
    where = ["--config", tmp_path / "run.yaml", "--output", tmp_path / "run"]
    assert "`accelerator` needs one that this machine has. Got gpu" in answers(["fit", *where], capsys)
    assert not (tmp_path / "run").exists()
    where = ["--config", tmp_path / "run.yaml", "--checkpoint", trained / "best.ckpt", "--epochs", 1]
    assert "`accelerator` needs one that this machine has. Got gpu" in answers(["test", *where], capsys)


def test_a_full_disk_is_said_in_one_line_and_leaves_the_old_checkpoint(copied, capsys):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = (copied / "last.ckpt").read_bytes()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing raises
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        where = ["--config", copied / "run.yaml", "--output", copied, "--resume", "--epochs", 2]
        assert main(["fit", *map(str, where)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert "File too large" in capsys.readouterr().err
    assert (copied / "last.ckpt").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_refused(trained, tmp_path, capsys):
    (tmp_path / "taken").write_text("mine")
    err = answers(["fit", "--config", trained / "run.yaml", "--output", tmp_path / "taken"], capsys)
    assert "`output` needs a folder that can be written" in err
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_text_with_one_symbol_is_refused(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("a" * 5000)
    flags = ["--task.path", tmp_path / "text.txt", "--network.cell", "GRU", "--output", tmp_path / "run"]
    assert "two different symbols" in answers(["fit", "--task", "Characters", *flags], capsys)
    assert not (tmp_path / "run").exists()


def test_images_that_are_cut_off_are_refused(tmp_path, capsys):
    for name, axes in (("images-idx3", (40, 28, 28)), ("labels-idx1", (40,))):
        sizes = b"".join(size.to_bytes(4, "big") for size in axes)
        content = bytes([0, 0, 8, len(axes)]) + sizes + bytes(torch.Size(axes).numel())
        (tmp_path / f"train-{name}-ubyte").write_bytes(content[:-5] if "images" in name else content)
        (tmp_path / f"t10k-{name}-ubyte").write_bytes(content)
    flags = ["--task.data_dir", tmp_path, "--network.zoo", "exprnn", "--output", tmp_path / "run"]
    assert "train-images-idx3-ubyte" in answers(["fit", "--task", "PixelMNIST", *flags], capsys)
    assert not (tmp_path / "run").exists()


# ---- what is said and written ----------------------------------------------------------------------------------------


def test_inspect_says_how_far_a_run_is_and_how_to_go_on(copied, capsys):
    assert main(["inspect", str(copied / "best.ckpt")]) == 0
    out = capsys.readouterr().out
    progress = ("1 of 1 epochs; 10 steps", f"scan {fastest_cpu_scan()}", "on data with the digest")
    for words in (*progress, "trained degrees of freedom", "defect of layer.weight_hh_l0"):
        assert words in out
    assert "spectrum of W_hh: moduli from" in out and "name: Copying" in out
    assert f"manifold-rnn fit --config {copied / 'run.yaml'} --output {copied} --resume" in out


def test_validate_and_test_score_the_best_checkpoint(copied, capsys):
    for stage, key in (("validate", "val"), ("test", "test")):
        assert main([stage, "--config", str(copied / "run.yaml"), "--output", str(copied)]) == 0
        scores = json.loads(capsys.readouterr().out)
        assert set(scores) == {f"{key}_loss", f"{key}_metric"}
    result = json.loads((copied / "result.json").read_text())
    assert scores == pytest.approx({key: result[key] for key in ("test_loss", "test_metric")}, rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"network": {"zoo": "scornn", "hidden_size": 6}}, "weights/defect"),
        ({"network": {"cell": "GRU"}, "optimizer": {}}, "weights/spectral_radius"),
    ],
    ids=["constrained", "free"],
)
def test_the_log_has_loss_metric_gradients_and_the_defect_or_the_radius(changes, weights, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train({**VALUES, **changes, "log_every": 5}, tmp_path)
    log = EventAccumulator(str(tmp_path / "logs"))
    log.Reload()
    scalars = {name: [event.step for event in log.Scalars(name)] for name in log.Tags()["scalars"]}
    steps = list(range(4, 30, 5))
    for name in ("loss", "lr-CombinedOptimizer/pg1", "grad_2.0_norm_total", "grad_2.0_norm/readout.weight"):
        assert scalars.get(name, scalars.get("lr-Adam", [])) == steps, name
    for name in ("train_loss", "val_loss", "val_metric", weights):
        assert scalars[name] == [9, 19, 29], name


@pytest.mark.parametrize("stop_after", [10, 14])
def test_the_log_of_a_resumed_run_has_every_step_once(stop_after, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = {**VALUES, "log_every": 1, "checkpoint_every": None}
    train(values, tmp_path, stop_after)
    train(values, tmp_path, resume=True)
    log = EventAccumulator(str(tmp_path / "logs"))
    log.Reload()
    assert [event.step for event in log.Scalars("loss")] == list(range(30))
    for name in ("train_loss", "val_loss"):
        assert [event.step for event in log.Scalars(name)] == [9, 19, 29]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "r.json"
    write_json(path, {"version": 1})

    def fail():
        with replacing(path, keep=True) as temporary:
            temporary.write_text("half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert json.loads(path.read_text())["version"] == 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("name", ["r.json", "r.previous.json"])
def test_what_is_no_regular_file_is_not_replaced(name, tmp_path):
    (tmp_path / "r.json").write_text("old")
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises(OSError, match=f"{name}' cannot be replaced"), replacing(tmp_path / "r.json", keep=True):
        pytest.fail("nothing is written")
    assert all(path.name in ("r.json", name) for path in tmp_path.iterdir())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_have_become_null(tmp_path, value):
    write_json(tmp_path / "r.json", {"scores": [value, 1.0]})
    assert json.loads((tmp_path / "r.json").read_text()) == {"scores": [None, 1.0]}


@pytest.mark.parametrize("place", [0, 0.3, 0.6, 0.999])
def test_one_wrong_byte_anywhere_is_detected(place, copied):
    from manifold_rnn.errors import OptionError

    data = bytearray((copied / "last.ckpt").read_bytes())
    data[int(place * len(data))] ^= 1
    (copied / "last.ckpt").write_bytes(data)
    with pytest.raises(OptionError, match="digest"):
        read_checkpoint(copied / "last.ckpt")


def test_torch_reads_a_checkpoint_without_the_package(copied):
    content = torch.load(copied / "last.ckpt", weights_only=True)
    assert "network.readout.weight" in content["state_dict"]


def test_a_checkpoint_that_would_execute_something_is_refused(tmp_path):
    from manifold_rnn.errors import OptionError

    write_checkpoint(tmp_path / "x.ckpt", {"manifold_rnn": {"format": 2}, "call": Path("x").exists})
    with pytest.raises(OptionError, match="UnpicklingError"):
        read_checkpoint(tmp_path / "x.ckpt")
