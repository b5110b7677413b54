import math
import pickle
from collections import Counter
from itertools import pairwise

import pytest
import torch

from manifold_rnn import tasks, zoo
from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import Characters

TEXT = "she sells sea shells by the sea shore; the shells she sells are sea shells.\n" * 40


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "shore.txt"
    path.write_text(TEXT)
    return path


def streams(task):
    """What the sets say, read one piece after another; and what is to be said, one symbol later."""
    for part in task.splits():
        inputs, targets = part[:]
        assert inputs.shape == (len(part), task.length, task.input_size) and (inputs.sum(-1) == 1).all()
        for rows in (inputs.argmax(-1), targets):
            yield "".join(task.alphabet[symbol] for symbol in rows.flatten())


def test_pieces_are_one_stream_and_parts_follow_each_other(path):
    task = Characters(path, length=20, fractions=(0.1, 0.2))
    read, due, *others = streams(task)
    ends = [0, round(0.7 * len(TEXT)), round(0.8 * len(TEXT)), len(TEXT)]
    parts = [TEXT[a:b] for a, b in pairwise(ends)]
    for part, (symbols, after) in zip(parts, [(read, due), others[:2], others[2:]], strict=True):
        assert len(symbols) == (len(part) - 1) // 20 * 20
        assert part.startswith(symbols) and part[1:].startswith(after)
    assert task.alphabet == tuple(sorted(set(parts[0]))) and task.carried and task.every_step


def test_parts_can_be_three_files_found_below_the_folder_of_the_environment(tmp_path, monkeypatch):
    (tmp_path / "text").mkdir()
    for name, text in {"a": "abcba" * 9, "b": "cab" * 9, "c": "bac" * 9}.items():
        (tmp_path / "text" / name).write_text(text)
    monkeypatch.setenv("MANIFOLD_RNN_DATA", str(tmp_path))
    task = Characters("a", length=8, validation_path="b", test_path="c")
    assert [len(part) for part in task.splits()] == [5, 3, 3]
    assert list(streams(task))[2].startswith("cabcab")


def test_a_byte_order_mark_is_no_symbol(path):
    path.write_text(TEXT, encoding="utf-8-sig")
    assert "\ufeff" not in Characters(path, length=20).alphabet and next(streams(Characters(path))).startswith("she")


def test_lines_of_separated_symbols_end_with_a_symbol(tmp_path):
    path = tmp_path / "ptb.char.txt"
    path.write_text(" t h e _ <unk>\n c a t\n" * 30)
    task = Characters(path, length=5, separated=True)
    assert set(task.alphabet) == {*"thecat", "_", "<unk>", "\n"}
    assert next(streams(task)).startswith("the_<unk>\ncat\nthe")


def test_the_best_constant_guess_is_the_entropy_of_single_symbols(path):
    task = Characters(path, length=20)
    train = TEXT[: round(0.9 * len(TEXT))]
    shares = [count / len(train) for count in Counter(train).values()]
    entropy = -sum(share * math.log2(share) for share in shares)
    assert task.baseline().metric == pytest.approx(entropy, rel=1e-6)
    assert task.baseline().loss == pytest.approx(entropy * math.log(2), rel=1e-6)
    _, targets = task.splits().train[:]
    logits = torch.tensor([math.log(train.count(symbol) / len(train)) for symbol in task.alphabet])
    guess = logits.expand(*targets.shape, -1)
    assert task.loss(guess, targets).item() == pytest.approx(task.baseline().loss, rel=5e-3)  # but for the last symbols


def test_a_uniform_guess_takes_log2_of_the_alphabet_in_bits(path):
    task = Characters(path, length=20)
    _, targets = task.splits().test[:]
    bits = task.metric(torch.zeros(*targets.shape, task.output_size), targets)
    assert bits.item() == pytest.approx(math.log2(len(task.alphabet)), rel=1e-6) and not task.higher_is_better


def test_symbols_that_training_lacks_are_refused_or_become_one_class(tmp_path):
    path = tmp_path / "text"
    path.write_text("ab" * 450 + "aé€b" * 20)
    with pytest.raises(OptionError, match="test") as caught:
        Characters(path, length=5).splits()
    assert "é" in str(caught.value)
    task = Characters(path, length=5, unknown="map")
    assert task.alphabet == ("a", "b") and task.input_size == task.output_size == 3
    assert task.splits().test[:][1].unique().tolist() == [0, 1, 2]


def test_more_symbols_than_fit_a_byte_are_kept_apart(tmp_path):
    path = tmp_path / "text"
    path.write_text("".join(map(chr, range(0x4E00, 0x4E00 + 400))) * 20, encoding="utf-8")
    task = Characters(path, length=50)
    assert task.input_size == 400 and next(streams(task))[:400] == path.read_text(encoding="utf-8")[:400]


def test_a_task_that_was_read_can_be_pickled_and_compared(path):
    task = Characters(path, length=20)
    assert task.input_size and pickle.loads(pickle.dumps(task)) == task == Characters(path, length=20)


def test_a_small_network_soon_beats_the_baseline(path):
    torch.manual_seed(0)
    task = Characters(path, length=20)
    network = zoo.scornn(task.input_size, 16, task.output_size)
    optimizer = torch.optim.Adam(network.parameter_groups(2e-2))
    inputs, targets = task.splits().train[:32]
    for _ in range(40):
        loss = task.loss(network(inputs, every_step=True), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    inputs, targets = task.splits().test[:]
    assert task.metric(network(inputs, every_step=True), targets) < 0.8 * task.baseline().metric


SPOILED = {
    "one symbol": ("a" * 999, "two different symbols"),
    "empty": ("", "two different symbols"),
    "short": ("ab" * 30, "more symbols than a piece"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_text_that_cannot_be_learned_is_refused(tmp_path, case):
    text, words = SPOILED[case]
    path = tmp_path / "text.txt"
    path.write_text(text)
    with pytest.raises(OptionError, match=words) as caught:
        Characters(path, length=20).splits()
    assert "text.txt" in str(caught.value) and len(str(caught.value)) <= 400


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"\x89PNG" * 100)
    with pytest.raises(OptionError, match="0x89"):
        Characters(path).splits()


def test_a_missing_file_is_named_with_the_places_that_were_tried(tmp_path):
    for data_dir in (None, tmp_path):
        with pytest.raises(OptionError, match=r"nowhere\.txt") as caught:
            Characters("nowhere.txt", data_dir=data_dir).splits()
        assert len(str(caught.value)) <= 400


@pytest.mark.parametrize(
    "options", [{"length": 0}, {"fractions": (0.5, 0.5)}, {"fractions": (0.1,)}, {"unknown": "?"}, {"test_path": "x"}]
)
def test_an_option_that_makes_no_sense_is_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        Characters("text.txt", **options)


def test_published_rows_are_those_of_penn_treebank(path):
    rows = Characters(path).published()
    assert ("nnrnn", "1.40 / 1.42") in [(row.network, row.result) for row in rows]
    assert all(row.setting.startswith("Penn Treebank, bits") and row.source for row in rows)
    assert "Characters" in tasks.available()
