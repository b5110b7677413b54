import math
import wave as riff
from functools import partial

import numpy as np
import pytest
import torch
from scipy import signal

from manifold_rnn import zoo
from manifold_rnn.errors import OptionError
from manifold_rnn.tasks import Speech, SyntheticSpeech
from manifold_rnn.tasks.audio import read_sound
from manifold_rnn.tasks.spectra import log_spectrum
from manifold_rnn.tasks.speech import _CORE_TEST_SPEAKERS, _DEVELOPMENT_SPEAKERS

INCOMPLETE = pytest.mark.filterwarnings("ignore:A complete TIMIT has")


def tone(seconds=0.25, hertz=440.0, rate=16_000, seed=0):
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(seed).normal(size=len(time))
    return np.round(8000 * np.sin(2 * math.pi * hertz * time) + 50 * noise).astype(np.int16)


def write_riff(path, samples, rate=16_000, width=2):
    with riff.open(str(path), "wb") as file:
        file.setparams((1, width, rate, 0, "NONE", None))
        file.writeframes(samples.tobytes())


def write_sphere(path, samples, rate=16_000, order="01", channels=1, **changes):
    fields = {"sample_rate": rate, "sample_count": len(samples) // channels, "channel_count": channels}
    fields |= {"sample_n_bytes": 2, "sample_byte_format": order, "sample_coding": "pcm", **changes}
    lines = [f"{k} {f'-s{len(v)}' if isinstance(v, str) else '-i'} {v}" for k, v in fields.items()]
    header = "\n".join(["NIST_1A", "   1024", *lines, "end_head", ""]).encode().ljust(1024)
    path.write_bytes(header + samples.astype("<i2" if order == "01" else ">i2").tobytes())


@pytest.mark.parametrize("samples", [1000, 1024, 1])
def test_frames_are_those_of_scipy(samples):
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, samples)
    frames = log_spectrum(torch.as_tensor(wave))
    assert frames.shape == (math.ceil(samples / 128) + 3, 129)
    filled = np.pad(wave, (256, 256 + -samples % 128))
    options = {"nperseg": 256, "noverlap": 128, "boundary": None, "padded": False}
    _, _, X = signal.stft(filled, window="hann", **options)
    power = np.abs(X * signal.get_window("hann", 256).sum()) ** 2  # scipy divides by the sum of the window
    np.testing.assert_allclose(frames, 10 * np.log10(1e-5 + power.T), rtol=1e-9, atol=1e-9)


def test_silence_is_fifty_decibels_down():
    torch.testing.assert_close(log_spectrum(torch.zeros(3, 500)), torch.full((3, 7, 129), -50.0))


WRITERS = {
    "riff": write_riff,
    "sphere": write_sphere,
    "sphere, other order": partial(write_sphere, order="10"),
    "sphere, two channels": lambda path, samples: write_sphere(path, np.repeat(samples, 2), channels=2),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_sounds_are_halved_to_8_kilohertz(tmp_path, write):
    samples = tone(hertz=440)
    write(tmp_path / "a.wav", samples)
    wave = read_sound(tmp_path / "a.wav")
    assert wave.dtype == torch.float32 and len(wave) == 2000
    inner = slice(100, -100)  # away from the ends, where the filter sees silence
    expected = 8000 / 32768 * np.sin(2 * math.pi * 440 * np.arange(2000) / 8000)
    np.testing.assert_allclose(wave.numpy()[inner], expected[inner], atol=8e-3)
    write_riff(tmp_path / "high.wav", tone(hertz=6000))
    assert read_sound(tmp_path / "high.wav")[inner].abs().max() < 0.02  # what 8 kHz cannot hold is filtered out


def test_sounds_of_8_kilohertz_are_left_alone(tmp_path):
    samples = tone(rate=8000)
    write_riff(tmp_path / "a.wav", samples, rate=8000)
    np.testing.assert_array_equal(read_sound(tmp_path / "a.wav"), samples.astype(np.float32) / 32768)


DAMAGE = {
    "truncated riff": (lambda p: (write_riff(p, tone()), p.write_bytes(p.read_bytes()[:500])), "RIFF"),
    "no sound": (lambda p: p.write_bytes(b"not a sound at all" * 9), "RIFF"),
    "empty": (lambda p: p.write_bytes(b""), "RIFF"),
    "8 bits": (lambda p: write_riff(p, tone().astype(np.uint8), width=1), "uint8"),
    "44.1 kHz": (lambda p: write_riff(p, tone(), rate=44_100), "44,100"),
    "truncated sphere": (lambda p: (write_sphere(p, tone()), p.write_bytes(p.read_bytes()[:-2])), "3,999"),
    "truncated header": (lambda p: (write_sphere(p, tone()), p.write_bytes(p.read_bytes()[:60])), "header"),
    "half a header": (lambda p: (write_sphere(p, tone()), p.write_bytes(p.read_bytes()[:600])), "1024 bytes in 600"),
    "no channel": (lambda p: write_sphere(p, tone(), channel_count=0), "in 0 channels"),
    "fewer than no channels": (lambda p: write_sphere(p, tone(), channel_count=-1), "in -1 channels"),
    "fewer than no samples": (lambda p: write_sphere(p, tone(), sample_count=-5), "-5 samples"),
    "no samples": (lambda p: write_sphere(p, tone()[:0]), "at least one sample"),
    "an empty riff": (lambda p: write_riff(p, tone()[:0]), "at least one sample"),
    "compressed": (lambda p: write_sphere(p, tone(), sample_coding="pcm,embedded-shorten-v2.00"), "shorten"),
    "mu-law": (lambda p: write_sphere(p, tone(), sample_n_bytes=1), "1 bytes"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_sound_that_cannot_be_read_is_named(tmp_path, case):
    write, words = DAMAGE[case]
    write(tmp_path / "sx1.wav")
    with pytest.raises(OptionError, match=words) as caught:
        read_sound(tmp_path / "sx1.wav")
    assert "sx1.wav" in str(caught.value) and len(str(caught.value)) <= 400


UTTERANCES = {
    "TRAIN/DR1/FCJF0": ["SA1", "SA2", "SI648", "SX37"],
    "TRAIN/DR1/FSAH0": ["SI614", "SX84"],
    "TEST/DR1/FAKS0": ["SA1", "SX43", "SX133"],
    "TEST/DR1/MDAB0": ["SX49"],
    "TEST/DR1/MREB9": ["SX1"],  # in neither list
}


@pytest.fixture
def timit(tmp_path):
    for i, (speaker, names) in enumerate(UTTERANCES.items()):
        folder = tmp_path / "timit" / "TIMIT" / speaker
        folder.mkdir(parents=True)
        for name in names:
            write_sphere(folder / f"{name}.WAV", tone(0.2 + 0.05 * i, 200 + 100 * i, seed=i))
    return tmp_path


@INCOMPLETE
def test_the_parts_are_the_speakers_without_what_has_sa_in_its_name(timit, monkeypatch):
    task = Speech(timit, length=40)
    assert [len(part) for part in task.splits()] == [2, 2, 1]
    frames, counts = task.splits().test.tensors
    expected = log_spectrum(read_sound(timit / "timit/TIMIT/TEST/DR1/MDAB0/SX49.WAV"))
    torch.testing.assert_close(frames[0, : counts[0]], expected)
    monkeypatch.setenv("MANIFOLD_RNN_DATA", str(timit))
    assert torch.equal(Speech(length=40).splits().test.tensors[0], frames)


@INCOMPLETE
def test_a_copy_in_two_formats_and_lower_case_counts_once(timit):
    for path in list(timit.rglob("*.WAV")):
        write_riff(path.with_name(f"{path.name}.wav"), tone())
    for path in sorted(timit.rglob("*"), key=lambda path: -len(path.parts)):
        path.rename(path.with_name(path.name.lower()))
    assert [len(part) for part in Speech(timit, length=41).splits()] == [2, 2, 1]


@INCOMPLETE
def test_targets_are_the_next_frames_and_padding_is_marked(timit):
    splits = Speech(timit, length=40).splits()
    frames, counts = splits.train.tensors
    inputs, targets = splits.train[1]
    assert inputs.shape == (40, 129) and targets.shape == (40, 130)
    assert torch.equal(inputs[1:], targets[:-1, :-1])
    own = counts[1] - 1
    assert own == math.ceil(1600 / 128) + 2 and targets[:own, -1].eq(1).all() and targets[own:, -1].eq(0).all()
    batch, all_targets = splits.train[:]
    assert torch.equal(batch[1], inputs) and torch.equal(all_targets[1], targets) and torch.equal(frames[:, :-1], batch)


def test_an_incomplete_copy_is_warned_about(timit):
    with pytest.warns(UserWarning, match=r"\(3640, 400, 192\).*\(2, 2, 1\)"):
        Speech(timit, length=39).splits()


@INCOMPLETE
@pytest.mark.parametrize(("gone", "words"), [("TRAIN", "training"), ("TEST", "development"), ("MDAB0", "core test")])
def test_a_part_without_speakers_is_named(timit, gone, words):
    (folder,) = timit.rglob(gone)
    folder.rename(timit / "elsewhere")
    with pytest.raises(OptionError, match=words) as caught:
        Speech(timit, length=40).splits()
    assert len(str(caught.value)) <= 400


@INCOMPLETE
def test_a_longer_utterance_is_refused(timit):
    with pytest.raises(OptionError, match=r"length = 10.*\nGot 15"):
        Speech(timit, length=10).splits()


def test_the_lists_have_50_and_24_speakers_and_lose_none_by_their_names():
    development, core = (text.split() for text in (_DEVELOPMENT_SPEAKERS, _CORE_TEST_SPEAKERS))
    assert (len(set(development)), len(set(core))) == (50, 24) and not set(development) & set(core)
    assert not [name for name in development + core if "sa" in name]


def test_files_that_nobody_named_are_asked_for(monkeypatch):
    monkeypatch.delenv("MANIFOLD_RNN_DATA", raising=False)
    with pytest.raises(OptionError, match="MANIFOLD_RNN_DATA"):
        Speech(data_dir=None).splits()
    with pytest.raises(OptionError, match="length"):
        Speech(length=0)


def small(**options):
    return SyntheticSpeech(length=30, sizes=(24, 6, 6), **options)


def test_padding_has_no_part_in_the_error():
    task = small()
    _, targets = task.splits().train[:]
    frames, own = targets[..., :-1], targets[..., -1] == 1
    assert 0 < own.float().mean() < 1
    outputs = torch.randn(frames.shape)
    expected = ((outputs - frames)[own]).square().mean()
    torch.testing.assert_close(task.loss(outputs, targets), expected)
    outputs[~own] = 1e6
    torch.testing.assert_close(task.loss(outputs, targets), expected)


def test_a_synthetic_sound_ends_with_one_frame_of_silence_as_a_recorded_one_does():
    frames, counts = small().splits().train.tensors
    sounding = (frames > -49.9).any(-1)
    last = torch.arange(frames.shape[1]).expand_as(sounding).masked_fill(~sounding, 0).amax(-1)
    assert torch.equal(last, counts - 2) and counts.unique().numel() > 3 and counts.max() <= 31
    assert not sounding[:, 0].any()


@INCOMPLETE
def test_no_constant_guess_is_better_than_the_baseline(timit):
    for task in (small(), Speech(timit, length=40)):
        _, targets = task.splits().train[:]
        own = targets[targets[..., -1] == 1][:, :-1]
        mean = own.mean(0)
        for guess, exact in ((mean, True), (mean + 0.5, False), (mean * 0.9, False)):
            loss = task.loss(guess.expand(*targets.shape[:-1], -1), targets).item()
            assert loss == pytest.approx(task.baseline().loss, rel=1e-4) if exact else loss > task.baseline().loss
    assert task.baseline().metric == task.baseline().loss and not task.higher_is_better


def test_a_small_network_soon_beats_the_baseline():
    torch.manual_seed(0)
    task = SyntheticSpeech(length=20, sizes=(96, 1, 32))
    network = zoo.scornn(129, 48, 129)
    optimizer = torch.optim.Adam(network.parameter_groups(1e-2))
    splits = task.splits()
    for step in range(120):
        inputs, targets = splits.train[step % 4 :: 4]
        loss = task.loss(network(inputs, every_step=True), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    inputs, targets = splits.test[:]
    assert task.metric(network(inputs, every_step=True), targets) < 0.8 * task.baseline().metric


@pytest.mark.parametrize("options", [{"length": 7}, {"sizes": (1, 1, 0)}, {"seed": -1}])
def test_an_option_that_makes_no_sense_is_refused(options):
    with pytest.raises(OptionError, match=r"SyntheticSpeech|seed"):
        SyntheticSpeech(**options)
