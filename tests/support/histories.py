"""A small history made by hand: a convolution, a ReLU and a classifier over five steps, every
second observed.
"""

import math

from cnnprobe.records.history import (
    STATISTICS,
    Curve,
    DeadChannels,
    History,
    LivingGraph,
    NonFinite,
    Series,
    unify_nan,
)
from cnnprobe.records.trace import Histogram
from tests.support.traces import tensor


def series(fqn, what, kind, *, norm, count=64, **fields):
    values = {name: (0.0,) * len(norm) for name in STATISTICS} | {
        "count": (float(count),) * len(norm), "mean": (0.5,) * len(norm),
        "std": (0.25,) * len(norm), "norm": unify_nan(norm),
    }  # fmt: skip
    return Series(fqn=fqn, what=what, kind=kind, numbers=values, **fields)


def update(fqn, ratio):
    return Series(
        fqn=fqn,
        what="update",
        kind="Conv2d",
        numbers={"norm": unify_nan(r * 2 for r in ratio), "ratio": unify_nan(ratio)},
    )


def training():
    """Steps 0, 2 and 4; the third gradient of the ReLU has an Inf, and two of its channels are
    dead.
    """
    spread = (Histogram(lowest=-2, negative=(1, 0), positive=(0, 3)), None, Histogram())
    odd = tensor(
        2,
        8,
        4,
        4,
        stats={
            "count": 256,
            "mean": 0.0,
            "std": 1.0,
            "min": -3.0,
            "max": 3.5,
            "zeros": 0,
            "nan": 0,
            "inf": 0,
        },
    )
    infinite = series("relu", "gradient", "ReLU", norm=(0.1, 0.2, 0.3))
    infinite.numbers["inf"] = (0.0, 0.0, 1.0)
    return History(
        model="Tiny",
        steps=(0, 2, 4),
        total=5,
        curves=(
            Curve(
                name="loss",
                steps=(0, 1, 2, 3, 4),
                values=unify_nan((2.3, 2.0, 1.5, 1.25, math.nan)),
            ),
            Curve(name="learning rate", steps=(0, 2, 4), values=(0.1, 0.1, 0.01)),
            Curve(name="seconds", steps=(0, 2, 4), values=(0.25, 0.125, 0.125)),
        ),
        series=(
            series("conv", "activation", "Conv2d", norm=(1.0, 2.0, 4.0), histograms=spread),
            series("relu", "activation", "ReLU", norm=(1.0, 1.0, math.nan)),
            infinite,
            series("conv.weight", "parameter", "Conv2d", norm=(2.0, 2.0, 2.5)),
            update("conv.weight", (1e-3, 2e-3, 1e-3)),
        ),
        nonfinite=NonFinite(
            step=4,
            what="gradient",
            fqn="relu",
            kind="ReLU",
            inf=1,
            count=256,
            inputs=(odd,),
            seen_before=2,
        ),
        dead=(DeadChannels(fqn="relu", kind="ReLU", channels=(1, 5), of=8, first=0, last=4),),
        kept=(
            LivingGraph(
                step=0, saved_bytes=2048, keepers=("an item of the list 'losses' in train()",)
            ),
            LivingGraph(step=2),
        ),
        notes=("one call on another thread was not observed",),
    )
