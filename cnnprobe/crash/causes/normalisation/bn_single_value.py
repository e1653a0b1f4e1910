import torch
from torch import nn

from cnnprobe.crash.cause import STRONG, Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.attributes import SetMode
from cnnprobe.crash.edits.build import change_input, resize_input
from cnnprobe.crash.edits.layers import Remove
from cnnprobe.crash.facts.expected import find_expected
from cnnprobe.crash.facts.words import count_elements, quote, write_product

_FIRST = """
  model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5))
- args = (torch.randn(1, 3, 2, 2),)
+ args = (torch.randn(2, 3, 2, 2),)
"""
_SECOND = """
  model = nn.Sequential(
      nn.Conv2d(3, 8, 4, stride=2, padding=1),
      nn.InstanceNorm2d(8),
      nn.LeakyReLU(0.2),
      nn.Conv2d(8, 8, 4, stride=2, padding=1),
      nn.InstanceNorm2d(8),
  )
- args = (torch.randn(4, 3, 4, 4),)
+ args = (torch.randn(4, 3, 8, 8),)
"""
EXAMPLES = (
    Example(_FIRST, blames="2", repair="at least two samples"),
    Example(_SECOND, blames="4", repair="at least 8 x 8"),
)


@cause("CP025", "bn-single-value", EXAMPLES, prior=596)
def bn_single_value(crash: Crash) -> Suspects:
    """A BatchNorm in train mode, or an InstanceNorm, got one value, which has no variance.

    Why it happens: the last batch of an epoch has one sample, or the model is tried on one sample
    in train mode, and the map has shrunk to 1 x 1. An InstanceNorm looks at one sample always.
    What to do: DataLoader(..., drop_last=True) for training; model.eval() for one sample. No
    InstanceNorm on a map of 1 x 1.
    Known exceptions: nn.GroupNorm and nn.LayerNorm do not look at the batch.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm1d.html
    """
    found = find_expected(crash)
    if found is None or found.kind != "norm" or not found.is_rank_right or found.rank < 2:
        return
    x, layer = found.x, crash.leaf
    is_instance = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    if layer is not None and not layer.training and not is_instance:
        return
    values = count_elements(x.shape[2:]) * (1 if is_instance else x.shape[0])
    if found.got != found.expected or values != 1:
        return
    positions = f", {write_product(x.shape[2:])} positions" if len(x.shape) > 2 else ""
    what = "sample and channel" if is_instance else "channel"
    mode = "" if is_instance else " in train mode"
    yield blame(
        found.module,
        f"{crash.describe_module(found.module)}{mode} needs more than 1 value per {what} "
        f"for its variance, but got 1",
        *_list_candidates(crash, found.module, is_instance=is_instance),
        arithmetic=f"{x.shape}: batch {x.shape[0]}{positions}",
    )


def _list_candidates(crash: Crash, fqn: str, *, is_instance: bool) -> Candidates:
    if is_instance:
        sizes = crash.root_inputs[0].shape[2:] if crash.root_inputs else ()
        yield propose(resize_input(tuple(2 * size for size in sizes)))
        yield propose(Remove(title=f"take {quote(fqn)} out: its map is 1 x 1", module=fqn))
        return
    title = "give the model at least two samples (DataLoader(..., drop_last=True))"
    double = change_input(lambda t: torch.cat([t, t]), "{x}", title=title)
    evaluate = SetMode(
        title="call model.eval() before the forward, if this is not training",
        code="model.eval()",
        module="",
        training=False,
    )
    yield propose(double, weight=STRONG)
    yield propose(evaluate, weight=STRONG)
