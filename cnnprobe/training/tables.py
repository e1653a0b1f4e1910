"""Tells a table of random numbers from one that was trained."""

import torch
from torch import Tensor

MOST_ROWS = 4_096
FEWEST = 64  # values; of fewer nothing can be said
# of the largest variance along any direction over that of random numbers; what was trained has ten
# times as much and more
EDGE = 1.25
KURTOSIS = (1.5, 4.0)  # 1.8 of uniform numbers, 3 of normal ones; 1 of signs, more of one-hot rows


def is_random(table: Tensor) -> bool:
    """Whether the rows of a table, shape (rows, features), are independent random numbers: no
    direction stands out, and the values are spread as uniform or normal ones.

    Rows of zeros, as of the padding, are left out.

    Source: Marchenko & Pastur 1967, the edge (1 + sqrt(features / rows))^2 of the spectrum of
    independent numbers; Martin & Mahoney 2021, arXiv:1810.01075, on that of trained weights.

    >>> generator = torch.Generator().manual_seed(0)
    >>> noise = torch.randn(100, 16, generator=generator)
    >>> is_random(noise), is_random(noise[:, :4] @ noise[:4]), is_random(torch.eye(16))
    (True, False, False)
    """
    rows = table.detach()[:MOST_ROWS].double()
    rows = rows[(rows != 0).any(1)]
    if rows.numel() < FEWEST or min(rows.shape) < 2 or not bool(rows.isfinite().all()):
        return False
    centred = rows - rows.mean()
    variance = float(centred.square().mean())
    if variance == 0:
        return False
    kurtosis = float(centred.pow(4).mean()) / variance**2
    count, features = centred.shape
    largest = float(torch.linalg.matrix_norm(centred, 2)) ** 2 / count
    edge = variance * (1 + (features / count) ** 0.5) ** 2
    return KURTOSIS[0] < kurtosis < KURTOSIS[1] and largest < EDGE * edge
