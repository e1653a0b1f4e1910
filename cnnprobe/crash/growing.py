"""Channels that were joined out of several layers, and are not as many as the next layer was written for: the growth of a dense block."""

import re
from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.facts.words import operation, quote
from cnnprobe.crash.suspect import STRONG, Candidate, Suspect
from cnnprobe.trace import TensorInfo

_NUMBER = re.compile(r"\d+")


def other_growth(crash: Crash, x: TensorInfo, wanted: int, module: str) -> Iterator[Suspect]:
    """The layers of one kind in a repeated block that all give too many channels or too few to a concatenation, so that `wanted` do not arrive."""
    joined = _joined(crash, x)
    for part in reversed(joined):
        made = _made_by(crash, part)
        count = wanted - sum(t.shape[1] for t in joined if t is not part)
        if made is None or count < 1 or count == part.shape[1]:
            continue
        family = _family(crash, made)
        if len(family) < 2:  # one layer alone is as likely to be right as the layer that raised
            continue
        summary = f"set out_channels={count} in the {len(family)} layers {', '.join(map(quote, family[:3]))}"
        summary += (", ..." if len(family) > 3 else "") + f" (now {part.shape[1]})"
        edits = tuple(configure(crash, fqn, out_channels=count) for fqn in family)
        yield Suspect(
            diagnosis="channel-mismatch",
            module=made,
            message=f"{describe_module(crash, made)} gives {part.shape[1]} channels to the concatenation where {count} would fit: "
            f"{describe_module(crash, module)} was written for {wanted} in all",
            arithmetic=f"{' + '.join(str(t.shape[1]) for t in joined)} = {x.shape[1]} channels after the concatenation; wanted {wanted}",
            candidates=(Candidate(edits=edits, weight=STRONG, summary=summary),),
            weight=STRONG,
            needs_proof=True,
        )


def _joined(crash: Crash, x: TensorInfo) -> list[TensorInfo]:
    """The tensors that were concatenated along the channels into one, with nothing after it that changes its shape."""
    for _, call in crash.walk_back(x):
        if not call.outputs or call.outputs[0].shape != x.shape:
            return []
        if operation(call) in ("cat", "concat", "concatenate"):
            parts = list(call.inputs)
            return (
                parts
                if all(len(t.shape) > 2 for t in parts)
                and sum(t.shape[1] for t in parts) == x.shape[1]
                else []
            )
    return []


def _made_by(crash: Crash, part: TensorInfo) -> str | None:
    """The convolution that decides how many channels a tensor has."""
    for _, call in crash.walk_back(part):
        layer = crash.modules.get(call.fqn or "") if call.fqn else None
        if isinstance(layer, nn.modules.conv._ConvNd):
            return call.fqn if layer.out_channels == part.shape[1] and layer.groups == 1 else None
        if (
            operation(call) in ("cat", "concat", "concatenate")
            or call.outputs[0].shape[1:2] != part.shape[1:2]
        ):
            return None
    return None


def _family(crash: Crash, fqn: str) -> list[str]:
    """The layers that only a number in their names tells from one: of the same class, with as many channels out."""
    like = crash.modules[fqn]
    return [
        name
        for name, module in crash.modules.items()
        if _NUMBER.sub("#", name) == _NUMBER.sub("#", fqn)
        and type(module) is type(like)
        and getattr(module, "out_channels", None) == getattr(like, "out_channels", None)
    ]
