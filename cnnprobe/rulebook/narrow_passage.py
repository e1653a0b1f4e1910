"""A layer of one channel that all of a classifier goes through."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import complete, loss_calls, spoken
from cnnprobe.rulebook.material import classifying, images

WIDE = 8  # channels before and behind it
CLASSES = 3


def _net(width: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return classifying(
        nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, width, 1), nn.ReLU(),
            nn.Conv2d(width, 16, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
        ),
        inputs=images(),
    )  # fmt: skip


def sick() -> Mapping[str, Any]:
    """16 channels, then 1, then 16."""
    return _net(1)


def healthy() -> Mapping[str, Any]:
    """16, then 4, then 16: a bottleneck as in ResNet."""
    return _net(4)


@rule(code="CP327", name="narrow-passage", severity=Severity.WARNING, examples=(sick, healthy))
def narrow_passage(evidence: Evidence) -> Iterator[Finding]:
    """All that a classifier knows of an image passes through a layer of one channel, between layers
    of many.

    Why it matters: one number a place is what is left of all features; layers behind it cannot
    bring them back.
    What to do: more out_channels there; a quarter of what comes in is usual.
    Known exceptions: a gate or a mask beside the path; the code of an autoencoder; a loss that is
    no cross entropy of 3 classes and more.
    Source: He et al. 2016, arXiv:1512.03385, section 4.1, bottlenecks of a quarter; Tishby &
    Zaslavsky 2015, arXiv:1503.02406: what a layer loses no later one has.
    """
    if not complete(evidence):
        return
    for loss in loss_calls(evidence):
        shape = loss.prediction.shape
        if loss.operation != "cross_entropy" or len(shape) < 2 or shape[1] < CLASSES:
            continue
        flow, end = loss.flow, loss.flow.producer(loss.prediction)
        for i in sorted(flow.before(end)) if end is not None else ():
            if not _is_narrow(flow, i) or _is_passed(flow, i, end):
                continue
            call = flow.calls[i]
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"all that reaches the {shape[1]} classes passes through {describe(call)}, "
                    f"which makes 1 channel of {call.inputs[0].shape[1]}"
                ),
                fix=f"more channels in {spoken(evidence, flow.owner(i))}: "
                f"{max(2, call.inputs[0].shape[1] // 4)} in place of 1",
                source=call.source,
            )
        return


def _is_narrow(flow: Flow, index: int) -> bool:
    """Whether a row of weights makes one channel of many, and one of weights behind it many."""
    call = flow.calls[index]
    if operation(call) not in PROJECTIONS or not call.inputs or not call.outputs:
        return False
    before, made = call.inputs[0].shape, call.outputs[0].shape
    if len(made) not in (2, 4) or len(before) != len(made) or made[1] != 1 or before[1] < WIDE:
        return False
    following = [r for r in flow.after(index) if operation(flow.calls[r]) in PROJECTIONS]
    wide = [flow.calls[r].outputs[0].shape for r in following if flow.calls[r].outputs]
    return any(len(s) > 1 and s[1] >= WIDE for s in wide)


def _is_passed(flow: Flow, index: int, end: int | None) -> bool:
    """Whether anything of the input reaches the end on another way."""
    stack, seen = [end] if end is not None else [], {index}
    while stack:
        row = stack.pop()
        if row in seen or row is None:
            continue
        seen.add(row)
        for info in flow.calls[row].inputs:
            if info.source is None and len(info.shape) > 1:
                return True
            if isinstance(info.source, int):
                stack.append(info.source)
    return False
