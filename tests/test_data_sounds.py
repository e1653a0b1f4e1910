"""Spectrograms of sounds of two sample rates, as they were recorded and brought to one rate."""

import wave

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import cnnprobe


def make_bank(rate, rows=24, bins=129):
    """Triangles in mel, for spectra of so many bins up to half of the rate."""
    highest = 2595 * np.log10(1 + rate / 2 / 700)
    places = 700 * (10 ** (np.linspace(0, highest, rows + 2) / 2595) - 1)
    heard = np.linspace(0, rate / 2, bins)
    up = (heard - places[:-2, None]) / np.diff(places)[:-1, None]
    down = (places[2:, None] - heard) / np.diff(places)[1:, None]
    return torch.from_numpy(np.maximum(0, np.minimum(up, down))).float()


class Sounds(Dataset):
    """Three tones each, of 8,000 and of 16,000 Hz in turn."""

    def __init__(self, folder, *, one_rate=False, in_mel=False, from_top=False):
        random = np.random.default_rng(0)
        self.files, self._options = [], (one_rate, in_mel, from_top)
        for i in range(16):
            rate = (8000, 16000)[i % 2]
            places = np.arange(2 * rate) / rate
            tones = sum(np.sin(2 * np.pi * f * places) for f in random.uniform(200, 3500, 3))
            heard = 4000 * (tones + 0.1 * random.standard_normal(2 * rate))
            self.files.append(folder / f"{i}.wav")
            with wave.open(str(self.files[-1]), "wb") as sound:
                sound.setparams((1, 2, rate, 0, "NONE", ""))
                sound.writeframes(heard.astype("<i2").tobytes())

    def __len__(self):
        return len(self.files)

    def __getitem__(self, i):
        one_rate, in_mel, from_top = self._options
        with wave.open(str(self.files[i])) as sound:
            rate = sound.getframerate()
            heard = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
        heard = torch.from_numpy(heard[:: rate // 8000 if one_rate else 1].astype(np.float32))
        power = torch.stft(heard, 256, window=torch.hann_window(256), return_complex=True).abs()
        power = (make_bank(8000) @ power if in_mel else power)[:, :64]
        power = (power + 1).log()
        return (power.flip(0) if from_top else power)[None], i % 4


def find(dataset):
    report = cnnprobe.inspect_data(dataset, pictures=False)
    return [f.message for f in report.findings if f.rule == "mixed-sample-rates"]


@pytest.mark.parametrize("options", [{}, {"in_mel": True}, {"from_top": True}], ids=str)
def test_rows_of_two_rates_are_told_and_those_of_one_rate_are_healthy(tmp_path, options):
    (said,) = find(Sounds(tmp_path, **options))
    assert said.startswith("8 files of the training data have 8,000 Hz and 8 have 16,000 Hz")
    assert "and the rows of their spectrograms fit each at its own rate, not all at one" in said
    assert [] == find(Sounds(tmp_path, one_rate=True, **options))


def test_files_that_are_broken_are_passed_over(tmp_path):
    sounds = Sounds(tmp_path)
    made = [sounds[i] for i in range(16)]
    for file in sounds.files:
        file.write_bytes(b"RIFF")
    sounds.__class__ = type("Kept", (Sounds,), {"__getitem__": lambda self, i: made[i]})
    assert [] == find(sounds)
