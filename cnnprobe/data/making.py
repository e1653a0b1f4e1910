"""How the samples of a data set are made: the calls that smooth a mask, the seeds that reading one
sets, and what the text speaks of.
"""

import inspect
import random
import re
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from cnnprobe.data.clues import Smoothed
from cnnprobe.data.datasets import find_root
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.source import Source, spread
from cnnprobe.recorder.sources import find_nearest_line
from cnnprobe.recorder.values import leaves

SAMPLES = 8
SMOOTH = frozenset({"linear", "bilinear", "bicubic", "trilinear", "area"})
APART = 2  # numbers between the classes, so that one lies between; of 0 and 1 none does
MOST_CLASSES = 256
READINGS = 4  # of different samples, from different seeds
WORDS = 624  # of a Mersenne twister's state, all unread right after a seed
_SPOILT = re.compile(r"nois[ey]|denois|corrupt|degrad", re.IGNORECASE)


class _Resizing(TorchFunctionMode):
    """Keeps what smooth interpolation makes of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Tensor, str, str, float]] = []  # with the mode, the line, the top

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the call; keep what it made."""
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
        if func is functional.interpolate and mode in SMOOTH and _are_classes(args, kwargs):
            given = args[0] if args else kwargs["input"]
            line = find_nearest_line(sys._getframe(1))
            self.made.append((made.detach(), mode, line, float(given.max())))
        return made


def _are_classes(args: Any, kwargs: Any) -> bool:
    given = args[0] if args else kwargs.get("input")
    if not isinstance(given, Tensor) or not given.numel() or bool((given != given.round()).any()):
        return False
    classes = torch.unique(given)
    return bool(classes[-1] - classes[0] >= APART) and len(classes) <= MOST_CLASSES


def find_smoothed(source: Source, path: str) -> Smoothed | None:
    """The smooth interpolation of class numbers whose rounded result is a mask of a sample.

    Args:
        source: where the samples come from.
        path: of the masks.
    """
    if not source.is_indexed or not len(source.dataset):
        return None
    dataset = copy_dataset(source.dataset)
    with kept_generators(source.given):
        for index in spread(len(source.dataset), SAMPLES):
            with _Resizing() as seen:
                sample = dataset[index]
            mask = next((v for p, v in leaves(sample) if p == path), None)
            for made, mode, line, top in seen.made:
                if isinstance(mask, Tensor) and _is_rounded(mask, made):
                    return Smoothed(path=path, mode=mode, source=line, highest=top)
    return None


def _is_rounded(mask: Tensor, made: Tensor) -> bool:
    """Whether a mask holds what was made, in whole numbers."""
    if mask.numel() != made.numel():
        return False
    a, b = mask.double().flatten(), made.double().flatten()
    return any(torch.equal(a, change(b)) for change in (torch.round, torch.floor)) and bool(
        (b != b.round()).any()
    )


def find_reseeded(source: Source) -> str:
    """The generator that reading a sample seeds with one constant and then draws from, so that all
    samples get the same random numbers: "torch", "numpy" or "random"; "" where none is.
    """
    if not source.is_indexed or len(source.dataset) < READINGS:
        return ""
    dataset, states = copy_dataset(source.dataset), list[Mapping[str, Any]]()
    with kept_generators(source.given):
        for count, index in enumerate(spread(len(source.dataset), READINGS)):
            torch.manual_seed(count)
            np.random.seed(count)  # noqa: NPY002 (what data sets draw from)
            random.seed(count)
            dataset[index]
            states.append(_read_states())
    found = (n for n in states[0] if states[0][n] and all(s[n] == states[0][n] for s in states))
    return next(found, "")


def _read_states() -> Mapping[str, Any]:
    """The states of the global generators; None of one that has drawn nothing since its seed."""
    ours: Any = random.getstate()
    theirs: Any = np.random.get_state()  # noqa: NPY002
    of_torch = bytes(torch.get_rng_state().numpy())
    left = int.from_bytes(of_torch[8:12], "little")  # numbers until its state is made anew
    return {
        "torch": of_torch if left != 1 else None,
        "numpy": (bytes(theirs[1]), theirs[2]) if theirs[2] != WORDS else None,
        "random": ours if ours[1][-1] != WORDS else None,
    }


def find_spoiling(source: Source) -> str:
    """The word by which the class of a data set speaks of noise that it adds, or of inputs that it
    spoils; "" where it speaks of none, or cannot be read.
    """
    if source.dataset is None:
        return ""
    kind = type(find_root(source.dataset, 0)[0])
    if kind.__module__.partition(".")[0] in ("torch", "torchvision"):
        return ""
    try:
        text = inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
    code = "\n".join(line.partition("#")[0] for line in text.splitlines())
    found = re.search(rf"\w*(?:{_SPOILT.pattern})\w*", code, re.IGNORECASE)
    return found[0] if found else ""
