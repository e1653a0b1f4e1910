"""Sound files of several sample rates beside the spectrograms that were made of them: whether the
sounds were brought to one rate.
"""

import contextlib
import wave
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cnnprobe.data.beside import Seen
from cnnprobe.data.clues import Rates
from cnnprobe.data.columns import join_samples
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.source import Source, spread

LOOKED_AT = 64  # files whose headers are read
FEWEST = 4  # files of a rate
COMPARED = 8  # of each of two rates, that are read
SECONDS = 10  # of a file
WINDOW = 2048  # samples of a spectrum
ROWS = 16  # of a spectrogram, at least
ALIKE = 0.5  # correlation of a spectrogram with its file, on average
BETTER = 4.0  # standard errors, by which each at its own rate fits better than all at one
USUAL = (8000, 16000, 22050, 24000, 32000, 44100, 48000)  # to which sounds are brought
Profile = NDArray[np.float64]


def compare_rates(seen: Sequence[Seen], source: Source, path: str) -> Rates | None:
    """The two most frequent sample rates of the files, where the rows of the spectrograms stand for
    other frequencies in each; None where all have one rate, or were brought to one.

    A spectrogram, averaged over time, is compared with the spectrum of its file, which is known in
    Hz: once as if each row stood for a part of the file's own rate, once for a part of one rate.
    """
    named = [each for each in seen if each.name.lower().endswith(".wav") and each.index is not None]
    chosen = [named[i] for i in spread(len(named), LOOKED_AT)]
    groups: dict[int, dict[int, Seen]] = {}
    for each in chosen:
        if (rate := _read_rate(each.name)) is not None:
            groups.setdefault(rate, {})[each.index or 0] = each
    two = sorted(groups, key=lambda rate: -len(groups[rate]))[:2]
    if len(two) < 2 or len(groups[two[1]]) < FEWEST or not source.is_indexed:
        return None
    with contextlib.suppress(Exception), kept_generators(source.given):
        pairs = list(_read_pairs([list(groups[rate].values()) for rate in two], source, path))
        if _is_own(pairs, two):
            return Rates(rates=(two[0], two[1]), files=(len(groups[two[0]]), len(groups[two[1]])))
    return None


def _read_rate(name: str) -> int | None:
    try:
        with wave.open(name) as sound:
            return int(sound.getframerate())
    except (OSError, EOFError, wave.Error):
        return None


def _read_pairs(
    groups: Sequence[Sequence[Seen]], source: Source, path: str
) -> Iterator[tuple[Profile, Profile, int]]:
    """The mean of the rows of some spectrograms, the power of their files, and their rate."""
    dataset = copy_dataset(source.dataset)
    for each in (one for group in groups for one in group[:COMPARED]):
        image = next(c.values[0] for c in join_samples([dataset[each.index]]) if c.path == path)
        if isinstance(image, Tensor) and image.dim() == 3 and image.shape[1] >= ROWS:
            rows = image.detach().double().mean((0, 2)).numpy()
            yield rows, *_read_power(each.name)


def _read_power(name: str) -> tuple[Profile, int]:
    """The power of a file at 0 to half of its rate, and the rate."""
    with wave.open(name) as sound:
        rate, width, channels = sound.getframerate(), sound.getsampwidth(), sound.getnchannels()
        data = sound.readframes(SECONDS * rate)
    if width not in (2, 4):
        raise ValueError(width)
    samples = np.frombuffer(data, dtype=f"<i{width}").astype(np.float64)[::channels]
    parts = np.lib.stride_tricks.sliding_window_view(samples, WINDOW)[:: WINDOW // 2]
    power = np.abs(np.fft.rfft(parts * np.hanning(WINDOW), axis=1)) ** 2
    return power.mean(0), rate


def _is_own(pairs: Sequence[tuple[Profile, Profile, int]], rates: Sequence[int]) -> bool:
    """Whether the rows fit the files better when each stands for a part of the file's own rate."""
    if any(sum(rate == own for _, _, own in pairs) < FEWEST for rate in rates):
        return False
    forms = list(product((False, True), (False, True)))  # of the rows: in mel, from the top
    apart = [_fit_all(pairs, None, scale, *form) for form in forms for scale in rates]
    joined = [_fit_all(pairs, rate, rate, *form) for form in forms for rate in {*rates, *USUAL}]
    best, other = (max(each, key=lambda fits: float(np.mean(fits))) for each in (apart, joined))
    # Where all are taken for one of the two rates, those of that rate fit as well as before.
    surest = max(_measure_gain((best - other)[[own == rate for _, _, own in pairs]])
                 for rate in rates)  # fmt: skip
    return bool(best.mean() > ALIKE and best.mean() > other.mean() and surest > BETTER)


def _measure_gain(gain: Profile) -> float:
    """By how many standard errors a gain is above zero."""
    return float(gain.mean() / max(gain.std(ddof=1) / len(gain) ** 0.5, 1e-9))


def _fit_all(
    pairs: Sequence[tuple[Profile, Profile, int]],
    rate: int | None,
    scale: int,
    in_mel: bool,
    from_top: bool,
) -> Profile:
    """How well the rows of each fit the power of its file, at one rate or (None) at its own."""
    found = []
    for rows, power, own in pairs:
        ends = _place_rows(len(rows), scale if in_mel else None) * (rate or own) / own
        given = rows[::-1] if from_top else rows
        found.append(_correlate(given, _average(power, ends)))
    return np.array(found)


def _place_rows(count: int, scale: int | None) -> Profile:
    """The ends of the rows of a spectrogram, in parts of half of its rate; in mel those of a filter
    bank that was made for the rate `scale`.

    Source: O'Shaughnessy 1987, "Speech Communication", p. 150: 2595 log10(1 + f / 700).
    """
    parts = np.linspace(0, 1, count + 1)
    if scale is None:
        return parts
    highest = 2595 * np.log10(1 + scale / 2 / 700)
    return np.asarray(700 * (10 ** (parts * highest / 2595) - 1) / (scale / 2))


def _average(power: Profile, ends: Profile) -> Profile:
    """The logarithm of the mean power between ends, in parts of half of the rate of a file."""
    places = ends * (len(power) - 1)
    total = np.concatenate([[0.0], np.cumsum(power)])
    sums = np.diff(np.interp(places, np.arange(len(total)), total))
    found = sums / np.maximum(np.diff(places), 1e-9)
    return np.asarray(np.log(found + 1e-9 * power.max()))


def _correlate(rows: Profile, placed: Profile) -> float:
    a, b = rows - rows.mean(), placed - placed.mean()
    return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))
