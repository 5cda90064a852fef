"""OML's datasets of sounds: what an item holds, where it begins, how it is shown and what is refused."""

import wave

import numpy as np
import pytest
import torch

from compat.oml import datasets as d
from core.errors import InputError

RATE = 1000


def write_sound(path, samples):
    """One channel of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((np.asarray(samples) * 32768).astype("<i2").tobytes())


@pytest.fixture
def folder(tmp_path):
    """long.wav of two seconds and short.wav of half a second, of values that 16 bits hold."""
    write_sound(tmp_path / "long.wav", np.arange(2 * RATE) / 4096)
    write_sound(tmp_path / "short.wav", np.arange(RATE // 2) / 4096)
    return tmp_path


def table(**columns):
    pandas = pytest.importorskip("pandas")
    rows = {"label": [0, 1], "path": ["long.wav", "short.wav"], "split": ["train"] * 2}
    return pandas.DataFrame({**rows, **columns})


def test_items_are_samples_of_one_length_from_their_start_on(folder, record_property):
    data = d.AudioLabeledDataset(
        table(start_time=[0.5, np.nan]), dataset_root=folder, sample_rate=RATE, max_num_seconds=1.0
    )
    long, short = data[0], data[1]
    ramp = torch.arange(2 * RATE) / 4096
    assert torch.equal(long["input_tensors"], ramp[None, 500:1500]) and long["labels"] == 0
    # What is missing is silence in front.
    assert torch.equal(short["input_tensors"], torch.cat([torch.zeros(500), ramp[:500]])[None])
    record_property("samples equal to the bit", long["input_tensors"].numel() + short["input_tensors"].numel())


def test_without_a_length_items_are_whole_and_another_rate_has_as_many_samples(folder):
    data = d.AudioBaseDataset(["long.wav", "short.wav"], folder, sample_rate=2 * RATE, max_num_seconds=None)
    assert [data[item]["input_tensors"].shape for item in range(2)] == [(1, 4 * RATE), (1, RATE)]


def test_queries_and_galleries_of_sounds_and_how_they_are_shown(folder):
    df = table(split=["validation"] * 2, is_query=[True] * 2, is_gallery=[True] * 2)
    data = d.AudioQueryGalleryLabeledDataset(df, dataset_root=folder, sample_rate=RATE)
    assert data.get_query_ids().tolist() == [0, 1] and data.visualize(0).shape == (224, 224, 3)
    block = data.visualize_as_html(1, title="a < b", color=(255, 0, 0))
    assert "a &lt; b" in block and "data:image/png;base64," in block and 'audio controls src="data:audio/' in block
    unlabelled = d.AudioQueryGalleryDataset(df.drop(columns="label"), dataset_root=folder, sample_rate=RATE)
    assert unlabelled[1]["input_tensors"].shape == (1, 3 * RATE)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"start_times": [0.0]}, "1 start time for 2 sounds"),
        ({"sample_rate": 0}, "sample_rate=0 is not above 0"),
        ({"max_num_seconds": 0}, "max_num_seconds=0 is not above 0"),
        ({"convert_to_mono": False}, "convert_to_mono=False has no counterpart"),
        ({"paths": ["a.wav", "b.txt"]}, "b.txt' is no sound by its name; there are: .mp3"),
    ],
)
def test_what_is_refused_of_sounds(options, sentence, folder):
    options = {"paths": ["long.wav", "short.wav"], **options}
    with pytest.raises(InputError) as caught:
        d.AudioBaseDataset(dataset_root=folder, **options)
    assert sentence in str(caught.value) and isinstance(caught.value, AssertionError)


def test_a_start_behind_the_end_is_refused(folder):
    data = d.AudioBaseDataset(["short.wav"], folder, start_times=[0.6], sample_rate=RATE)
    with pytest.raises(InputError, match="start_time 0.6 is behind the end"):
        data[0]


def test_results_of_sounds_as_a_page(folder):
    from compat.oml.retrieval import RetrievalResults

    df = table(split=["validation"] * 2, is_query=[True] * 2, is_gallery=[True] * 2)
    data = d.AudioQueryGalleryLabeledDataset(df, dataset_root=folder, sample_rate=RATE)
    results = RetrievalResults.from_embeddings(torch.eye(2), data, n_items=2)
    page = results.visualize_as_html([0, 1], data)
    # A query and the one other sound, which is a wrong one, twice.
    assert page.count("<audio") == 4 and page.count("Query #") == 2 and "Gallery #1 - 1.414" in page
    with pytest.raises(AssertionError, match="has no visualize_as_html"):
        results.visualize_as_html([0], table())


def test_a_spectrogram_of_ones_own_shows_a_sound(folder):
    from compat.oml.utils.audios import default_spec_repr_func, visualize_audio_with_player

    data = d.AudioBaseDataset(
        ["long.wav"], folder, sample_rate=RATE, max_num_seconds=4.0, spec_repr_func=default_spec_repr_func
    )
    own = data.visualize(0, color=(255, 0, 0))
    assert own.shape == (224, 224, 3) and (own[0] == (255, 0, 0)).all()
    audio = data.get_audio(0)
    spectrogram = default_spec_repr_func(audio)
    assert spectrogram.shape == (128, 1 + audio.shape[1] // 512)
    assert "<audio" in visualize_audio_with_player(audio, spectrogram, RATE, "long")
