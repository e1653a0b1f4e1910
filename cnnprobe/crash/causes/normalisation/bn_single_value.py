"""A normalisation in train mode over one value."""

from collections.abc import Iterator

import torch
from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import SetMode
from cnnprobe.crash.edits.build import change_input
from cnnprobe.crash.facts.expected import find_expected
from cnnprobe.crash.facts.words import count_elements, write_product
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Sequential(
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.BatchNorm1d(5),
    )
    args = (torch.randn(1, 3, 2, 2),)
    """,
    old="torch.randn(1, 3, 2, 2)",
    new="torch.randn(2, 3, 2, 2)",
    blames="2",
    repair="at least two samples",
)


@cause(code="CP025", name="bn-single-value", prior=596, examples=EXAMPLE)
def bn_single_value(crash: Crash) -> Iterator[Suspect]:
    """A BatchNorm in train mode got one value per channel, which has no variance.

    Why it happens: the last batch of an epoch has one sample, or the model is tried on one sample
    in train mode, and the map has shrunk to 1 x 1.
    What to do: DataLoader(..., drop_last=True) for training; model.eval() for one sample.
    Known exceptions: nn.GroupNorm and nn.LayerNorm do not look at the batch.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html
    """
    found = find_expected(crash)
    if found is None or found.kind != "norm" or not found.is_rank_right or found.rank < 2:
        return
    x, layer = found.x, crash.leaf
    is_training = not isinstance(layer, nn.Module) or layer.training
    values = count_elements(x.shape) // max(x.shape[1], 1)
    if found.got != found.expected or values != 1 or not is_training:
        return
    double = change_input(
        lambda t: torch.cat([t, t]),
        "{x}",
        title="give the model at least two samples (DataLoader(..., drop_last=True))",
    )
    evaluate = SetMode(
        title="call model.eval() before the forward, if this is no training",
        code="model.eval()",
        module="",
        training=False,
    )
    positions = f", {write_product(x.shape[2:])} positions" if len(x.shape) > 2 else ""
    yield Suspect(
        module=found.module,
        message=f"{describe_module(crash, found.module)} in train mode needs more than 1 value per "
        f"channel for its variance, but got 1",
        arithmetic=f"{x.shape}: batch {x.shape[0]}{positions}",
        candidates=(propose(double, weight=STRONG), propose(evaluate, weight=STRONG)),
        weight=STRONG,
    )
