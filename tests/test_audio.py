"""Sounds from a list to an embedding: files, rates, windows, mel bands, padding, the scripts as a user runs them, what
cannot be."""

import io
import json
import math
import os
import shutil
import wave

import numpy as np
import pytest
import torch
from reports import data_of
from runs import read_json, run, train_flags

from core.errors import InputError
from core.items import clip_item, file_of, modality_of, start_of
from data import build_stamps
from data.audio import files, player
from data.audio.augmentations import AUGMENTATIONS, augmentation_functions
from data.audio.files import Sound, check_clip, read_sound
from data.audio.modality import PADDING, AudioModality
from data.audio.picture import COLOURS, SIDE, draw_sound_picture
from data.audio.player import encode_clips
from data.audio.resample import BETA, ROLLOFF, ZEROS, Resampler
from data.formats.folders import find_files
from data.lists import open_list, read_list
from data.loader import open_loader
from data.records import Records
from data.samplers import Sample
from models import Embedder
from models.backbones import BACKBONES
from models.backbones.resemblyzer import VoiceEncoder, VoiceFront
from models.log_mel import Mel, hz_to_mel, mel_filters, mel_to_hz

RATE = 8000
LABELS = (220, 330, 440, 550, 660, 770, 880, 990)  # Hz


def tone(hz, seconds, rate=RATE, phase=0.0):
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate + phase)


def write_wav(path, channels, rate=RATE, width=2):
    """channels: samples (n,) or (n, channels) from -1 to 1."""
    channels = np.asarray(channels)
    if channels.ndim == 1:
        channels = channels[:, None]
    numbers = np.round(channels * (2 ** (8 * width - 1) - 1)).astype(np.int64)
    if width == 1:
        raw = (numbers + 128).astype(np.uint8).tobytes()
    else:
        raw = b"".join(int(number).to_bytes(width, "little", signed=True) for number in numbers.reshape(-1))
        if width == 2:
            raw = numbers.astype("<i2").tobytes()
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)
    return path


@pytest.fixture(scope="session")
def sounds(tmp_path_factory):
    """A csv of 8 tones, 4 clips each of other lengths, levels and phases, half of them to train with. Read only."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    rows = ["label,path,split,is_query,is_gallery,start_time"]
    for number, hz in enumerate(LABELS):
        split = "train,,," if number < len(LABELS) // 2 else "validation,True,True,"
        for take in range(4):
            seconds = rng.uniform(0.2, 0.9)
            wave_of = tone(hz, seconds, phase=rng.uniform(0, 6)) * rng.uniform(0.3, 1)
            write_wav(folder / f"{hz}_{take}.wav", wave_of + rng.normal(0, 0.01, len(wave_of)))
            rows.append(f"{hz} Hz,{hz}_{take}.wav,{split}" + ("0.05" if take == 3 else ""))
    (folder / "tones.csv").write_text("\n".join(rows) + "\n")
    return folder / "tones.csv"


def sound_flags(sounds, folder, **flags):
    lists = {"data_dir": None, "train_list": sounds, "test_list": sounds}
    common = {"model": "LogMelConv", "clip_seconds": 0.5, "image_shape": None}
    return train_flags(None, folder, **{**lists, **common, **flags})


@pytest.fixture(scope="module")
def sound_run(sounds, tmp_path_factory):
    """The folder of a run of three steps. Read only."""
    folder = tmp_path_factory.mktemp("run") / "tones"
    run("train_pair", sound_flags(sounds, folder, loss_name="triplet", report=True, augment_sounds="gain,bands"))
    return folder


def without_soundfile(monkeypatch):
    monkeypatch.setattr(files, "soundfile", lambda: None)
    monkeypatch.setattr(player, "soundfile", lambda: None)


# Lists.


def test_a_clip_is_its_file_and_where_it_starts():
    assert clip_item("a/b.wav", 12.5) == "a/b.wav#t=12.5" and clip_item("b.ogg", 0.0) == "b.ogg"
    assert clip_item("b.FLAC", 1 / 3) == "b.FLAC#t=0.333333" and clip_item("b.wav", 1e6) == "b.wav#t=1000000"
    assert file_of("a/b.wav#t=12.5") == "a/b.wav" and start_of("a/b.wav#t=12.5") == 12.5
    assert modality_of("a/b.Wav#t=12.5") == modality_of("b.ogg") == "audio"
    # An image, a text and a folder may well be called so.
    for path in ("c.jpg#t=3", "text:a.wav#t=3", "a.wav#t=x", "#t=3"):
        assert file_of(path) == path and start_of(path) is None


def test_start_times_stand_behind_paths(sounds):
    records = open_list(sounds, None, "train")
    assert len(records) == 16 and records.noun == "clip" and records.modalities == {"audio"}
    assert records.paths[0] == str(sounds.parent / "220_0.wav")
    assert records.paths[3] == str(sounds.parent / "220_3.wav#t=0.05")


def faults_of(folder, *rows):
    (folder / "list.csv").write_text("\n".join(rows) + "\n")
    _, sentences = read_list(folder / "list.csv", None, "train")
    return [sentence.partition("list.csv:")[2] for sentence in sentences]


def test_what_is_wrong_with_start_times_is_said_by_line(tmp_path):
    write_wav(tmp_path / "a.wav", tone(440, 0.1))
    header = "label,path,split,start_time"
    rows = ["1,a.wav,train,-1", "1,a.wav,train,soon", "1,a.wav#t=1,train,2", "1,b.wav,train,", "1,a.wav,train,nan"]
    assert faults_of(tmp_path, header, *rows) == [
        "2: start_time is '-1', expected seconds of 0 or more",
        "3: start_time is 'soon', expected seconds of 0 or more",
        "4: the path 'a.wav#t=1' says where it starts, and so does start_time",
        f"5: no clip {str(tmp_path / 'b.wav')!r}",
    ]
    # A start behind the end shows when files are looked at, before any work begins.
    (tmp_path / "list.csv").write_text(f"{header}\n1,a.wav,validation,0.05\n1,a.wav,validation,0.2\n")
    said = sentence("eval", ["--model=LogMelConv", f"--test_list={tmp_path / 'list.csv'}"])
    first, way_out = said.splitlines()
    assert first == (
        f"{tmp_path / 'list.csv'}:3: start_time 0.2 is behind the end of clip {str(tmp_path / 'a.wav')!r}, "
        "which is 0.100 seconds long"
    )
    assert way_out.startswith("a list without such: ") and "--data_dir" not in way_out  # its paths start where it lies


def test_clips_of_one_file_are_several(tmp_path):
    write_wav(tmp_path / "a.wav", tone(440, 1.0))
    rows = ["label,path,split,start_time", "1,a.wav,validation,0.25", "2,a.wav,validation,", "1,a.wav,validation,0.250"]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    records = open_list(tmp_path / "list.csv", None, "test")
    assert [start_of(path) for path in records.paths] == [0.25, None]
    assert records.notes[0].endswith("1 row (line 4) names a clip that a row before names, too; each clip counts once")


def test_a_folder_is_of_what_it_has_more_of(tmp_path, sop_tree):
    for number in range(3):
        write_wav(tmp_path / f"{number}.wav", tone(440, 0.1))
    picture = next(sop_tree.glob("*/*.jpg")).read_bytes()
    (tmp_path / "cover.jpg").write_bytes(picture)
    paths, note = find_files(tmp_path)
    assert [os.path.basename(path) for path in paths] == ["0.wav", "1.wav", "2.wav"]
    assert note.endswith("1 image among sounds (cover.jpg)")
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(picture)
    paths, note = find_files(tmp_path)
    assert len(paths) == 4 and "3 files that are no JPEG" in note


# Files.


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_both_readers_read_the_same_numbers(tmp_path, monkeypatch, width):
    rng = np.random.default_rng(width)
    wanted = rng.uniform(-1, 1, (1000, 2))
    path = write_wav(tmp_path / "a.wav", wanted, width=width)
    pytest.importorskip("soundfile")
    theirs, rate = read_sound(path)
    without_soundfile(monkeypatch)
    ours, _ = read_sound(path)
    assert rate == RATE and np.array_equal(ours, theirs) and ours.dtype == np.float32
    # Mono is the mean over channels: an integer lies within half a step of what it was made of, or a whole at the ends.
    assert np.abs(ours - wanted.mean(1)).max() <= 2.0 ** (2 - 8 * width) + 2**-23


def test_formats_and_parts_of_a_file(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples = np.stack([tone(300, 1.0), tone(500, 1.0), tone(700, 1.0)], axis=1)
    for name in ("a.wav", "a.flac", "a.ogg"):
        soundfile.write(tmp_path / name, samples, RATE)
        whole, rate = read_sound(tmp_path / name)
        part, _ = read_sound(tmp_path / name, 0.25, 0.5)
        assert rate == RATE and len(whole) == RATE and np.allclose(part, whole[2000:6000], atol=1e-4)
        # A step of sixteen bits; Vorbis keeps what is heard.
        assert np.abs(whole - samples.mean(1)).max() <= (0.1 if name == "a.ogg" else 2**-14)


def test_a_long_file_is_not_read_as_a_whole(tmp_path, monkeypatch):
    write_wav(tmp_path / "hour.wav", np.zeros(RATE * 60))
    asked = []
    read = Sound.read
    monkeypatch.setattr(
        Sound, "read", lambda self, start, count: asked.append((start, count)) or read(self, start, count)
    )
    modality = AudioModality(16_000, 0.5)
    records = records_of(f"{tmp_path / 'hour.wav'}#t=30")
    clip = modality.augment(modality.load(records, 0), 0)
    reach = math.ceil(ZEROS / ROLLOFF)
    assert len(clip) == 8000 and asked == [(30 * RATE - reach + 1, 4000 + 2 * reach - 1)]


def broken_files(folder):
    """{name: (bytes, what is said of it)}."""
    good = write_wav(folder / "good.wav", tone(440, 0.1)).read_bytes()
    silent = bytearray(good[:44])
    silent[4:8] = (36).to_bytes(4, "little")
    silent[40:44] = bytes(4)
    no_channels = bytearray(good)
    no_channels[22:24] = bytes(2)
    return {
        "text.wav": (b"this is a text, and no sound at all", "is no sound that can be read"),
        "nothing.wav": (b"", "is no sound that can be read"),
        "header.wav": (good[:20], "is cut off|is no sound|lost its end"),
        "channels.wav": (bytes(no_channels), "is no sound that can be read|has 0 channels"),
        "silent.wav": (bytes(silent), "has no samples"),
        "cut.wav": (good[:200], "has lost its end: the file is shorter than its header says"),
    }


@pytest.mark.parametrize("has_soundfile", [True, False])
def test_broken_files_are_a_sentence_each(tmp_path, monkeypatch, has_soundfile):
    if has_soundfile:
        pytest.importorskip("soundfile")
    else:
        without_soundfile(monkeypatch)
    for name, (content, said) in broken_files(tmp_path).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"^clip '{tmp_path / name}' .*({said})") as error:
            check_clip(str(tmp_path / name))
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="^cannot read clip '.*none.wav': No such file"):
        read_sound(tmp_path / "none.wav")


def test_formats_that_take_a_package(tmp_path, monkeypatch):
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    without_soundfile(monkeypatch)
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(InputError, match="a.flac' needs the package soundfile: pip install -r requirements/audio.txt"):
        read_sound(tmp_path / "a.flac")


def test_samples_that_are_no_numbers(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    samples = tone(440, 0.1)
    samples[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", samples, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match="nan.wav' has samples that are NaN or infinite"):
        read_sound(tmp_path / "nan.wav")
    (tmp_path / "junk.flac").write_bytes(b"fLaC" + bytes(60))
    with pytest.raises(InputError, match="junk.flac' is no sound that can be read"):
        read_sound(tmp_path / "junk.flac")


# Rates.


def naive_resample(samples, source, target, count):
    """The formula of resample.py as it stands there, term by term in float64."""
    band = ROLLOFF * min(1, target / source)
    output = np.zeros(count)
    for number in range(count):
        distances = number * source / target - np.arange(-2000, len(samples) + 2000)
        inside = np.abs(distances) <= ZEROS / band
        near = distances[inside]
        window = np.i0(BETA * np.sqrt(np.maximum(0, 1 - (band * near / ZEROS) ** 2))) / np.i0(BETA)
        taps = band * np.sinc(band * near) * window
        padded = np.concatenate([np.zeros(2000), samples, np.zeros(2000)])
        output[number] = taps @ padded[inside] / taps.sum()
    return output


@pytest.mark.parametrize("source, target", [(44_100, 16_000), (8_000, 16_000), (48_000, 16_000), (16_000, 11_025)])
def test_resampled_as_the_formula_says(source, target):
    samples = np.random.default_rng(0).normal(size=300).astype(np.float32)
    resampler = Resampler(source, target)
    count = resampler.length(300)
    assert count == math.ceil(300 * target / source)
    start, stop = resampler.span(0, count)
    padded = np.pad(samples, (-start, stop - 300))
    wanted = naive_resample(samples, source, target, count)
    assert np.abs(resampler.resample(padded, 0, count) - wanted).max() < 2e-5


def test_tones_below_the_band_stay_and_those_above_go():
    for hz, gain in ((100, 1), (3000, 1), (6500, 1), (8500, 0), (15_000, 0)):
        resampler = Resampler(44_100, 16_000)
        start, stop = resampler.span(4000, 8000)
        there = 2 * tone(hz, 1.0, 44_100)[start:stop].astype(np.float32)
        wanted = gain * 2 * tone(hz, 1.0, 16_000)[4000:12_000]
        assert np.abs(resampler.resample(there, 4000, 8000) - wanted).max() < 5e-4, hz


def test_resampled_as_scipy_does():
    signal = pytest.importorskip("scipy.signal")
    samples = sum(tone(hz, 0.5, 44_100) for hz in (200, 1234, 5000)).astype(np.float32)
    resampler = Resampler(44_100, 16_000)
    count = resampler.length(len(samples))
    start, stop = resampler.span(0, count)
    ours = resampler.resample(np.pad(samples, (-start, stop - len(samples))), 0, count)
    theirs = signal.resample_poly(samples.astype(np.float64), 160, 441, window=("kaiser", 9.0))[:count]
    assert np.abs(ours - theirs)[500:-500].max() < 5e-3


def test_the_same_rate_is_left_as_it_is(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(440, 0.3, 16_000), 16_000)
    modality = AudioModality(16_000, 3.0)
    clip = modality.augment(modality.load(records_of(path), 0), 0)
    assert np.array_equal(clip.numpy(), read_sound(path)[0])


# Windows.


def records_of(*paths):
    return Records.of_columns("list", {"paths": [str(path) for path in paths], "labels": list(range(len(paths)))})


def test_windows(tmp_path):
    ramp = np.arange(24_000) / 24_000
    path = write_wav(tmp_path / "ramp.wav", ramp, 8000)
    whole = read_sound(path)[0]
    records = records_of(path, clip_item(str(path), 1.0), clip_item(str(path), 2.875))
    test = AudioModality(8000, 0.5)
    training = AudioModality(8000, 0.5, augment=("window",))
    beginning, started, short = (test.augment(test.load(records, row), 7) for row in range(3))
    assert np.array_equal(beginning, whole[:4000]) and np.array_equal(started, whole[8000:12_000])
    assert np.array_equal(short, whole[23_000:])

    drawn = [training.augment(training.load(records, 0), seed) for seed in range(40)]
    firsts = [int(np.flatnonzero(whole == clip[0].item())[0]) for clip in drawn]
    assert all(np.array_equal(clip, whole[first : first + 4000]) for clip, first in zip(drawn, firsts))
    assert min(firsts) < 3000 and max(firsts) > 17_000 and max(firsts) <= 20_000
    assert torch.equal(drawn[3], training.augment(training.load(records, 0), 3)), "it follows from the seed"
    # What a row's label says is of the part that it names.
    assert np.array_equal(training.augment(training.load(records, 1), 5), whole[8000:12_000])


def test_a_part_is_what_it_is_in_the_whole(tmp_path):
    rng = np.random.default_rng(1)
    path = write_wav(tmp_path / "noise.wav", rng.uniform(-1, 1, 44_100), 44_100)
    whole = AudioModality(16_000, 3.0)
    part = AudioModality(16_000, 0.25)
    everything = whole.augment(whole.load(records_of(path), 0), 0)
    assert len(everything) == 16_000
    started = part.augment(part.load(records_of(f"{path}#t=0.5"), 0), 0)
    torch.testing.assert_close(started, everything[8000:12_000], rtol=0, atol=1e-6)


def test_batches_are_padded_behind_the_end():
    modality = AudioModality(8000, 1.0)
    rows = [torch.ones(5), torch.ones(3)]
    batch = modality.collate(rows)
    assert batch.shape == (2, 5) and math.isnan(PADDING)
    assert batch[1].isnan().tolist() == [False] * 3 + [True] * 2
    filled = AudioModality(8000, 0.001, fills=True).collate(rows)
    assert filled.shape == (2, 8) and filled[0].isnan().sum() == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_is_drawn_does_not_ask_who_loads(sounds, num_workers):
    records = open_list(sounds, None, "train")
    modality = AudioModality(16_000, 0.3, augment=tuple(AUGMENTATIONS))
    batches = [[Sample(row, 10 + row) for row in rows] for rows in ((0, 5), (3, 9), (7, 2))]
    loaded = [batch for batch, _, _ in open_loader(records, modality, batches, num_workers)]
    for rows, batch in zip(batches, loaded):
        wanted = modality.collate([modality.augment(modality.load(records, row.index), row.seed) for row in rows])
        assert torch.equal(batch.nan_to_num(9), wanted.nan_to_num(9))


def test_augmentations_do_what_they_say():
    samples = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    changed = {}
    for name in ("gain", "noise", "silence", "bands"):
        (function,) = augmentation_functions([name])
        changed[name] = [function(samples, 16_000, np.random.default_rng(seed)) for seed in range(20)]
        for again, other in zip(changed[name], range(20)):
            assert again.shape == samples.shape and again.dtype == np.float32
            assert np.array_equal(again, function(samples, 16_000, np.random.default_rng(other)))
    factors = np.array([other[0] / samples[0] for other in changed["gain"]])
    assert 0.5 < factors.min() < 0.8 and 1.3 < factors.max() < 2
    assert 3 <= sum(np.array_equal(other, samples) for other in changed["noise"]) <= 17
    shares = [(other == 0).mean() for other in changed["silence"]]
    assert 0 < max(shares) <= 0.2
    powers = [np.square(other).sum() / np.square(samples).sum() for other in changed["bands"]]
    assert all(0.4 < power < 1 for power in powers)
    assert augmentation_functions(["window"]) == []


# Mel bands.


def naive_log_mel(samples, rate, size, width, hop, bands):
    """Log-mel by loops in float64: Hann's window in the middle of `size`, a Fourier sum, triangles on HTK's scale."""
    samples = np.concatenate([np.zeros(size // 2), samples, np.zeros(size // 2)])
    window = np.zeros(size)
    window[(size - width) // 2 : (size - width) // 2 + width] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(width) / width)
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = [700 * (10 ** (top * place / (bands + 1) / 2595) - 1) for place in range(bands + 2)]
    wave_numbers = np.exp(-2j * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size)
    rows = []
    for start in range(0, len(samples) - size + 1, hop):
        power = np.abs(wave_numbers @ (window * samples[start : start + size])) ** 2
        row = []
        for low, middle, high in zip(edges, edges[1:], edges[2:]):
            total = 0.0
            for number, value in enumerate(power):
                hz = number * rate / size
                total += value * max(0, min((hz - low) / (middle - low), (high - hz) / (high - middle)))
            row.append(math.log(total + 1e-6))
        rows.append(row)
    return np.array(rows)


def test_log_mel_as_the_formula_says():
    samples = np.random.default_rng(0).normal(0, 0.2, 1000)
    mel = Mel(8000, size=256, width=200, hop=80, bands=20)
    ours = mel(torch.from_numpy(samples).float()[None])[0]
    wanted = naive_log_mel(samples, 8000, 256, 200, 80, 20)
    assert ours.shape == wanted.shape == (13, 20)
    assert np.abs(ours.numpy() - wanted).max() < 1e-4


def test_mel_scales():
    for scale in ("htk", "slaney"):
        hz = torch.tensor([0.0, 200, 999, 1000, 1001, 4000, 8000])
        torch.testing.assert_close(mel_to_hz(hz_to_mel(hz, scale), scale), hz.double(), rtol=1e-9, atol=1e-9)
    assert hz_to_mel(torch.tensor(1000.0), "htk").item() == pytest.approx(1000, abs=0.02)
    assert hz_to_mel(torch.tensor([1000.0, 6400.0]), "slaney").tolist() == pytest.approx([15, 42])


@pytest.mark.parametrize("scale, is_even", [("htk", False), ("slaney", True)])
def test_filters_are_those_of_others(scale, is_even):
    ours = mel_filters(16_000, 512, 40, scale, is_even=is_even)
    try:
        from transformers.audio_utils import mel_filter_bank
    except ImportError:
        pytest.skip("transformers is not installed")
    norm = "slaney" if is_even else None
    theirs = mel_filter_bank(257, 40, 0.0, 8000.0, 16_000, norm=norm, mel_scale=scale)
    assert np.abs(ours.numpy() - theirs).max() < 1e-6


def test_mel_bands_as_torchaudio_has_them():
    torchaudio = pytest.importorskip("torchaudio")
    waves = torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    theirs = torchaudio.transforms.MelSpectrogram(16_000, 512, 400, 160, n_mels=64, pad_mode="constant")(waves)
    ours = Mel(16_000, 512, 400, 160, 64)(waves)
    assert (ours - (theirs + 1e-6).log().transpose(1, 2)).abs().max() < 1e-3


# Networks.


def clips_of(*lengths):
    generator = torch.Generator().manual_seed(0)
    return [0.1 * torch.randn(length, generator=generator) for length in lengths]


def assert_padding_changes_nothing(model, clips, modality, bound=1e-5):
    """Embeddings of a batch against those of each clip alone, relative to the largest number."""
    model = model.eval()
    with torch.no_grad():
        batch = model(modality.collate(clips))
        for number, clip in enumerate(clips):
            alone = model(modality.collate([clip]))[0]
            assert (batch[number] - alone).abs().max() <= bound * alone.abs().max(), number


def settle(model, clips, modality):
    """BatchNorm's statistics of some clips, so that silence behind a clip is not what they expect."""
    model.train()
    for _ in range(20):
        model(modality.collate(clips))
    return model


@pytest.mark.parametrize("pooling", ["avg", "max", "gem", "avg+max", "attention"])
def test_padding_changes_no_embedding(pooling):
    torch.manual_seed(0)
    modality = AudioModality(16_000, 3.0)
    clips = clips_of(16_000, 161, 5000, 1, 12_345)
    model = settle(Embedder("LogMelConv", 8, pooling), clips, modality)
    assert_padding_changes_nothing(model, clips, modality)


def test_how_loud_a_clip_is_hardly_counts():
    torch.manual_seed(0)
    model = Embedder("LogMelConv").eval()
    (clip,) = clips_of(16_000)
    loud, soft = (torch.nn.functional.normalize(model((factor * clip)[None])) for factor in (1, 0.1))
    assert (loud * soft).sum() > 0.999


def test_silence_has_an_embedding():
    for name in ("LogMelConv", "Resemblyzer", "ecapa_tdnn_taoruijie"):
        torch.manual_seed(0)
        model = Embedder(name).eval()
        assert torch.isfinite(model(torch.zeros(2, 16_000))).all()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_half_types_are_near(precision):
    from models import fast_model

    torch.manual_seed(0)
    model = Embedder("LogMelConv").eval()
    fast = fast_model(model, {torch.bfloat16: "bf16", torch.float16: "fp16"}[precision], "torch", (3, 8, 8))
    batch = AudioModality(16_000, 3.0).collate(clips_of(16_000, 4000))
    with torch.no_grad():
        cosine = torch.cosine_similarity(model(batch), fast(batch))
    assert cosine.min() > 0.999


def test_the_voice_encoder_takes_windows():
    torch.manual_seed(0)
    net = VoiceEncoder().eval()
    front = VoiceFront()
    clips = clips_of(40_000, 9000, 25_600)
    with torch.no_grad():
        batch = net(front(AudioModality(16_000, 3.0).collate(clips)))
        for number, clip in enumerate(clips):
            mels = front(clip[None])[0]
            starts = [0]
            while starts[-1] + 77 <= len(mels) - 83:
                starts.append(starts[-1] + 77)
            if len(starts) > 1 and (len(clip) / 160 - starts[-1]) / 160 < 0.75:
                starts.pop()
            vectors = []
            for start in starts:
                window = mels[start : start + 160]
                window = torch.nn.functional.pad(window, (0, 0, 0, 160 - len(window)))
                vector = net.linear(net.lstm(window[None])[1][0][-1]).relu()
                vectors.append(vector / vector.norm())
            torch.testing.assert_close(batch[number], torch.cat(vectors).mean(0), rtol=1e-4, atol=1e-6)
    # Soft clips are raised to one loudness, loud ones stay.
    soft, softer, loud = front(torch.stack([clips[1] * 0.1, clips[1] * 0.02, clips[1] * 3])).nan_to_num()
    torch.testing.assert_close(soft, softer, rtol=1e-3, atol=1e-6)
    assert loud.sum() > 5 * soft.sum()


def test_weights_of_the_voice_encoder(tmp_path, monkeypatch):
    """A file of the package's names and shapes."""
    import importlib.util

    package = tmp_path / "resemblyzer"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('it is not imported')\n")
    torch.manual_seed(0)
    state = VoiceEncoder().state_dict()
    scale = {"similarity_weight": torch.ones(1), "similarity_bias": torch.ones(1)}
    torch.save({"step": 1, "model_state": {**scale, **state}}, package / "pretrained.pt")
    with monkeypatch.context() as patched:
        patched.syspath_prepend(str(tmp_path))
        importlib.invalidate_caches()
        model = Embedder("Resemblyzer", weights="published")
        assert torch.equal(model.backbone.linear.weight, state["linear.weight"])
        torch.save({"model_state": {**state, "linear.bias": torch.ones(3)}}, package / "pretrained.pt")
        with pytest.raises(InputError, match=r"does not hold a Resemblyzer: 'linear.bias' is \(256,\), got \(3,\)"):
            Embedder("Resemblyzer", weights="published")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="need the package of this name: pip install --no-deps Resemblyzer"):
        Embedder("Resemblyzer", weights="published")


# The scripts.


def test_a_run_of_sounds(sound_run):
    config = read_json(sound_run / "config.json")
    assert config["flags"]["clip_seconds"] == 0.5 and config["lists"]["train"]["images"] == 16
    assert 0 <= read_json(sound_run / "result.json")["recall"]["1"] <= 1


def test_three_steps_and_three_more_are_six(sounds, tmp_path):
    flags = {"lr": 0.01, "lr_strategy": "constant", "train_batch_size": 6, "save_iter_step": 3, "val_classes": 2}
    flags |= {"test_list": None, "augment_sounds": "window,gain,noise,silence,bands"}
    run("train_elem", sound_flags(sounds, tmp_path / "six", total_iter_num=6, num_workers=1, **flags))
    run("train_elem", sound_flags(sounds, tmp_path / "three", total_iter_num=3, **flags))
    run("train_elem", [f"--checkpoint={tmp_path / 'three'}", "--total_iter_num=6", "--allow_changed=total_iter_num"])
    states = [torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("six", "three")]
    for name, tensor in states[0]["model"].items():
        assert torch.equal(tensor, states[1]["model"][name]), name


def test_evaluated_with_players_in_the_report(sound_run, tmp_path, monkeypatch):
    page, picture = tmp_path / "page.html", tmp_path / "picture.png"
    written = [f"--report={page}", f"--picture={picture}", f"--save_results={tmp_path / 'found.json'}"]
    said = run("eval", [f"--pretrained_model={sound_run}", *written, "--num_workers=0", "--use_gpu=False"])
    assert "16 clips, 16 queries, 16 in the gallery" in said and picture.stat().st_size > 5000
    data = data_of(page)
    assert ["clips", "16"] in data["facts"]
    item = data["items"][0]
    assert item["image"].startswith("data:image/webp") and item["sound"].startswith("data:audio/")
    assert "media-src data:" in page.read_text() and 'make("audio"' in page.read_text()


def test_embedded_found_and_deleted(sounds, sound_run, tmp_path):
    common = ["--num_workers=0", "--use_gpu=False"]
    clips = [f"{sounds.parent / '220_0.wav'}", f"{sounds.parent / '220_1.wav'}#t=0.1"]
    model = [f"--pretrained_model={sound_run}", *common]
    said = run("infer", [*model, "--input", *clips, f"--output={tmp_path / 'two.npz'}"])
    assert said.splitlines()[-1].startswith("2 clips, 256 numbers each")
    assert np.load(tmp_path / "two.npz")["paths"].tolist() == clips

    index = tmp_path / "tones.index"
    assert "32 clips in" in run("search", ["build", index, *model, "--input", sounds])
    hits = tmp_path / "hits.json"
    asked = f"{sounds.parent / '440_3.wav'}#t=0.05"
    run("search", ["find", index, "--input", asked, "--k=3", *common, "--output", hits, tmp_path / "hits.png"])
    (answer,) = json.loads(hits.read_text())
    assert answer["query"] == answer["hits"][0]["path"] == asked
    assert answer["hits"][0]["score"] == pytest.approx(1, abs=1e-4)
    said = run("search", ["delete", index, "--input", asked])
    assert said.startswith("1 clip") and "31" in said
    # A folder of sounds, as of images.
    assert "32 clips, 256 numbers each" in run("infer", [*model, "--input", sounds.parent])


def test_a_list_given_as_features(sounds, sound_run, tmp_path):
    common = [f"--pretrained_model={sound_run}", "--num_workers=0", "--use_gpu=False"]
    rows = [f"{path.stem.split('_')[0]},{path.name},validation" for path in sorted(sounds.parent.glob("*.wav"))]
    everything = tmp_path / "all.csv"
    everything.write_text("\n".join(["label,path,split", *rows]) + "\n")
    run("infer", [*common, f"--data_dir={sounds.parent}", f"--input={everything}", f"--output={tmp_path / 'all.npz'}"])
    line = {"features": tmp_path / "all.npz", "val_classes": 3, "pretrained_model": sound_run, "embedding_size": 8}
    flags = {"train_list": None, "test_list": None, "model": None, "clip_seconds": None, **line}
    run("train_pair", sound_flags(None, tmp_path / "head", loss_name="supcon", train_batch_size=8, **flags))
    said = run("eval", [f"--pretrained_model={tmp_path / 'head'}", f"--test_list={sounds}", "--num_workers=0"])
    assert "16 clips" in said


def test_a_list_of_sounds_is_checked(sounds, tmp_path, capsys):
    import reader

    (tmp_path / "list.csv").write_text("label,path,split\n1,a.wav,train\n2,b.wav,train\n")
    write_wav(tmp_path / "a.wav", tone(440, 0.5))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    assert reader.check([str(tmp_path / "list.csv")], None) == 1
    printed = capsys.readouterr().out
    assert (
        "length: 0.50 to 0.50 seconds" in printed and f"list.csv:3: clip '{tmp_path / 'b.wav'}' is no sound" in printed
    )
    assert reader.check([str(sounds)], None) == 0


def test_a_row_that_cannot_be_read_is_skipped(sounds, sound_run, tmp_path):
    write_wav(tmp_path / "a.wav", tone(440, 0.5))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    line = [f"--pretrained_model={sound_run}", "--num_workers=0", "--use_gpu=False", "--input", tmp_path]
    assert "is no sound that can be read" in sentence("infer", [*line, "--on_bad_image=stop"])
    # Of a folder, whose files nobody named one by one, the others are embedded.
    assert "1 of 2 clips could not be read and is left out" in run("infer", line)


def test_sounds_are_drawn(tmp_path):
    low = draw_sound_picture(write_wav(tmp_path / "low.wav", tone(200, 1.0)))
    high = draw_sound_picture(write_wav(tmp_path / "high.wav", tone(3500, 1.0)))
    assert low.shape == high.shape == (SIDE, SIDE, 3) and low.dtype == np.uint8
    assert low[SIDE // 2 :].sum() > 1.1 * low[: SIDE // 2].sum()
    assert high[: SIDE // 2].sum() > 1.1 * high[SIDE // 2 :].sum()
    silent = draw_sound_picture(write_wav(tmp_path / "silent.wav", np.zeros(3)))
    assert (silent == COLOURS[0]).all()


@pytest.mark.parametrize("has_soundfile", [True, False])
def test_players_have_room(sounds, monkeypatch, has_soundfile):
    if not has_soundfile:
        without_soundfile(monkeypatch)
    clips = open_list(sounds, None, "train").paths
    whole, less = encode_clips(clips, 10**9), encode_clips(clips, 10_000)
    assert len(whole) == len(less) == 16 and sum(map(len, less)) < sum(map(len, whole))
    if not has_soundfile:
        import base64

        with wave.open(io.BytesIO(base64.b64decode(whole[3].partition(",")[2]))) as file:
            assert file.getframerate() == 16_000 and file.getnchannels() == 1


def test_spoken_stamps_become_a_list(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build_stamps, "FEWEST", 3)
    monkeypatch.setattr(build_stamps, "MOST", 4)
    (tmp_path / "animals").mkdir()
    for language, count in (("_fr", 6), ("_en_GB", 3), ("_de", 2), ("", 5)):
        for number in range(count):
            write_wav(
                tmp_path / "animals" / f"{number}_desc{language}.wav", tone(200 + number, 0.01 * (1 + len(language)))
            )
    shutil.copy(tmp_path / "animals" / "0_desc_fr.wav", tmp_path / "animals" / "0_mirror_desc_fr.wav")
    write_wav(tmp_path / "animals" / "moo.wav", tone(100, 0.1))
    found = build_stamps.read_spoken(tmp_path)
    assert {language: len(paths) for language, paths in found.items()} == {"en": 4, "en_GB": 3, "fr": 4}
    assert "animals/0_mirror_desc_fr.wav" not in found["fr"]
    build_stamps.main([str(tmp_path), str(tmp_path / "list.csv"), "--sounds"])
    assert "clips of 1 languages to train with" in capsys.readouterr().out
    assert open_list(tmp_path / "list.csv", tmp_path, "test").noun == "clip"
    with pytest.raises(InputError, match="no 3 spoken names"):
        build_stamps.read_spoken(tmp_path / "nowhere")


# What cannot be.


def sentence(script, line):
    with pytest.raises(InputError) as error:
        run(script, line)
    return str(error.value)


def test_lists_of_another_modality(sounds, sop_tree, sound_run, tmp_path):
    said = sentence("eval", [f"--pretrained_model={sound_run}", f"--data_dir={sop_tree}", "--test_list=Ebay_test.txt"])
    assert "Ebay_test.txt:2: image '" in said and said.endswith("but the model takes sounds")
    said = sentence("infer", ["--model=ResNet18", "--image_shape=3,32,32", "--input", sounds])
    assert "tones.csv:2: clip '" in said and said.endswith("but the model takes images")
    said = sentence("infer", ["--model=LogMelConv", "--pooling=cls", "--input", sounds])
    assert "pooling is cls, but LogMelConv has no class token; avg, max, gem and attention take all tokens" in said
    said = sentence("infer", ["--model=LogMelConv", "--runtime=onnx", "--input", sounds])
    assert "--runtime=onnx takes networks for images, and LogMelConv is for audio" in said
    said = sentence("train_elem", sound_flags(sounds, tmp_path / "run", augment_sounds="gian"))
    assert "gian" in said and "gain" in said


def test_an_index_of_other_seconds_is_refused(sounds, sound_run, tmp_path):
    common = ["--num_workers=0", "--use_gpu=False"]
    model = [f"--pretrained_model={sound_run}", *common]
    run("search", ["build", tmp_path / "a.index", *model, "--input", sounds])
    said = sentence("search", ["find", tmp_path / "a.index", "--clip_seconds=0.2", "--input", sounds, *common])
    assert "clip_seconds" in said


# Networks of transformers.


def hf_folder(folder, kind):
    """A folder as transformers writes it: a network of two layers with random weights, and its feature extractor."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    if kind == "ast":
        extractor = transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=64)
        config = transformers.ASTConfig(
            **sizes, patch_size=8, frequency_stride=8, time_stride=8, max_length=64, num_mel_bins=16
        )
        net = transformers.ASTModel(config)
    elif kind == "whisper":
        extractor = transformers.WhisperFeatureExtractor(feature_size=16, chunk_length=1)
        layers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
        marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
        widths = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 8, "num_mel_bins": 16}
        net = transformers.WhisperModel(
            transformers.WhisperConfig(**layers, **marks, **widths, max_source_positions=50, max_target_positions=8)
        )
    else:
        convolutions = {"conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
        convolutions |= {
            "num_conv_pos_embeddings": 4,
            "num_conv_pos_embedding_groups": 2,
            "do_stable_layer_norm": kind == "layer",
        }
        extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=kind == "layer")
        classes = {
            "layer": ("Wav2Vec2Config", "Wav2Vec2Model"),
            "group": ("HubertConfig", "HubertModel"),
            "wavlm": ("WavLMConfig", "WavLMModel"),
        }
        norm = "group" if kind == "group" else "layer"
        config = getattr(transformers, classes[kind][0])(
            **sizes, **convolutions, feat_extract_norm=norm, conv_bias=True
        )
        net = getattr(transformers, classes[kind][1])(config)
    net.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["layer", "group", "wavlm", "ast", "whisper"])
def test_networks_of_transformers(tmp_path, kind):
    name = f"hf:{hf_folder(tmp_path, kind)}"
    row = BACKBONES[name](name)
    assert row.modality == "audio" and row.width == 16 and len(row.stages) >= 3 and row.preprocess.rate == 16_000
    assert row.preprocess.fills == (kind == "group")
    assert row.preprocess.seconds == {"ast": 0.64, "whisper": 1.0}.get(kind, 3.0)
    model = Embedder(name, weights="published").eval()
    modality = AudioModality(16_000, 0.2, row.preprocess.fills)
    clips = clips_of(3200, 700, 2000, 3)
    assert_padding_changes_nothing(model, clips, modality, 1e-4)

    # Against transformers itself, one clip that fills the input.
    import transformers

    extractor = transformers.AutoFeatureExtractor.from_pretrained(tmp_path)
    theirs = transformers.AutoModel.from_pretrained(tmp_path).eval()
    if kind == "whisper":
        theirs = theirs.get_encoder()
    with torch.no_grad():
        made = extractor(clips[0].numpy(), sampling_rate=16_000, return_tensors="pt")
        wanted = theirs(made[theirs.main_input_name]).last_hidden_state.mean(1)
        torch.testing.assert_close(model(clips[0][None]), wanted, rtol=1e-4, atol=1e-5)
    model.train()
    first, second = (model(modality.collate(clips)) for _ in range(2))
    assert torch.isfinite(first).all() and first.shape == second.shape


def test_a_transformer_is_trained_and_found_again(sounds, tmp_path):
    folder = hf_folder(tmp_path / "net", "layer")
    flags = {"model": f"hf:{folder}", "pretrained_model": "published", "freeze_stages": 1, "clip_seconds": 0.2}
    run("train_pair", sound_flags(sounds, tmp_path / "run", loss_name="triplet", **flags))
    said = run("eval", [f"--pretrained_model={tmp_path / 'run'}", "--num_workers=0", "--use_gpu=False"])
    assert "16 clips" in said
    (folder / "preprocessor_config.json").unlink()
    from models.backbones.hf_audio import audio_backbone
    from models.backbones.huggingface import hf_backbone

    audio_backbone.cache_clear()
    hf_backbone.cache_clear()
    said = sentence("infer", [f"--model=hf:{folder}", "--input", sounds, "--num_workers=0"])
    assert f"the folder '{folder}' has no feature extractor that can be read" in said
