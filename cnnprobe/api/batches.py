"""The verb of the data."""

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from cnnprobe.api.loaders import explain_failures
from cnnprobe.data import DataRule, load_data_rules
from cnnprobe.data.expected import read_expected
from cnnprobe.data.inspecting import judge, read
from cnnprobe.data.report import DataReport
from cnnprobe.data.source import Limits


def inspect_data(
    loader: Any,
    validation: Any = None,
    *,
    model: nn.Module | None = None,
    loss_fn: Callable[..., Any] | None = None,
    samples: int | None = 1024,
    seconds: float | None = 10.0,
    pictures: bool = True,
    rules: Iterable[DataRule | str | os.PathLike[str]] = (),
    ignore: Mapping[str, str] | None = None,
    tell: Callable[[str, int], None] | None = None,
) -> DataReport:
    """What a loader gives, measured and judged on a bounded sample: sizes, types, ranges, labels,
    copies, order, workers, augmentation.

    The loader is afterwards as it was, with its samplers, workers and generators, and so are the
    global generators: the next epoch is the same as without. A report of its own, that prints
    itself, is shown in a notebook, and saves itself as JSON, HTML or PNG.

    Args:
        loader: the training data as the loop gets it: a DataLoader, an iterable of batches, or a
            Dataset.
        validation: the same of the validation; what differs between the two, and what stands in
            both, is then judged too.
        model: tells the number of classes and whether a last batch of one stops a BatchNorm; it is
            left bit for bit as it was.
        loss_fn: tells what type of labels is wanted, and which label is left out.
        samples: so many are read of each; None reads all.
        seconds: reading ends after so long; None is no bound.
        pictures: draw the contact sheets; needs Pillow and torchvision.
        rules: further rules of the data, or files that hold them.
        ignore: rule name or code to the reason why it is suppressed.
        tell: called after each batch with "training" or "validation" and the number of samples that
            were read, to show how far it is.

    Raises:
        UsageError: the data can be read only once, as a generator can; a suppression has no reason.
        TargetError: it gives no batches.

    >>> import torch
    >>> batches = [(torch.randn(8, 3, 8, 8), torch.arange(1, 9) % 4) for _ in range(4)]
    >>> inspect_data(batches, pictures=False).findings
    ()
    """
    given = list(rules)
    files = [pathlib.Path(each) for each in given if not isinstance(each, DataRule)]
    own = [each for each in given if isinstance(each, DataRule)]
    limits = Limits(samples=samples, seconds=seconds)
    limits = limits if pictures else replace(limits, drawn=0)
    inspection = explain_failures(read(loader, validation, limits=limits, tell=tell), model)
    return judge(
        inspection,
        read_expected(model, loss_fn, inspection.inputs, inspection.batch_size),
        rules=(*load_data_rules(files), *own),
        ignore=ignore or {},
        pictures=pictures,
    )
