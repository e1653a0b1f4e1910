"""Whether images and masks that move at random move together: a mask explains the colours of the
image that it was read with better than those of another reading of the sample.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cnnprobe.data.clues import Strangers

SAMPLES = 16  # that are read some times each
FEWEST = 10  # samples whose image and mask move
MOVED = 0.1  # of the area of two masks that is not common
MOST_CLASSES = 16


def compare_readings(images: Sequence[Any], masks: Sequence[Any]) -> Strangers | None:
    """How well masks explain their images, those of other readings of the sample, and those of
    other samples; None where too few move, or where they cannot be compared.

    Args:
        images: of each sample its readings, each (C, H, W).
        masks: theirs, each (H, W) or (1, H, W).

    The measure is the share of the variance of the pixels that lies between the classes of the
    mask.

    Source: Fisher 1925, "Statistical Methods for Research Workers", section 38: the correlation
    ratio.
    """
    pairs = [_prepare(*each) for each in zip(images, masks, strict=True)]
    if any(pair is None for pair in pairs):
        return None
    readings = [pair for pair in pairs if pair is not None]
    moving = [(x, m) for x, m in readings if _have_moved(x, m)]
    if len(moving) < FEWEST or len({x.shape for x, _ in moving}) != 1:
        return None
    own, other, strange = [], [], []
    for k, (x, m) in enumerate(moving):
        shares = np.array([[_explain(image, mask) for mask in m] for image in x])
        apart = ~np.eye(len(x), dtype=bool)
        own.append(shares.diagonal().mean())
        other.append(shares[apart].mean())
        foreign = moving[(k + 1) % len(moving)][1]
        strange.append(np.mean([_explain(x[0], mask) for mask in foreign]))
    return Strangers(
        samples=len(moving),
        own=float(np.mean(own)),
        other=float(np.mean(other)),
        strange=float(np.mean(strange)),
        together=_measure_z(np.subtract(own, other)),
        belong=_measure_z(np.subtract(other, strange)),
    )


def _prepare(images: Any, masks: Any) -> tuple[Tensor, Tensor] | None:
    """The readings of a sample as (R, C, H, W) and (R, H, W)."""
    if len({tuple(getattr(each, "shape", ())) for each in images}) != 1:
        return None
    if not all(isinstance(each, Tensor) for each in (*images, *masks)):
        return None
    x = torch.stack(list(images)).float()
    flat = [mask.squeeze(0) if mask.dim() == 3 else mask for mask in masks]
    if x.dim() != 4 or any(mask.shape != x.shape[-2:] for mask in flat):
        return None
    m = torch.stack(flat)
    return (x, m) if len(torch.unique(m)) <= MOST_CLASSES else None


def _have_moved(images: Tensor, masks: Tensor) -> bool:
    """Whether neither the images nor the masks of a sample's readings are all alike."""
    filled = masks != 0
    common = (filled[1:] & filled[:1]).flatten(1).sum(1)
    either = (filled[1:] | filled[:1]).flatten(1).sum(1)
    moved = common < (1 - MOVED) * either
    return bool(moved.any()) and bool((images[1:] != images[:1]).any())


def _explain(image: Tensor, mask: Tensor) -> float:
    """The share of the variance of the pixels that lies between the classes of a mask."""
    pixels = image.flatten(1)
    apart = pixels - pixels.mean(1, keepdim=True)
    between = torch.zeros(())
    for label in torch.unique(mask):
        inside = apart[:, (mask == label).flatten()]
        between = between + inside.shape[1] * inside.mean(1).square().sum()
    return float(between / apart.square().sum().clamp(min=1e-12))


def _measure_z(differences: Any) -> float:
    """By how many standard errors the mean is above zero."""
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    return mean * math.sqrt(len(differences)) / max(spread, 1e-9)
