"""What was observed of a training run over its steps, as plain frozen data: no torch, no tensor, no
model is kept.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cnnprobe.errors import UnknownNameError, suggest
from cnnprobe.records.ranks import RankLog, RankSummary
from cnnprobe.records.statistics import COLUMNS
from cnnprobe.records.trace import Histogram, TensorInfo

What = Literal["activation", "gradient", "parameter", "update"]

STATISTICS = tuple("norm" if name == "l2" else name for name in COLUMNS)
"""What a series has a number of at each step; one of updates has "norm" and "ratio" alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One number over the steps at which it was seen: the loss, a learning rate, the norm of all
    gradients, seconds.
    """

    name: str  # "loss", "learning rate", "gradient norm", "seconds", ...
    steps: tuple[int, ...]
    values: tuple[float, ...]  # one for each of `steps`
    ranks: str = ""  # whose it is, of several: "rank 1", "all ranks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The statistics of one tensor over the observed steps.

    `numbers[name]` has one number for each of `History.steps`, NaN where the tensor was not seen:
    `np.array(series["mean"])` is an array. "zeros", "nan" and "inf" are counts among "count"
    elements, "norm" is the L2 norm, "ratio" that of an update over that of its parameter before.
    """

    fqn: str  # of the module for activations and gradients, of the parameter for the rest
    what: What
    # k-th call of the module in a forward pass, for activations and the gradients of those
    call: int = 0
    output: str = ""  # path in a nested output: "", "[0]", "['logits']"
    kind: str = ""  # class name of the module, or of the one that the parameter is registered in
    numbers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    histograms: tuple[
        Histogram | None, ...
    ] = ()  # one for each of `History.steps`; empty where not asked for
    ranks: str = ""  # whose it is, of several: "rank 1", "all ranks"

    def __getitem__(self, name: str) -> tuple[float, ...]:
        """The numbers of that name; raises UnknownNameError where there are none."""
        if name not in self.numbers:
            raise UnknownNameError(
                f"no statistic named {name!r}",
                where=f"{self.what} of {self.fqn!r}",
                fix=suggest(name, self.numbers),
            )
        return self.numbers[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class NonFinite:
    """Where a NaN or Inf was first seen: the step, in the order of execution within it, and what
    that call was given.
    """

    step: int
    what: What | Literal["loss"]
    fqn: str  # of the module or parameter; "" is the root, and that of a loss
    call: int = 0
    kind: str = ""
    nan: int = 0
    inf: int = 0
    count: int = 0
    inputs: tuple[
        TensorInfo, ...
    ] = ()  # with their statistics, so that one sees whether the call made it or passed it on
    # the last observed step before it, which was finite; None: there was none
    seen_before: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadChannels:
    """Channels of an activation that were zero for every sample at each observed step of a
    window.
    """

    fqn: str
    call: int = 0
    kind: str = ""
    channels: tuple[int, ...]
    of: int  # how many channels there are
    first: int  # steps of the window
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LivingGraph:
    """The autograd graph of a step that was still alive when a later one ended."""

    step: int
    saved_bytes: int = 0  # activations that it holds
    freed: bool = False  # a backward pass has freed what it had kept; only its nodes remain
    keepers: tuple[str, ...] = ()  # "an item of the list 'losses'", ...


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """A training run as it was watched: curves and statistics over its steps, and what was noticed
    on the way.
    """

    model: str  # class name
    steps: tuple[int, ...] = ()  # the observed ones, from 0
    # observed steps that are no longer among `steps`: of neighbours the first and the last stand
    # for all, with the least and the greatest of each number (records/thinning.py)
    thinned: int = 0
    total: int = 0  # all steps that went by
    curves: tuple[Curve, ...] = ()
    series: tuple[Series, ...] = ()  # in the order of the forward pass, then the parameters
    nonfinite: NonFinite | None = None
    dead: tuple[DeadChannels, ...] = ()
    kept: tuple[LivingGraph, ...] = ()
    notes: tuple[str, ...] = ()  # what could not be observed, in sentences
    rank: RankLog | None = None  # of one process of several: what it says of itself
    ranks: tuple[RankSummary, ...] = ()  # of all of them: each

    def curve(self, name: str) -> Curve:
        """The curve of that name; raises UnknownNameError where there is none."""
        for curve in self.curves:
            if curve.name == name:
                return curve
        raise UnknownNameError(
            f"no curve named {name!r}",
            where=f"history of {self.model}",
            fix=suggest(name, (c.name for c in self.curves)),
        )

    def of(self, fqn: str, what: What = "activation", call: int = 0) -> Series:
        """The series of a module or parameter; raises UnknownNameError where there is none."""
        for series in self.series:
            if series.fqn == fqn and series.what == what and series.call == call:
                return series
        known = (series.fqn for series in self.series if series.what == what)
        raise UnknownNameError(
            f"no {what} of {fqn!r}, call {call}",
            where=f"history of {self.model}",
            fix=suggest(fqn, known),
        )


def unify_nan(values: Iterable[float]) -> tuple[float, ...]:
    """The values as a tuple in which every NaN is the same object, so that two histories that say
    the same are equal.

    >>> unify_nan([1.0, float("nan")]) == unify_nan([1, float("nan")])
    True
    """
    return tuple(math.nan if value != value else float(value) for value in values)  # noqa: PLR0124 - NaN alone differs from itself


def drift(series: Series) -> tuple[float, ...]:
    """How far the mean has moved since the first step that has one, in standard deviations of that
    step; NaN where it was not seen.

    >>> drift(Series(fqn="conv1", what="activation", numbers={"mean": (1.0, 1.5, 2.0), "std": (0.5, 0.75, 1.0)}))
    (0.0, 1.0, 2.0)
    """  # noqa: E501
    pairs = zip(series.numbers.get("mean", ()), series.numbers.get("std", ()), strict=True)
    start, spread = next(((mean, std) for mean, std in pairs if std > 0), (math.nan, math.nan))
    return unify_nan((mean - start) / spread for mean in series.numbers.get("mean", ()))
