"""A mean over nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, describe, operation, option
from cnnprobe.diagnosis.evidence.questions import (
    LossCall,
    given_values,
    input_stats,
    loss_calls,
    stat,
)
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, images, labels, perceptron

IGNORED = -100  # the default of ignore_index
CHOOSING = frozenset({"getitem", "masked_select", "index_select", "gather"})
REDUCING = frozenset({"mean", "sum", "nanmean", "prod"})
SPREADING = frozenset({"std", "var"})
CLASSIFYING = frozenset({"cross_entropy", "nll_loss"})


def _ignoring(index: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    return classifying(
        perceptron(),
        inputs=images(),
        targets=torch.where(labels() == 1, 1, -1) if index else torch.full((8,), -1),
        loss_fn=nn.CrossEntropyLoss(ignore_index=-1),
    )


def sick() -> Mapping[str, Any]:
    """All labels are -1, and ignore_index=-1."""
    return _ignoring(0)


def healthy() -> Mapping[str, Any]:
    """A quarter of them is another."""
    return _ignoring(1)


@rule(
    code="CP419",
    name="empty-reduction",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "nan-forward",
        "nan-backward",
        "divergence",
        "loss-not-decreasing",
        "loss-always-zero",
        "zero-grad",
        "lr-too-high",
        "unchanged-weights",
        "constant-output",
        "loss-at-init",
        "constant-targets",
    ),
)
def empty_reduction(evidence: Evidence) -> Iterator[Finding]:
    """A mean or a loss is taken over nothing: all labels are ignored, all of their weights are
    zero, or a mask chooses no value.

    Why it matters: 0 / 0 is NaN, and after one step with it every weight is NaN.
    What to do: leave such batches out, or divide by mask.sum().clamp(min=1); see whether the labels
    that are ignored, or the mask, are those that were meant.
    Known exceptions: a sum over nothing is 0, as is a mean whose divisor is at least 1: such a
    batch teaches nothing and does no harm.
    Source: torch.nn.CrossEntropyLoss, whose mean is over the labels that are not ignored, weighted.
    """
    for loss in loss_calls(evidence):
        is_judged = loss.operation in CLASSIFYING and _is_nan(loss.call)
        cause = _find_nothing(evidence, loss) if is_judged else None
        if cause is not None:
            yield _report(loss.flow, loss.index, *cause)
            return
    for trace in (evidence.trace, evidence.evaluation):
        flow = Flow(trace) if trace is not None else None
        for i in flow.primitives() if flow is not None else ():
            assert flow is not None  # noqa: S101
            cause = _find_empty(flow, i)
            if cause is not None:
                yield _report(flow, i, *cause)
                return


def _report(flow: Flow, index: int, cause: str, fix: str, kind: str = "") -> Finding:
    return Finding(
        module=flow.owner(index),
        message=f"{describe(flow.calls[index])} gives NaN: {cause}",
        fix=fix,
        source=flow.line(index),
        kind=kind,
        subject=describe(flow.calls[index]),
    )


def _is_nan(call: ModuleCall) -> bool:
    return bool(call.outputs) and stat(call.outputs[0], "nan") > 0


def _is_finite(info: TensorInfo) -> bool:
    return not (stat(info, "nan") > 0 or stat(info, "inf") > 0)


def _find_nothing(evidence: Evidence, loss: LossCall) -> tuple[str, ...] | None:
    """Why a loss of classes has no label to judge, what to do, and by which of its options."""
    flow, target = loss.flow, given_values(evidence, loss)
    ignored = option(evidence.trace, loss.call, "ignore_index", IGNORED)
    count = stat(target, "count")
    if count > 0 and stat(target, "min") == stat(target, "max") == ignored:
        return (
            f"all {count:.0f} labels are {ignored}, which is ignore_index",
            "leave batches without a label out, or see what became of the labels",
            "ignore-index",
        )
    if count == 0:
        return "there are 0 labels", "leave batches without a label out"
    has_weight = len(loss.call.inputs) > 2
    if has_weight and _is_finite(input_stats(flow, loss.prediction)):
        return (
            f"the class weights of all {count:.0f} labels are 0",
            "give the classes that occur a weight above 0",
            "weight",
        )
    return None


def _find_empty(flow: Flow, index: int) -> tuple[str, str] | None:
    """Why a row has nothing to reduce."""
    call, kind = flow.calls[index], operation(flow.calls[index])
    given = flow.data(index)
    if given is None or not call.outputs:
        return None
    if kind == "div" and _is_nan(call) and len(call.inputs) > 1:
        return _find_empty_divisor(flow, call)
    is_reducing = kind in REDUCING | SPREADING | LOSSES
    if is_reducing and _is_nan(call) and 0 in given.shape:
        return _say_chosen(flow, given)
    if kind in SPREADING and _is_nan(call) and _is_finite(input_stats(flow, given)):
        return (
            "it is over one value, and the unbiased one divides by 0",
            f"give it more values, or correction=0 in {describe(call)}",
        )
    return None


def _say_chosen(flow: Flow, given: TensorInfo) -> tuple[str, str]:
    """Which mask or index chose nothing."""
    maker = flow.producer(given)
    while maker is not None and operation(flow.calls[maker]) not in CHOOSING:
        before = flow.data(maker)
        maker = flow.producer(before) if before is not None and 0 in before.shape else None
    fix = "leave such batches out, or see whether the mask is the one that was meant"
    if maker is None:
        return f"it is over a tensor of shape {given.shape}, which holds 0 values", fix
    whole = flow.calls[maker].inputs[0].shape if flow.calls[maker].inputs else ()
    return f"the mask or index before it chooses 0 values of a tensor of shape {whole}", fix


def _find_empty_divisor(flow: Flow, call: ModuleCall) -> tuple[str, str] | None:
    """0 / 0 where the divisor is the size of a mask."""
    divisor = call.inputs[1]
    if divisor.requires_grad:
        return None
    origin = flow.origin(divisor, _KEEPING)
    if origin is None or operation(flow.calls[origin]) not in ("sum", "count_nonzero"):
        return None
    made = input_stats(flow, divisor)
    zeros, count = stat(made, "zeros"), stat(made, "count")
    if not zeros > 0:
        return None
    which = "the mask is empty" if count == 1 else f"{zeros:.0f} of {count:.0f} masks are empty"
    return (
        f"{which}, so that it is 0 / 0",
        "divide by the clamped size of the mask: mask.sum().clamp(min=1)",
    )


_KEEPING = frozenset({"float", "to", "double", "unsqueeze", "view", "reshape", "expand", "squeeze"})
