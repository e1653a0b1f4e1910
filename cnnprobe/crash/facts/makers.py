"""The layer that decides the size of a dim, with another size."""

from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.suspect import Candidate, propose
from cnnprobe.trace import TensorInfo


def resize_maker(crash: Crash, info: TensorInfo, size: int, wanted: int) -> Iterator[Candidate]:
    """The last layer with weights before a tensor, if it makes a dim of `size`: with `wanted`."""
    for _, call in crash.walk_back(info):
        layer, fqn = crash.modules.get(call.fqn or ""), call.fqn or ""
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.out_channels == size:
            yield propose(configure(crash, fqn, out_channels=wanted))
        elif isinstance(layer, nn.Linear) and layer.out_features == size:
            yield propose(configure(crash, fqn, out_features=wanted))
        if call.fqn is not None and layer is not None and layer._parameters:
            return
