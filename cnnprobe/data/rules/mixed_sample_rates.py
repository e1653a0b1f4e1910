"""Spectrograms of sounds of several sample rates."""

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import made
from cnnprobe.diagnosis import Finding, Severity


def _record(folder: str) -> list[str]:
    """Tones of 8,000 and of 16,000 Hz, in turn."""
    import wave

    import numpy as np

    files = [f"{folder}/{i}.wav" for i in range(16)]
    random = np.random.default_rng(0)
    for i, file in enumerate(files):
        rate = (8000, 16000)[i % 2]
        places = np.arange(rate) / rate
        tones = sum(np.sin(2 * np.pi * f * places) for f in random.uniform(200, 3500, 3))
        heard = 4000 * (tones + 0.05 * random.standard_normal(rate))
        with wave.open(file, "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(rate)
            sound.writeframes(heard.astype("<i2").tobytes())
    return files


def _listen(resampled: bool) -> Mapping[str, Any]:
    import wave

    import numpy as np
    import torch

    folder = tempfile.mkdtemp()
    files = _record(folder)

    def make(index: int) -> Any:
        with wave.open(files[index]) as sound:
            step = sound.getframerate() // 8000 if resampled else 1
            heard = np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2")
        samples = torch.from_numpy(heard.astype(np.float32)[::step] / 32768)
        power = torch.stft(samples, 126, 120, window=torch.hann_window(126), return_complex=True)
        return (power[:, :48].abs() + 1e-4).log()[None], index % 4

    return {"loader": made(16, make, folder=folder, files=files)}


def sick() -> Mapping[str, Any]:
    """As they were recorded."""
    return _listen(resampled=False)


def healthy() -> Mapping[str, Any]:
    """All at 8,000 Hz: of the others every second sample."""
    return _listen(resampled=True)


@data_rule(
    code="CP877", name="mixed-sample-rates", severity=Severity.WARNING, examples=(sick, healthy)
)
def mixed_sample_rates(data: Data) -> Iterator[Finding]:
    """Sound files have several sample rates, and a row of the spectrograms stands for another
    frequency in each.

    Why it matters: the same sound lies at half or twice the height of the spectrogram, and lasts
    twice or half as long.
    What to do: torchaudio.functional.resample(sound, rate, 16000) where the file is read, or
    librosa.load(file, sr=16000).
    Known exceptions: reported only for WAV files that the data set lists, 4 of each rate, and for
    spectrograms with the frequency along their height, linear or in mel. Spectrograms of sounds
    that were resampled fit their files at one rate.
    Source: Oppenheim and Schafer, "Discrete-Time Signal Processing", section 4.2: a frequency of a
    sampled signal is one over its sample rate.
    """
    for split in data.splits:
        found = split.clues.rates
        if found is not None:
            (rate, other), (files, others) = found.rates, found.files
            yield Finding(
                message=(
                    f"{files} files of the {split.name} data have {rate:,} Hz and {others} have "
                    f"{other:,} Hz, of those looked at, and the rows of their spectrograms fit "
                    "each at its own rate, not all at one"
                ),
                fix="resample each sound to one rate where its file is read: "
                "torchaudio.functional.resample(sound, rate, 16000)",
            )
