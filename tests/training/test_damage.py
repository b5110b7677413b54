"""Files of a run that are damaged, swapped, cut off by a kill, or that a full disk or a lack of memory prevents."""

import errno
import os
import random
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("lightning")
import torch
import yaml
from support.run_cases import VALUES, answer, fit, require_equal, require_same_end, slow, state_of, train

from manifold_rnn.cli import main
from manifold_rnn.errors import OptionError
from manifold_rnn.training import SequenceModule, read_run, run
from manifold_rnn.training.checkpoint import RUN, read_checkpoint, write_checkpoint
from manifold_rnn.training.folder import previous
from manifold_rnn.training.record import read_record

pytestmark = pytest.mark.filterwarnings("default:.*the checkpoint before it:UserWarning")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    """A run with equal settings and other numbers, as another number of threads may give."""
    folder = tmp_path_factory.mktemp("noisy") / "run"
    train(VALUES, folder, during=lambda module, loss: loss * 1.5)
    return folder


# ---- files -----------------------------------------------------------------------------------------------------------


def flipped(content, place=None):
    place = len(content) // 3 if place is None else place
    return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]


DAMAGES = {
    "one bit": flipped,
    "one bit of the directory": lambda content: flipped(content, content.rindex(b"PK\1\2") + 24),
    "truncated": lambda content: content[: len(content) // 2],
    "without digest": lambda content: content[:-52],
    "empty": lambda content: b"",
    "deleted": None,
}


def damage(path, kind):
    if DAMAGES[kind] is None:
        path.unlink()
    else:
        path.write_bytes(DAMAGES[kind](path.read_bytes()))


QUICK = ["one bit of the directory", "deleted"]
KINDS = [*QUICK, *slow(*(kind for kind in DAMAGES if kind not in QUICK))]


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_and_says_so(kind, name, whole, copied, capsys):
    assert previous(copied / name).exists()
    damage(copied / name, kind)
    before = state_of(copied)
    assert main(["inspect", str(copied / name)]) == 0
    assert main(["test", "--config", str(copied / "run.yaml"), "--checkpoint", str(copied / name)]) == 0
    err = capsys.readouterr().err
    reason = "is missing" if kind == "deleted" else "is damaged"
    warning = f"'{copied / name}' {reason}. Read the checkpoint before it instead: '{name[:4]}.previous.ckpt'"
    assert err.count(f"manifold-rnn: warning: {warning}") == 2
    assert err.count("\n") == 2 and state_of(copied) == before
    if name == "best.ckpt":
        return
    assert main([str(a) for a in fit(copied, "--resume")]) == 0
    err = capsys.readouterr().err
    resumes = "The run resumes from the checkpoint before it, last.previous.ckpt"
    assert err.count("\n") == 1 and f"{reason}. {resumes}" in err
    require_same_end(whole, copied)


@pytest.mark.skipif(os.name == "nt", reason="Windows restricts links")
@pytest.mark.parametrize("folder", ["run", "link", "absolute"])
def test_a_damaged_best_checkpoint_never_replaces_the_one_before(folder, copied, monkeypatch):
    (copied.parent / "link").symlink_to(copied)
    monkeypatch.chdir(copied.parent)
    shutil.copy(copied / "best.ckpt", copied / "best.previous.ckpt")
    (copied / "best.ckpt").write_bytes(b"damaged")
    train({**VALUES, "epochs": 4}, copied if folder == "absolute" else folder, resume=True)
    assert read_checkpoint(copied / "best.previous.ckpt")[RUN]["history"]
    assert len(read_checkpoint(copied / "best.ckpt")[RUN]["history"]) == 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_best_checkpoint_without_its_equal_is_refused_before_training(kind, copied, capsys):
    damage(copied / "best.ckpt", kind)
    (copied / "best.previous.ckpt").write_bytes(b"")
    before = state_of(copied)
    err = answer(fit(copied, "--resume"), capsys)
    assert "needs the checkpoint with its lowest validation loss" in err and "--restart" in err
    assert state_of(copied) == before


def test_both_generations_damaged_are_refused(copied, capsys):
    for name in ("last.ckpt", "last.previous.ckpt"):
        damage(copied / name, "one bit")
    before = state_of(copied)
    assert "last.ckpt' is damaged" in answer(fit(copied, "--resume"), capsys)
    assert state_of(copied) == before


@pytest.mark.parametrize("count", [200, *slow(10_000)])
def test_no_flipped_byte_is_loaded(count, whole, tmp_path):
    content, chance = (whole / "last.ckpt").read_bytes(), random.Random(0)
    loaded = 0
    for _ in range(count):
        place = chance.randrange(len(content))
        wrong = bytearray(content)
        wrong[place] ^= chance.randrange(1, 256)
        (tmp_path / "last.ckpt").write_bytes(wrong)
        try:
            read_checkpoint(tmp_path / "last.ckpt")
            loaded += 1
        except OptionError:
            pass
    assert loaded == 0


def test_no_flipped_bit_of_a_result_gives_another_record(whole, tmp_path):
    content, chance = (whole / "result.json").read_bytes(), random.Random(0)
    expected = read_record(whole / "result.json")
    for _ in range(300):
        (tmp_path / "result.json").write_bytes(flipped(content, chance.randrange(len(content))))
        with suppress(OptionError):
            assert read_record(tmp_path / "result.json") == expected  # a blank may be another blank
    for wrong in (b"", content[:100], b"[]", b"{}", b"3"):
        (tmp_path / "result.json").write_bytes(wrong)
        with pytest.raises(OptionError, match="is damaged"):
            read_record(tmp_path / "result.json")


@pytest.mark.parametrize("name", ["last.ckpt", "best.ckpt"])
def test_a_file_of_another_run_with_equal_settings_is_noticed(name, copied, noisy, capsys):
    for file in (name, previous(Path(name)).name):
        shutil.copy(noisy / file, copied / file)
    before = state_of(copied)
    err = answer(fit(copied, "--resume", "--epochs", 4), capsys)
    assert "best.ckpt belongs to another run" in err
    assert state_of(copied) == before


def test_a_checkpoint_within_an_epoch_is_not_taken_for_the_best(tmp_path, capsys):
    train(VALUES, tmp_path, stop_after=24)
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "best.ckpt")  # which has the same history
    shutil.copy(tmp_path / "last.ckpt", tmp_path / "best.previous.ckpt")
    assert "best.ckpt belongs to another run" in answer(fit(tmp_path, "--resume"), capsys)


def test_a_kill_between_two_files_leaves_the_best_of_the_last_checkpoint(whole, copied):
    history = read_checkpoint(copied / "last.ckpt")[RUN]["history"]
    assert [epoch["val_loss"] for epoch in history] == sorted((e["val_loss"] for e in history), reverse=True)
    shutil.copy(copied / "last.previous.ckpt", copied / "last.ckpt")  # best.ckpt is one epoch ahead
    for _ in range(2):
        train(VALUES, copied, stop_after=3, resume=True)
        require_equal(read_checkpoint(copied / "best.previous.ckpt"), read_checkpoint(whole / "best.previous.ckpt"))
    train(VALUES, copied, resume=True)
    require_same_end(whole, copied)


def test_a_kill_before_the_first_last_checkpoint_leaves_a_run_that_starts(whole, tmp_path, monkeypatch):
    def killed(path, content, **options):
        if path.name == "last.ckpt":
            raise KeyboardInterrupt
        write_checkpoint(path, content, **options)

    with monkeypatch.context() as patch:
        patch.setattr("manifold_rnn.training.callbacks.write_checkpoint", killed)
        with pytest.raises(SystemExit):
            train(VALUES, tmp_path)
    assert (tmp_path / "best.ckpt").exists() and not (tmp_path / "last.ckpt").exists()
    train(VALUES, tmp_path, resume=True)
    require_same_end(whole, tmp_path)


def test_a_file_system_without_links_keeps_two_generations_too(tmp_path, monkeypatch):
    def refused(*args, **kwargs):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    for number in range(3):
        write_checkpoint(tmp_path / "x.ckpt", {RUN: {"format": 2}, "number": number}, keep=True)
    assert read_checkpoint(tmp_path / "x.ckpt")["number"] == 2
    assert read_checkpoint(tmp_path / "x.previous.ckpt")["number"] == 1
    assert len(list(tmp_path.iterdir())) == 2


# ---- the disk and memory ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, *slow(errno.EDQUOT, errno.EIO, errno.EACCES)])
@pytest.mark.parametrize("call", ["write_bytes", "fsync", "write_text"])
def test_a_write_that_fails_is_one_line_and_every_file_of_before_stays_usable(
    call, code, copied, whole, monkeypatch, capsys
):
    def failing(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    train({**VALUES, "schedule": {}}, copied.parent / "short", stop_after=12)
    folder = copied.parent / "short"
    before = {name: (folder / name).read_bytes() for name in ("last.ckpt", "best.ckpt", "run.yaml")}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing) if call == "fsync" else patch.setattr(Path, call, failing)
        err = answer(fit(folder, "--resume"), capsys)
    assert os.strerror(code) in err and str(folder) in err
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert not [path for path in folder.iterdir() if path.suffix == ".tmp"]
    assert not (folder / "result.json").exists()


LACKS = {
    "Python": MemoryError(),
    "CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    "GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
}


@pytest.mark.parametrize("error", LACKS.values(), ids=LACKS)
@pytest.mark.parametrize("where", ["training_step", *slow("test_step")])
def test_a_lack_of_memory_is_named_and_the_run_can_resume(where, error, whole, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(VALUES))

    def lacking(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(SequenceModule, where, lacking)
        err = answer(["fit", "--config", tmp_path / "run.yaml", "--output", tmp_path / "out"], capsys)
    assert "There is not enough memory for this run." in err
    if where == "test_step":
        assert main([str(a) for a in fit(tmp_path / "out", "--resume")]) == 0
        require_same_end(whole, tmp_path / "out")


def test_an_error_with_another_cause_is_passed_on_as_it_is(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("a mistake of mine")

    monkeypatch.setattr(SequenceModule, "training_step", broken)
    with pytest.raises(RuntimeError, match="a mistake of mine"):
        run(read_run(VALUES), folder=tmp_path)


@pytest.mark.parametrize("read", ["last.ckpt", "best.ckpt"])
def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(read, copied, monkeypatch, capsys):
    def refused(path, real=Path.read_bytes):
        if path.name == read:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert f"{read}' cannot be read: Permission denied" in answer(["inspect", copied / read], capsys)
    assert f"{read}' cannot be read: Permission denied" in answer(fit(copied, "--resume"), capsys)
