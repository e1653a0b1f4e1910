"""A mask that makes scores 0 before their softmax."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import find_given, input_stats, spoken, stat
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, images

ROUNDING = 1e-4  # of a variance of at most 0.25


def _net(masked_by_zero: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.fc = (nn.Linear(8, n) for n in (8, 8, 4))

        def forward(self, x: Any) -> Any:
            x = x.squeeze(1)
            scores = self.query(x) @ self.key(x).transpose(1, 2)
            seen = torch.ones(8, 8).tril()
            if masked_by_zero:
                scores = scores * seen
            else:
                scores = scores.masked_fill(seen == 0, float("-inf"))
            return self.fc((scores.softmax(-1) @ x).mean(1))

    torch.manual_seed(0)
    return classifying(Net(), inputs=images())


def sick() -> Mapping[str, Any]:
    """The scores are multiplied by a mask of 0 and 1."""
    return _net(True)


def healthy() -> Mapping[str, Any]:
    """They are filled with minus infinity."""
    return _net(False)


@rule(
    code="CP424",
    name="mask-of-zeros",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-at-init",),
)
def mask_of_zeros(evidence: Evidence) -> Iterator[Finding]:
    """A softmax gets scores that a mask has made 0, and not minus infinity; or the mask comes after
    the softmax, and fills its weights with a value that is none.

    Why it matters: the softmax of a score of 0 is no 0: what is masked still counts, more than
    what has a negative score.
    What to do: scores.masked_fill(mask == 0, float("-inf")) before the softmax.
    Known exceptions: scores that are multiplied by weights between 0 and 1.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3, "setting to minus infinity".
    """
    flow = Flow(evidence.trace)
    yield from _find_late(evidence, flow)
    for i in flow.primitives({"softmax"}):
        given = flow.data(i)
        made = flow.origin(given) if given is not None else None
        if made is not None and _masks(evidence, flow, flow.calls[made]):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(flow.calls[made])} makes the masked scores 0 before "
                    f"{describe(flow.calls[i])}: their weights do not become 0"
                ),
                fix=(
                    'fill them with float("-inf"), by masked_fill, before the softmax in '
                    f"{spoken(evidence, flow.owner(i))}"
                ),
                source=flow.line(made),
                subject=describe(flow.calls[made]),
            )


def _find_late(evidence: Evidence, flow: Flow) -> Iterator[Finding]:
    """Masks that fill the weights of a softmax with a value below 0."""
    for i in flow.primitives({"masked_fill"}):
        call, given = flow.calls[i], flow.data(i)
        value = argument(call, "value")
        made = flow.origin(given) if given is not None else None
        is_weight = made is not None and operation(flow.calls[made]) == "softmax"
        if is_weight and isinstance(value, int | float) and value < 0:
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(call)} fills weights with {value:g} after the softmax: a weight is "
                    "between 0 and 1, and those of a row add up to 1"
                ),
                fix=f"move the mask before the softmax in {spoken(evidence, flow.owner(i))}",
                source=flow.line(i),
                kind="after-softmax",
                subject=describe(call),
            )


def _masks(evidence: Evidence, flow: Flow, call: ModuleCall) -> bool:
    """Whether it sets some of the values of a layer to 0."""
    if operation(call) == "masked_fill":
        return argument(call, "value") == 0
    if operation(call) != "mul" or not any(t.requires_grad for t in call.inputs):
        return False
    scores = [t for t in call.inputs if t.requires_grad]
    before = stat(input_stats(flow, scores[0]), "zeros")
    if not call.outputs or not stat(call.outputs[0], "zeros") > before:
        return False
    return any(_is_mask(evidence, flow, t) for t in call.inputs if not t.requires_grad)


def _is_mask(evidence: Evidence, flow: Flow, info: TensorInfo) -> bool:
    """Whether the values are 0 and 1 alone, as far as they are known: their mean square is then
    their mean.
    """
    values = find_given(evidence, flow, info)
    if info.dtype == "bool" or values is None or values.stats is None:
        return True
    mean, spread = stat(values, "mean"), stat(values, "std")
    is_binary = abs(spread**2 - mean * (1 - mean)) < ROUNDING
    return stat(values, "min") == 0 and stat(values, "max") == 1 and is_binary
