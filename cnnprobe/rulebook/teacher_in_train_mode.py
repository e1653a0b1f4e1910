"""A network beside the model whose output is a target, and that is in train mode."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, PROJECTIONS, Evidence, Flow, argument, operation
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(training: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    teacher = perceptron(hidden=64)
    teacher.insert(3, nn.Dropout(0.5))
    teacher.train(training)
    with torch.no_grad():  # it has learnt: its weights are not those that torch draws
        for weight in teacher.parameters():
            weight.mul_(2)

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        output = model(inputs)
        with torch.no_grad():
            soft = teacher(inputs).softmax(1)
        loss = loss_fn(output, targets) + loss_fn(output, soft)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The teacher was never put into eval mode."""
    return _loop(training=True)


def healthy() -> Mapping[str, Any]:
    """It was."""
    return _loop(training=False)


@rule(
    code="CP544",
    name="teacher-in-train-mode",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("eval-nondeterminism",),
)
def teacher_in_train_mode(evidence: Evidence) -> Iterator[Finding]:
    """A fixed network beside the model gives the targets, and its dropout or its BatchNorm is in
    train mode.

    Why it matters: its targets are noisy, and its running statistics move with every batch, also
    under no_grad.
    What to do: teacher.eval() once, before the loop, and not model.train() of what holds both.
    Known exceptions: a teacher that follows the model as a moving average, which is often in train
    mode; a network that is trained.
    Source: torch.nn.Module.eval; Hinton et al. 2015, arXiv:1503.02531, section 2: the teacher's
    distribution is the target.
    """
    if not evidence.own_loop or evidence.averages or not evidence.steps:
        return
    flow = Flow(evidence.trace)
    rows = [i for i in flow.primitives(("dropout", "batch_norm")) if _is_active(flow, i)]
    lines = dict.fromkeys(flow.calls[i].source for i in rows)
    for line in lines:
        here = [i for i in rows if flow.calls[i].source == line]
        kinds = sorted({operation(flow.calls[i]) for i in here})
        names = {"dropout": "dropout", "batch_norm": "BatchNorm"}
        yield Finding(
            module=None,
            severity=None if "dropout" in kinds else Severity.INFO,
            message=(
                "the network that gives the targets of the loss is in train mode: "
                f"{' and '.join(names[k] for k in kinds)} in it "
                f"{'are' if len(kinds) > 1 else 'is'} active in each step"
            ),
            fix="call eval() of it once, before the loop",
            source=line,
        )


def _is_active(flow: Flow, index: int) -> bool:
    """Whether a row of no module of the model's works as in train mode, has no gradient, and leads
    into a loss as its target.
    """
    call = flow.calls[index]
    if flow.owner(index) is not None or argument(call, "training") is not True:
        return False
    if not call.outputs or call.outputs[0].requires_grad:
        return False
    if operation(call) == "dropout" and argument(call, "p") == 0:
        return False
    before = flow.before(index)
    is_network = any(
        operation(flow.calls[i]) in PROJECTIONS and flow.owner(i) is None for i in before
    )
    after = flow.after(index)
    losses = [i for i in after if operation(flow.calls[i]) in LOSSES]
    targets = [flow.producer(t) for i in losses for t in flow.calls[i].inputs[1:2]]
    return is_network and any(t in after for t in targets)
