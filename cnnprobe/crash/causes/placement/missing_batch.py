from torch import nn

from cnnprobe.crash.cause import STRONG, USUAL, Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.build import change_input
from cnnprobe.crash.facts.windows import count_dims
from cnnprobe.records.trace import ModuleCall

_WITH_BATCH = (nn.modules.conv._ConvNd, nn.BatchNorm2d, nn.BatchNorm3d)

_PROGRAM = """
  model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
- args = (torch.randn(3, 8, 8),)
+ args = (torch.randn(3, 8, 8).unsqueeze(0),)
"""
EXAMPLE = Example(_PROGRAM, blames="3", repair="x.unsqueeze(0)")


@cause("CP068", "missing-batch", EXAMPLE, prior=997)
def missing_batch(crash: Crash) -> Suspects:
    """The input is one sample without a batch dimension.

    Why it happens: a Dataset gives single samples; convolutions take them without complaint, and
    what comes after takes the channels for the batch.
    What to do: add the batch dimension, x.unsqueeze(0), or read samples through a DataLoader.
    Known exceptions: convolutions and poolings are defined without a batch too.
    Source: torch.nn.Conv2d, "Input: (N, C, H, W) or (C, H, W)".
    """
    call = crash.call
    if not crash.root_inputs:
        return
    shape = crash.root_inputs[0].shape
    first = next((c for c in crash.trace.calls if c.inputs and _count_dims(crash, c)), None)
    in_users_code = call is not None and call.fqn is not None and crash.leaf is None
    if first is None and in_users_code:
        layers = (m for m in crash.modules.values() if isinstance(m, nn.modules.conv._ConvNd))
        layer = next(layers, None)
        fits = layer is not None and len(shape) == count_dims(layer) + 1
        if layer is not None and fits and shape[0] == layer.in_channels:
            yield _explain(crash, crash.owner, USUAL)
        return
    if first is None or not _lacks_batch(crash, first, shape):
        return
    blamed = call.fqn if call is not None and call.fqn is not None else crash.owner
    yield _explain(crash, blamed, STRONG)


def _count_dims(crash: Crash, call: ModuleCall) -> int:
    module = crash.modules.get(call.fqn or "") if call.fqn is not None else None
    return count_dims(module) if isinstance(module, _WITH_BATCH) else 0


def _lacks_batch(crash: Crash, first: ModuleCall, shape: tuple[int, ...]) -> bool:
    """Whether the input and what the first layer got have a dim too few, and its channels fit."""
    rank, layer = _count_dims(crash, first) + 1, crash.modules[first.fqn or ""]
    if not len(first.inputs[0].shape) == len(shape) == rank:
        return False
    is_convolution = isinstance(layer, nn.modules.conv._ConvNd)
    return not is_convolution or layer.in_channels in (shape[0], shape[-1])


def _explain(crash: Crash, module: str, weight: int) -> Suspect:
    shape = crash.root_inputs[0].shape
    title = "add the batch dimension: x.unsqueeze(0)"
    edit = change_input(lambda t: t[None], "{x}[None]", title=title)
    message = f"the input {shape} is one sample without a batch dimension"
    arithmetic = f"expected (N, {', '.join(map(str, shape))}), got {shape}"
    return blame(module, message, edit, arithmetic=arithmetic, weight=weight)
