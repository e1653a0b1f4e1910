"""A cut between parameters and the loss."""

import linecache
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import CREATING, Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import owner, spoken
from cnnprobe.records.trace import ModuleCall
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying
from cnnprobe.rulebook.no_grad_params import unreached

PAIR = 2  # tensors of a difference
_REENTRANT = (
    "use_reentrant=False in checkpoint(...): the reentrant one trains nothing "
    "unless an input requires grad"
)


def sick() -> Mapping[str, Any]:
    """The first layer runs under no_grad."""
    return _net(cut=True)


def healthy() -> Mapping[str, Any]:
    """A detach beside the path: of a statistic that is only looked at."""
    return _net(cut=False)


def _net(cut: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            with torch.set_grad_enabled(not cut):
                hidden = self.body(x.flatten(1)).relu()
            return self.head(hidden / hidden.detach().norm(dim=1, keepdim=True))

    torch.manual_seed(0)
    return classifying(Net())


@rule(
    code="CP211",
    name="no-grad-path",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("no-grad-params", "unchanged-weights", "cannot-overfit"),
)
def no_grad_path(evidence: Evidence) -> Iterator[Finding]:
    """The path from parameters to the loss is cut: by detach, .data, no_grad, or a conversion.

    Why it matters: everything before the cut is never trained.
    What to do: remove it; keep no_grad for evaluation and for parts that are frozen; a checkpoint
    of what is given no gradient needs use_reentrant=False.
    Known exceptions: a stop-gradient beside another path that reaches the same parameters (SimSiam,
    a GAN's discriminator step). A straight-through estimator keeps its detach(): what it hides
    needs a loss of its own.
    Source: torch.Tensor.detach, "Returns a new Tensor, detached from the current graph. The result
    will never require gradient".
    """
    idle = set(unreached(evidence))
    if not idle:
        return
    flow = Flow(evidence.trace)
    modules = {owner(p) for p in idle}
    ends = find_ends(evidence, idle)
    toward = set().union(*(flow.before(i) for i in ends)) if ends else set(range(len(flow.calls)))
    # The nearest cut on the way to the loss; else one whose values left torch, by numpy or by item,
    # and came back as others.
    for i in (
        *(i for i in flow.primitives() if i in toward),
        *(i for i in flow.primitives() if i not in toward),
    ):
        call = flow.calls[i]
        if not _is_without_gradient(call) or operation(call) in CREATING:
            continue
        carries = any(t.requires_grad for t in call.inputs)
        own = call.fqn in modules or any(
            isinstance(t.source, str) and t.source in idle for t in call.inputs
        )
        upstream = {flow.owner(j) for j in flow.before(i)} | {flow.owner(i)}
        if (carries and upstream & modules) or own:
            cut_in = flow.owner(call.parent) if own else flow.owner(i)
            yield _to_finding(evidence, flow, i, cut_in=cut_in, count=len(idle))
            return


def _is_without_gradient(call: ModuleCall) -> bool:
    """Whether it gives floating tensors that require no grad."""
    return (
        bool(call.outputs)
        and not any(o.requires_grad for o in call.outputs)
        and call.outputs[0].dtype.startswith(("float", "bfloat"))
    )


def _to_finding(
    evidence: Evidence, flow: Flow, i: int, *, cut_in: str | None, count: int
) -> Finding:
    call = flow.calls[i]
    is_checkpointed = _is_checkpointed(evidence, i)
    if is_straight_through(flow, i):
        return _to_straight_through(evidence, flow, i, count)
    kind = "detach" if operation(call) == "detach" else ""
    return Finding(
        module=flow.owner(i),
        message=(
            f"the output of {describe(call)} does not require grad although what goes "
            f"into it does: {format_counted(count, 'trainable parameter')} before it "
            f"{'gets' if count == 1 else 'get'} no gradient"
        ),
        fix=_REENTRANT if is_checkpointed else _say_cut(evidence, cut_in),
        source=call.source,
        kind="reentrant-checkpoint" if is_checkpointed else kind,
        subject=describe(call),
    )


def is_straight_through(flow: Flow, index: int) -> bool:
    """Whether a detach() is that of x + (q - x).detach(), which gives the value of q and hands its
    gradient to x on purpose (Bengio, Léonard, Courville 2013, arXiv:1308.3432).
    """
    given = flow.data(index)
    made = None if given is None else flow.origin(given)
    if operation(flow.calls[index]) != "detach" or made is None:
        return False
    if operation(flow.calls[made]) != "sub" or len(flow.calls[made].inputs) != PAIR:
        return False
    taken = flow.outer(flow.calls[made].inputs[1])
    sums = [i for i in flow.passes_on(index) if operation(flow.calls[i]) == "add"]
    added = [flow.outer(info) for i in sums for info in flow.calls[i].inputs]
    return any((a.source, a.shape) == (taken.source, taken.shape) for a in added)


def _to_straight_through(evidence: Evidence, flow: Flow, i: int, count: int) -> Finding:
    module = flow.owner(i)
    return Finding(
        module=module,
        message=(
            f"x + (q - x).detach() in {spoken(evidence, module)} gives the gradient of its result "
            f"to x alone: {format_counted(count, 'trainable parameter')} that "
            f"{'makes' if count == 1 else 'make'} q {'gets' if count == 1 else 'get'} none"
        ),
        fix=("leave the detach(), and add a loss on q as it was before: F.mse_loss(q, x.detach())"),
        source=flow.calls[i].source,
        kind="straight-through",
        subject=describe(flow.calls[i]),
    )


def _say_cut(evidence: Evidence, module: str | None) -> str:
    return f"remove the detach(), .data or torch.no_grad() around it in {spoken(evidence, module)}"


def find_ends(evidence: Evidence, idle: set[str]) -> list[int]:
    """The losses that should reach the parameters: with several optimizers, that of the last
    backward before the step of the one that holds them.
    """
    step = evidence.steps[0]
    holders = {o.name for o in evidence.optimizers if o.parameters & idle}
    count, chosen = 0, []
    for event in step.events:
        count += event.kind == "backward"
        if event.kind == "step" and event.subject in holders and 0 < count <= len(step.losses):
            chosen.append(step.losses[count - 1])
    losses = chosen if len(evidence.optimizers) > 1 and chosen else step.losses
    return [loss.call for loss in losses if loss.call is not None]


def _is_checkpointed(evidence: Evidence, index: int) -> bool:
    """Whether a call, or one that it was made in, stands on a line that calls checkpoint(...), and
    is given nothing that requires grad.
    """
    at: int | None = index
    while at is not None:
        call = evidence.trace.calls[at]
        path, _, line = call.source.rpartition(":")
        text = linecache.getline(path, int(line)) if line.isdigit() else ""
        if "checkpoint" in text and not any(t.requires_grad for t in call.inputs if t.path == ""):
            return True
        at = call.parent
    return False
