"""The verb of what every layer puts out over a whole data set."""

import os
from collections.abc import Callable
from typing import Any

from torch import nn

from cnnprobe.measuring import Measurements
from cnnprobe.measuring.survey import Choices, survey


def measure(
    model: nn.Module,
    data: Any,
    *,
    batch_size: int = 64,
    workers: int = 0,
    log: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Measurements:
    """The statistics of every layer's output over a whole data set: moments, extrema, histograms
    and zeros, of each channel too, for calibration and pruning.

    The model runs in eval mode without gradients, and is afterwards as before. Each sample is
    counted once. In a process group of `torch.distributed` each rank measures its part of the
    batches, and gets what all of them have found: the same counts, extrema and histograms as one
    process, and its moments to rounding. Of a model that is sharded over ranks (fully_shard) each
    measures a whole copy.

    Args:
        model: the model; it gets the first tensor of each batch.
        data: a map-style Dataset, or a DataLoader, of which the data set, the batch size, the
            workers and how it collates are taken; its order is not.
        batch_size: samples of a pass.
        workers: processes that load the data.
        log: a file of JSON lines that is written every few seconds. A start with the same model,
            data and log goes on where the one before was killed.
        progress: called at the beginning and after each batch, with the number of samples done,
            and of all that this process measures.

    Raises:
        TargetError: `model` is no nn.Module; or it is sharded, and another rank did not come within
            20 seconds, or a whole copy cannot be made.
        UsageError: the data has no length, its batches hold no tensor, or the log is of another
            model, other data or another number of processes.
        ProbeError: the log is damaged, or another rank failed.

    >>> import torch
    >>> from torch import nn
    >>> from torch.utils.data import TensorDataset
    >>> images = torch.arange(24.0).reshape(6, 2, 2, 1) - 4
    >>> measured = measure(nn.Sequential(nn.ReLU()), TensorDataset(images), batch_size=4)
    >>> relu = measured.of("0")
    >>> relu.statistics.count, relu.statistics.zeros, relu.low, relu.high
    (24, 5, (0.0, 0.0), (17.0, 19.0))
    """
    return survey(
        model,
        data,
        Choices(batch_size=batch_size, workers=workers, log=log, progress=progress),
    )
