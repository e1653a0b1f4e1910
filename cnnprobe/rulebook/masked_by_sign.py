"""Targets below 0 that a mask of the loss leaves out."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import find_given, stat, variable
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import images, perceptron, stepping

TURNED = frozenset({"bitwise_not", "logical_not", "rsub", "where", "neg", "eq"})
COMPARED = frozenset({"gt", "ge", "lt", "le"})
TAKING = frozenset({"mul", "getitem", "masked_select"})
FAR = 0.5  # of the standard deviation, below 0: no rounding
WHOLE = 1e-6  # by which a value that stands for none, as -1, may be off


def _masking(any_value: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:  # noqa: ARG001
        mask = (targets != 0 if any_value else targets > 0).float()
        error = (model(inputs) - targets).abs() * mask
        optimizer.zero_grad()
        (error.sum() / mask.sum()).backward()
        optimizer.step()

    return stepping(perceptron(), loop, targets=images(8, size=2).flatten(1) / 2)


def sick() -> Mapping[str, Any]:
    """A mask of normalised targets > 0."""
    return _masking(any_value=False)


def healthy() -> Mapping[str, Any]:
    """A mask of those != 0."""
    return _masking(any_value=True)


@rule(code="CP468", name="masked-by-sign", severity=Severity.WARNING, examples=(sick, healthy))
def masked_by_sign(evidence: Evidence) -> Iterator[Finding]:
    """The loss of a regression leaves out all targets below 0, of targets that lie around 0.

    Why it matters: a mask of valid values is made for raw ones, as depths above 0; of normalised
    targets it drops every value below the mean, and the model never learns them.
    What to do: make the mask of the raw targets, or compare with the value that stands for none.
    Known exceptions: targets of two values, as -1 and 1; a least value that is whole, as -1, which
    may stand for none; a mean farther from 0 than a standard deviation; a mask of which the other
    side is used too.
    Source: the first step's comparison of the targets with 0, and what reads it.
    """
    flow = Flow(evidence.trace)
    compared = [
        i
        for i in flow.primitives(COMPARED)
        if flow.calls[i].inputs and flow.outer(flow.calls[i].inputs[0]).source is None
    ]
    for i in compared:
        call = flow.calls[i]
        target = find_given(evidence, flow, call.inputs[0])
        if (
            len(compared) == 1
            and operation(call) in ("gt", "ge")
            and len(call.inputs) == 1
            and argument(call, "other", None) == 0
            and target is not None
            and target in evidence.targets
            and _lies_around_zero(target)
            and _takes_part(flow, i)
        ):
            yield Finding(
                module=None,
                message=(
                    f"the loss takes only {variable(evidence, 'targets')} above 0 "
                    f"({describe(call)}), but they run from {stat(target, 'min'):.3g} to "
                    f"{stat(target, 'max'):.3g} with a mean of {stat(target, 'mean'):.3g}: those "
                    "below 0 are never learned"
                ),
                fix=(
                    "make the mask of the targets before they are normalised, or compare with the "
                    "value that stands for none (targets != 0)"
                ),
                source=call.source,
            )


def _lies_around_zero(target: TensorInfo) -> bool:
    """Whether values of both signs are usual, and of more than two kinds."""
    mean, std = stat(target, "mean"), stat(target, "std")
    least, most = stat(target, "min"), stat(target, "max")
    is_spread = abs(mean) < std and least < -FAR * std and most > FAR * std
    is_sentinel = abs(least - round(least)) < WHOLE if is_spread else True
    return target.dtype.startswith(("float", "bfloat")) and is_spread and not is_sentinel


def _takes_part(flow: Flow, index: int) -> bool:
    """Whether the mask takes a part of what has a gradient, and its other side is not used."""
    after = [flow.calls[i] for i in flow.after(index)]
    is_turned = any(operation(call) in TURNED for call in after)
    return not is_turned and any(
        operation(call) in TAKING and any(info.requires_grad for info in call.inputs)
        for call in after
    )
