"""A loss that is cut off from the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import find_cut, trainable, variable
from cnnprobe.diagnosis.evidence.sums import is_loss
from cnnprobe.records.trace import ModuleCall
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(cut: bool) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss = loss_fn(model(inputs), targets)
        if cut:
            loss = torch.tensor(loss.item(), requires_grad=True)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """Re-wrapped in a new tensor."""
    return _loop(True)


def healthy() -> Mapping[str, Any]:
    """As it came."""
    return _loop(False)


@rule(
    code="CP410",
    name="loss-detached",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "no-grad-params",
        "no-grad-path",
        "unchanged-weights",
        "loss-not-decreasing",
        "cannot-overfit",
        "unoptimized-params",
        "zero-grad",
        "unused-loss",
    ),
)
def loss_detached(evidence: Evidence) -> Iterator[Finding]:
    """The graph behind the loss ends before it reaches any parameter.

    Why it matters: backward runs without an error and gives no parameter a gradient.
    What to do: do not re-wrap the loss (torch.tensor(loss)), convert it to numpy, or detach what it
    is made of.
    Known exceptions: none; a loss of another model's only is not reported, as long as the loop also
    has one of this model's.
    Source: torch.tensor, "copies data and creates a leaf tensor".
    """
    losses = [loss for step in evidence.steps for loss in step.losses]
    if (
        not losses
        or not trainable(evidence)
        or any(loss.reached or not loss.complete for loss in losses)
        or len(losses) > len(evidence.steps)
    ):
        return
    flow = Flow(evidence.steps[0].trace)
    last = losses[0].call
    made = f" by {describe(flow.calls[last])}" if last is not None else ""
    kind, fix = _choose_fix(evidence, flow)
    yield Finding(
        module=None,
        message=(
            f"the graph behind the loss, made{made}, reaches 0 of the model's "
            f"{format_counted(len(trainable(evidence)), 'trainable parameter')}"
        ),
        fix=fix,
        source=flow.line(last),
        kind=kind,
    )


def _choose_fix(evidence: Evidence, flow: Flow) -> tuple[str, str]:
    """Where the graph ends, and what to do."""
    model = variable(evidence, "model")
    if not flow.roots() and evidence.own_loop:
        return "model-not-called", (
            f"call {model} itself in the step, and no copy of it: it is not called there"
        )
    given = [info for root in flow.roots() for info in flow.calls[root].outputs]
    if given and not any(info.requires_grad for info in given):
        return "no-grad", f"call {model} outside of torch.no_grad() and torch.inference_mode()"
    cut = find_cut(flow)
    if cut is not None:
        return "no-derivative", (
            f"leave {describe(cut)} out of what is trained with: it has no derivative; give the "
            "loss the scores themselves"
        )
    other = find_other_loss(evidence)
    if other is not None:
        line = other.source.rpartition("/")[2]
        return "other-loss", (
            f"call backward on the result of {describe(other)} at {line}, which has a graph"
        )
    return "wrapped-again", (
        "call backward on the loss as the loss function gave it, without torch.tensor(), "
        ".item(), .numpy(), .data or .detach() on the way"
    )


def find_other_loss(evidence: Evidence) -> ModuleCall | None:
    """The loss function's call whose result has a graph, and goes neither into another tensor nor
    into a number.
    """
    step = evidence.steps[0]
    flow = Flow(step.trace)
    read = {row for row, _ in step.reads}
    rows = [i for i in flow.primitives(LOSSES) if is_loss(flow, i)]
    found = [i for i in rows if i not in read and not flow.readers.get(i)]
    return flow.calls[found[-1]] if found else None
