"""A part of an input, or of the output, that makes no difference."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, Unread, operation
from cnnprobe.diagnosis.evidence.questions import variable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying, images

CUTTING = frozenset({"getitem", "narrow", "split", "chunk", "tensor_split", "select", "unbind"})


def _net(second: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(2, 8, 3), nn.Conv2d(2, 8, 3)
            self.head = nn.Linear(16, 4)

        def forward(self, x: Any) -> Any:
            left = self.left(x[:, :2])
            right = self.right(x[:, second : second + 2])
            return self.head(torch.cat([left, right], 1).relu().mean((2, 3)))

    torch.manual_seed(0)
    return classifying(Net(), inputs=images(channels=4))


def sick() -> Mapping[str, Any]:
    """The first two of four channels, twice."""
    return _net(0)


def healthy() -> Mapping[str, Any]:
    """The first two, and the last two."""
    return _net(2)


@rule(
    code="CP709",
    name="unread-part",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit",),
)
def unread_part(evidence: Evidence) -> Iterator[Finding]:
    """Some channels or features of an input change nothing: no gradient comes back to them, and
    noise in their place gives exactly the same output. Or the loss reads some channels of the
    output nowhere, although the targets hold values for them.

    Why it matters: the model learns without them, and nobody sees it in the loss.
    What to do: see which slices of the input are read: one taken twice, an end that is too early.
    Known exceptions: an input that is unread as a whole is ignored-input; one channel that is
    chosen by its number, x[:, 0]; places along height, width or time, which a stride or a mask
    leaves out; inputs that are not floating; outputs of which labels choose, and a class of one-hot
    targets that is left out.
    Source: the gradient of the outputs and a second forward pass, both in eval mode; of the output
    the loss of the step itself, with other values in these channels.
    """
    yield from _judge_output(evidence)
    for unread in evidence.probes.unread:
        cuts = find_cuts(evidence, unread)
        if cuts and all(_is_single(flow.calls[i], unread.dim) for flow, i in cuts):
            continue
        flow, last = cuts[-1] if cuts else (None, None)
        name, kind = unread.path or "its input", _name_places(evidence, unread)
        yield Finding(
            module=(flow.owner(last) if flow is not None else None) or "",
            message=(
                f"{len(unread.places)} of {unread.size} {kind} of {name}, {say_places(unread)} of "
                f"dim {unread.dim}, change the output by 0"
            ),
            fix=(
                f"see which slices of {name} {variable(evidence, 'model')}.forward reads: "
                f"{say_places(unread)} is in none of them"
            ),
            source=flow.line(last) if flow is not None else "",
        )


def _judge_output(evidence: Evidence) -> Iterator[Finding]:
    """Channels of the output that the loss does not read."""
    free = evidence.code.free
    if free is None or not free.channels:
        return
    places = say_places(Unread(path="", dim=1, places=free.channels, size=free.size))
    losses = evidence.steps[0].losses if evidence.steps else ()
    row = losses[0].call if losses else None
    yield Finding(
        module=None,
        message=(
            f"the loss reads {free.size - len(free.channels)} of the {free.size} channels of the "
            f"output: {places} change it by 0, although the targets hold values for them"
        ),
        fix=f"see which slices of the output the loss takes: {places} is in none of them",
        source=Flow(evidence.steps[0].trace).line(row) if row is not None else "",
        kind="output",
    )


def _name_places(evidence: Evidence, unread: Unread) -> str:
    info = next((t for t in evidence.inputs if t.path == unread.path), None)
    return "channels" if unread.dim == 1 and info and len(info.shape) > 2 else "features"


def find_cuts(evidence: Evidence, unread: Unread) -> list[tuple[Flow, int]]:
    """The rows within the model that take a part of that input, in the evaluation."""
    info = next((t for t in evidence.inputs if t.path == unread.path), None)
    if evidence.evaluation is None or info is None:
        return []
    flow = Flow(evidence.evaluation)
    return [
        (flow, i)
        for i in flow.primitives(CUTTING)
        if flow.owner(i) is not None and _is_of(flow, i, info.shape)
    ]


def _is_of(flow: Flow, index: int, shape: tuple[int, ...]) -> bool:
    first = flow.data(index)
    return first is not None and first.source is None and first.shape == shape


def _is_single(call: ModuleCall, dim: int) -> bool:
    """Whether a row takes one place of the dim by its number."""
    return operation(call) == "getitem" and isinstance(call.arguments.get(f"[1][{dim}]"), int)


def say_places(unread: Unread) -> str:
    """The places as they are sliced: "2:4"; one after the other where they are apart.

    >>> say_places(Unread(path="x", dim=1, places=(2, 3), size=4))
    '2:4'
    """
    first, last = unread.places[0], unread.places[-1]
    if last - first + 1 == len(unread.places):
        return f"{first}:{last + 1}"
    shown = ", ".join(map(str, unread.places[:4]))
    return f"{shown}, ..." if len(unread.places) > 4 else shown
