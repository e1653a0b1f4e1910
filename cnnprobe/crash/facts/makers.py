"""The layer that made a tensor: that which decides its size, and whose result it is."""

from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.suspect import Candidates, propose
from cnnprobe.records.trace import TensorInfo


def resize_maker(crash: Crash, info: TensorInfo, size: int, wanted: int) -> Candidates:
    """The last layer with weights before a tensor, if it makes a dim of `size`: with `wanted`."""
    for _, call in crash.walk_back(info):
        layer, fqn = crash.modules.get(call.fqn or ""), call.fqn or ""
        if isinstance(layer, nn.modules.conv._ConvNd) and layer.out_channels == size:
            yield propose(configure(crash, fqn, out_channels=wanted))
        elif isinstance(layer, nn.Linear) and layer.out_features == size:
            yield propose(configure(crash, fqn, out_features=wanted))
        if call.fqn is not None and layer is not None and layer._parameters:
            return


def find_layer_of(crash: Crash, tensor: Tensor) -> str | None:
    """Fqn of the layer whose result a tensor is, by the parameters in the node that made it."""
    children = [n for n, _ in tensor.grad_fn.next_functions if n] if tensor.grad_fn else []
    leaves = [n.next_functions[0][0] if type(n).__name__ == "TBackward0" else n for n in children]
    found = [n.variable for n in leaves if n is not None and hasattr(n, "variable")]
    for fqn, module in crash.modules.items():
        if found and all(any(p is t for p in module._parameters.values()) for t in found):
            return fqn
    return None
