"""Parameters that are used and get no gradient."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    LOSSES,
    Evidence,
    Flow,
    describe,
    operation,
    sources_read,
)
from cnnprobe.diagnosis.evidence.questions import (
    complete,
    find_cut,
    optimised,
    owner,
    reached,
    spoken,
    topmost,
    trainable,
)
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying

PAIR = 2  # values and indices, as max, topk and sort give them


def _net(cut: bool) -> Mapping[str, Any]:
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1)).relu()
            return self.head(x.detach() if cut else x)

    import torch

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """A detach between body and head."""
    return _net(cut=True)


def healthy() -> Mapping[str, Any]:
    """No detach."""
    return _net(cut=False)


@rule(
    code="CP210",
    name="no-grad-params",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit",),
)
def no_grad_params(evidence: Evidence) -> Iterator[Finding]:
    """Trainable parameters take part in the forward pass, but no loss reaches them.

    Why it matters: they stay as they were initialised.
    What to do: see where the path to the loss is cut (no-grad-path), or use the output that they
    make.
    Known exceptions: parameters of outputs that the model returns and the loss leaves alone are
    info, unless the loop computes a loss of them; those that no optimizer holds are not reported.
    Source: the autograd graph behind the loss against the registry.
    """
    idle = unreached(evidence)
    if not idle:
        return
    flow = Flow(evidence.trace)
    returned = {flow.origin(info) for root in flow.roots() for info in flow.calls[root].outputs} | {
        info.source for root in flow.roots() for info in flow.calls[root].outputs
    }
    losses = {loss.call for loss in evidence.steps[0].losses}
    toward = set().union(*(flow.before(i) for i in losses if i is not None)) if losses else set()
    for module in topmost({owner(p) for p in idle}, evidence.trace):
        rows = {
            i
            for i in flow.primitives()
            if (flow.owner(i) or "") == module or (flow.owner(i) or "").startswith(module + ".")
        }
        onward = set(rows).union(*(flow.after(i) for i in rows)) if rows else set()
        aside = bool(onward & returned) and not onward & toward
        count = sum(
            1 for p in idle if owner(p) == module or p.startswith(module + ".") or module == ""
        )
        dropped = aside and _find_dropped_loss(evidence, flow, onward - toward)
        kind, fix = _choose_fix(evidence, flow, module, rows, aside=aside)
        if dropped:
            fix = (
                f"add {describe(flow.calls[dropped])} of it at "
                f"{flow.line(dropped).rpartition('/')[2]} to the loss: it is computed, and no "
                "backward reaches it"
            )
        yield Finding(
            module=module,
            severity=Severity.INFO if aside and not dropped else None,
            message=(
                f"{format_counted(count, 'trainable parameter')} of {spoken(evidence, module)} "
                f"{'is used, but gets' if count == 1 else 'are used, but get'} no gradient in "
                f"{format_counted(len(evidence.steps), 'step')}"
            ),
            fix=fix,
            kind=kind,
        )


def _find_dropped_loss(evidence: Evidence, flow: Flow, rows: set[int]) -> int | None:
    """A loss that the loop computes of an output, whose number nobody reads either."""
    read = {row for row, _ in evidence.steps[0].reads}
    return next(
        (
            i
            for i in sorted(rows)
            if operation(flow.calls[i]) in LOSSES
            and flow.owner(i) is None
            and not (flow.after(i) | {i}) & read
        ),
        None,
    )


def _choose_fix(
    evidence: Evidence, flow: Flow, module: str, rows: set[int], *, aside: bool
) -> tuple[str, str]:
    """Which kind of cut it is, and what to do."""
    if aside:
        return "left-aside", "the loss leaves this output alone: use it, or freeze what makes it"
    after = set().union(*(flow.after(i) for i in rows)) | rows
    cut = find_cut(flow, after)
    if cut is not None:
        instead = (
            "use what it compares, or pass the gradient beside it: hard + (x - x.detach())"
            if cut.outputs[0].dtype == "bool"
            else "use softmax, or F.gumbel_softmax(..., hard=True), in its place"
        )
        return "no-derivative", f"{describe(cut)} has no derivative: {instead}"
    ranking = next((i for i in sorted(after) if _gives_indices_alone(flow, i)), None)
    if ranking is not None:
        return "no-derivative", (
            f"multiply by the values that {describe(flow.calls[ranking])} gives: only its indices "
            "are used, which have no derivative"
        )
    ends = [flow.calls[i] for i in after if not flow.readers.get(i) and flow.owner(i) is not None]
    if ends and all(call.outputs and call.outputs[0].requires_grad for call in ends):
        last = describe(ends[-1])
        unread = f"use what {last} gives, which nothing reads"
        return "unread-output", f"{unread}, or remove {spoken(evidence, module)}"
    return "", "remove the detach(), no_grad(), .data or .item() between them and the loss"


def _gives_indices_alone(flow: Flow, index: int) -> bool:
    """Whether a row gives values and indices, as max, topk and sort do, and only these are read."""
    made = flow.calls[index].outputs
    if len(made) != PAIR or not made[0].requires_grad or not made[1].dtype.startswith("int"):
        return False
    read = [t for j in flow.readers.get(index, ()) for t in flow.calls[j].inputs]
    return not any(t.source == index and t.dtype == made[0].dtype for t in read)


def unreached(evidence: Evidence) -> list[str]:
    """Trainable, used parameters that an optimizer holds (where one is known) and that no graph
    reaches, while it reaches others. A copy that the loop moves by hand is trained in that way.
    """
    arrived = reached(evidence)
    if not arrived or not complete(evidence):
        return []
    read = set().union(*(sources_read(step.trace) for step in evidence.steps))
    used = {c.fqn for step in evidence.steps for c in step.trace.calls}
    kinds = {m.fqn: m for m in evidence.trace.modules}
    held = optimised(evidence)
    moved = {n for step in evidence.steps for n, change in step.changes.items() if change > 0}
    moved -= {n for step in evidence.steps for n, change in step.stepped.items() if change > 0}
    return [
        name
        for name in trainable(evidence)
        if name not in arrived
        and name not in moved
        and (not evidence.optimizers or name in held)
        and (
            name in read
            or (owner(name) in used and owner(name) in kinds and kinds[owner(name)].is_stock)
        )
    ]
