"""A loss that is cut off from the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import find_cut, trainable, variable
from cnnprobe.diagnosis.evidence.sums import is_loss
from cnnprobe.records.trace import ModuleCall
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping
from cnnprobe.rulebook.no_grad_path import find_ends


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
        or (len(losses) > len(evidence.steps) and not _is_stepped(evidence))
    ):
        return
    flow = Flow(evidence.steps[0].trace)
    ends = find_ends(evidence, set(trainable(evidence)))
    last = ends[-1] if ends else losses[0].call
    made = f" by {describe(flow.calls[last])}" if last is not None else ""
    detach = find_detach(flow, last)
    kind, fix = _choose_fix(evidence, flow, detach)
    yield Finding(
        module=None,
        message=(
            f"the graph behind the loss, made{made}, reaches 0 of the model's "
            f"{format_counted(len(trainable(evidence)), 'trainable parameter')}"
        ),
        fix=fix,
        source=flow.line(last if detach is None or kind != "detach" else detach),
        kind=kind,
    )


def _is_stepped(evidence: Evidence) -> bool:
    """Whether an optimizer that holds some of the model steps, with gradients from nowhere: of
    several losses one is its own. Where gradients are written by hand, as in Reptile, none is.
    """
    if any(g.norm > 0 for step in evidence.steps for g in step.gradients.values()):
        return False
    mine = {o.name for o in evidence.optimizers if o.parameters & set(trainable(evidence))}
    return any(e.kind == "step" and e.subject in mine for s in evidence.steps for e in s.events)


def find_detach(flow: Flow, last: int | None) -> int | None:
    """The detach() between the model's output and a loss."""
    return next(
        (
            i
            for i in sorted(flow.before(last) if last is not None else ())
            if operation(flow.calls[i]) == "detach"
            and flow.owner(i) is None
            and any(flow.owner(row) is not None for row in flow.before(i))
            and any(t.requires_grad for t in flow.calls[i].inputs)
        ),
        None,
    )


def _choose_fix(evidence: Evidence, flow: Flow, detach: int | None) -> tuple[str, str]:
    """Where the graph ends, and what to do."""
    model = variable(evidence, "model")
    if not flow.roots() and evidence.own_loop:
        return "model-not-called", (
            f"call {model} itself in the step, and no copy of it: it is not called there"
        )
    given = [info for root in flow.roots() for info in flow.calls[root].outputs]
    if given and not any(info.requires_grad for info in given):
        return "no-grad", f"call {model} outside of torch.no_grad() and torch.inference_mode()"
    if detach is not None:
        line = flow.line(detach).rpartition("/")[2]
        return (
            "detach",
            f"give the loss the output of {model} itself: remove the detach() at {line}",
        )
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
