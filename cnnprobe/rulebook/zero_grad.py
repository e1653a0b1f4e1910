"""Weights whose gradient is exactly zero."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    ARRANGING,
    LOSSES,
    SQUASHING,
    Evidence,
    Flow,
    Step,
    describe,
    operation,
    operation_of_module,
)
from cnnprobe.diagnosis.evidence.questions import (
    find_module,
    is_routed,
    owner,
    spoken,
    stat,
    topmost,
    trainable,
    zero,
)
from cnnprobe.operations import select_groups
from cnnprobe.records.trace import ModuleCall, ModuleInfo
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying

DRAWN = select_groups(trait="random") - {"dropout"}
SCALING = frozenset({"div", "mul", "lt", "le", "gt", "ge", "floor"})  # from a drawn mask to its use
STEPWISE = select_groups(trait="flat")  # constant but for jumps: derivative 0


def _net(shut: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1))
            return self.head(torch.sign(x) if shut else torch.tanh(x))

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """A sign, whose derivative is zero everywhere."""
    return _net(shut=True)


def healthy() -> Mapping[str, Any]:
    """A head that starts at zero: the body has no gradient in the first step, and one in the
    second.
    """
    import torch

    given = dict(_net(shut=False))
    torch.nn.init.zeros_(given["model"].head.weight)
    return given


@rule(
    code="CP204",
    name="zero-grad",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    monitored=True,
    explains=("cannot-overfit", "loss-not-decreasing"),
)
def zero_grad(evidence: Evidence) -> Iterator[Finding]:
    """A weight gets a gradient that is exactly zero in every observed step.

    Why it matters: it is connected to the loss and still cannot learn: something on the way has
    derivative zero.
    What to do: look behind it for dead ReLUs, sign, round, comparisons, a multiplication by zero, a
    softmax over one value; where no weight has a gradient, look in the loss.
    Known exceptions: heads and branches that start at zero, which let a gradient through after one
    step; what a mask drawn at random hides; as info, parts of which a computed index chose nothing
    in this batch, as the boxes of a detector.
    Source: the gradients of the observed steps.
    """
    steps = [s for s in evidence.steps if s.gradients]
    if len(steps) < 2:
        return
    names = [
        p.fqn
        for p in trainable(evidence).values()
        if len(p.shape) > 1 and all(zero(s.gradients.get(p.fqn)) for s in steps)
    ]
    alive = [
        name
        for name in trainable(evidence)
        if any(g is not None and g.norm > 0 for s in steps for g in [s.gradients.get(name)])
    ]
    if not alive:
        yield from _flat_loss(steps)
    if not alive or not any(change > 0 for s in evidence.steps for change in s.changes.values()):
        return
    flow = Flow(steps[0].trace)
    for module in topmost({owner(n) for n in names}, evidence.trace)[:3]:
        if _starts_from_zero(evidence, module, {n for n in names if owner(n) == module}):
            yield _tell_single_step(evidence, module, len(steps))
            continue
        if _reads_first_step(evidence, module, {n for n in names if owner(n) == module}):
            backwards = all(n.endswith("_reverse") for n in names if owner(n) == module)
            yield _tell_first_step(evidence, module, backwards=backwards)
            continue
        if _is_stopped(flow, module, set(alive), lambda i: _is_masked(flow, i)):
            continue  # the steps are observed with one seed: each draws the same mask
        unchosen = _is_stopped(flow, module, set(alive), lambda i: is_routed(flow.calls[i]))
        place = None if unchosen else _find_rounding(flow, module)
        yield Finding(
            module=module,
            severity=Severity.INFO if unchosen else Severity.WARNING,
            message=(
                f"the gradient of {_name_weights(evidence, module, names, alive)} is exactly 0 in "
                f"{len(steps)} of {format_counted(len(steps), 'step')}"
            )
            + (": an index that is computed chose nothing of what they put out" if unchosen else "")
            + (
                f": the derivative of {describe(flow.calls[place])} is 0"
                if place is not None
                else ""
            ),
            fix=(
                "let the gradient pass straight through: x + (rounded - x).detach()"
                if place is not None
                else "look behind it for an operation with derivative zero: a dead ReLU, sign, "
                "round, argmax, a product with 0"
            ),
            source=flow.line(place),
        )


def _find_rounding(flow: Flow, module: str) -> int | None:
    """The last row that rounds the weights of a module before they are used."""
    own = f"{module}."
    reading = [
        i
        for i in flow.primitives()
        if any(isinstance(t.source, str) and t.source.startswith(own) for t in flow.calls[i].inputs)
    ]
    after = set(reading).union(*(flow.after(i) for i in reading))
    rows = [i for i in flow.primitives(STEPWISE) if i in after and flow.owner(i) == module]
    return rows[-1] if rows else None


def _name_weights(evidence: Evidence, module: str, names: list[str], alive: list[str]) -> str:
    """The weights of a module, or those of them that have no gradient where others have one."""
    own = [name for name in names if owner(name) == module]
    others = [n for n in alive if owner(n) == module and len(trainable(evidence)[n].shape) > 1]
    if not own or not others:
        return f"the weights of {spoken(evidence, module)}"
    return " and ".join(spoken(evidence, name) for name in own[:2]) + (
        f" and {len(own) - 2} more" if len(own) > 2 else ""
    )


def _starts_from_zero(evidence: Evidence, module: str, names: set[str]) -> bool:
    """Whether these are the weights that a recurrent layer multiplies its state by, and the state
    is always 0: sequences of one step, and no state is given.
    """
    info = find_module(evidence, module)
    calls = [call for call in evidence.trace.calls if call.fqn == module]
    if info is None or operation_of_module(info) != "rnn" or not calls:
        return False
    return all(name.rpartition(".")[2].startswith("weight_hh") for name in names) and all(
        len(call.inputs) == 1 and _count_steps(call, info) == 1 for call in calls
    )


def _reads_first_step(evidence: Evidence, module: str, names: set[str]) -> bool:
    """Whether these are the weights that a recurrent layer multiplies its state by, of sequences of
    several steps: only what the first step puts out reaches the loss.
    """
    info = find_module(evidence, module)
    if info is None or operation_of_module(info) != "rnn" or info.kind.endswith("Cell"):
        return False
    return all(name.rpartition(".")[2].startswith("weight_hh") for name in names)


def _tell_first_step(evidence: Evidence, module: str, *, backwards: bool) -> Finding:
    """Of the reverse direction, the first step is the last place of the output."""
    info = find_module(evidence, module)
    last = "output[:, -1]" if info and info.config.get("batch_first") else "output[-1]"
    which = " of the reverse direction" if backwards else ""
    return Finding(
        module=module,
        severity=Severity.WARNING,
        message=(
            f"weight_hh{which} of {spoken(evidence, module)}, which carries the state from step to "
            f"step, has no gradient: only what the first step{which or ' of the sequence'} puts "
            "out reaches the loss"
        ),
        fix=(
            f"{last} is where the reverse direction begins: take the last states of both "
            "directions, torch.cat([h_n[-2], h_n[-1]], dim=1)"
            if backwards
            else f"read the last step: {last}; dim {int('[:' in last)} of its output is time"
        ),
        kind="first-step",
    )


def _count_steps(call: ModuleCall, info: ModuleInfo) -> int:
    """The length of the sequences; a cell makes one step at each call."""
    shape = call.inputs[0].shape
    if info.kind.endswith("Cell"):
        return 1
    return shape[1 if info.config.get("batch_first") and len(shape) == 3 else 0]


def _tell_single_step(evidence: Evidence, module: str, count: int) -> Finding:
    """What follows from sequences of one step; the other weights learn."""
    return Finding(
        module=module,
        severity=Severity.INFO,
        message=(
            f"the gradient of weight_hh of {spoken(evidence, module)} is exactly 0 in {count} of "
            f"{format_counted(count, 'step')}: the sequences have one step, and the state before "
            "it is 0; the layer's other weights learn"
        ),
        fix=(
            "give it sequences of several steps, or a state; if one step is meant, a Linear and an "
            "activation do the same"
        ),
        kind="single-step",
    )


def _is_masked(flow: Flow, index: int) -> bool:
    """Whether a row multiplies by a mask that is drawn at random, and that leaves something."""
    call = flow.calls[index]
    if operation(call) not in ("mul", "masked_fill") or not call.outputs:
        return False
    drawn = [flow.origin(info, ARRANGING | SCALING) for info in call.inputs]
    is_drawn = any(i is not None and operation(flow.calls[i]) in DRAWN for i in drawn)
    return is_drawn and stat(call.outputs[0], "zeros") < stat(call.outputs[0], "count")


def _is_stopped(flow: Flow, module: str, alive: set[str], stops: Callable[[int], bool]) -> bool:
    """Whether everything that the module puts out, with no weight after it that learns, goes
    through a row that stops it: a choice of values by a computed index, or a mask.
    """
    inside = module + "."
    stack = [
        i
        for i, c in enumerate(flow.calls)
        if c.fqn is not None and (c.fqn == module or c.fqn.startswith(inside))
    ]
    stack += [
        i
        for i in flow.primitives()
        if any(
            isinstance(t.source, str) and t.source.startswith(inside) for t in flow.calls[i].inputs
        )
    ]
    seen, chosen = set(stack), False
    while stack:
        for reader in flow.readers.get(stack.pop(), ()):
            call = flow.calls[reader]
            if reader in seen:
                continue
            if stops(reader):
                chosen = True
                continue
            learns = any(name.rpartition(".")[0] == call.fqn for name in alive) or any(
                t.source in alive for t in call.inputs
            )
            if learns or operation(call) in LOSSES:
                return False
            seen.add(reader)
            stack.append(reader)
    return chosen


def _flat_loss(steps: list[Step]) -> Iterator[Finding]:
    """A loss that does not depend on the parameters although its graph reaches them."""
    values = [s.value for s in steps]
    gradients = [g for s in steps for g in s.gradients.values()]
    if not all(zero(g) for g in gradients) or any(
        v is None or v == 0 or not math.isfinite(v) for v in values
    ):
        return
    flow = Flow(steps[0].trace)
    ends = [loss.call for loss in steps[0].losses if loss.call is not None]
    toward = set(ends).union(*(flow.before(i) for i in ends)) if ends else set()
    jumps = [i for i in list_flat(flow) if i in toward]
    place = jumps[-1] if jumps else None
    yield Finding(
        module=flow.owner(place),
        severity=Severity.ERROR,
        message=(
            f"the loss is {values[0]:.3g}, and the gradient of every one of "
            f"{format_counted(len(steps[0].gradients), 'parameter')} is exactly 0 in "
            f"{len(steps)} of {format_counted(len(steps), 'step')}"
        )
        + (f": the derivative of {describe(flow.calls[place])} is 0" if place is not None else ""),
        fix=_repair(flow, place),
        source=flow.line(place),
    )


def _repair(flow: Flow, place: int | None) -> str:
    if place is None:
        return (
            "see what goes into the loss: a tensor that is compared with itself, rounded or "
            "clamped, one argument given twice"
        )
    kind = operation(flow.calls[place])
    if kind in SQUASHING:
        return f"initialise what goes into the {kind} smaller, or use a loss of its logits"
    return f"leave {kind} out of what is trained with; it is for the metrics"


def list_flat(flow: Flow) -> list[int]:
    """The rows whose derivative is 0 for all of their values, in order."""
    kinds = STEPWISE | {"clamp"} | SQUASHING
    return [i for i in flow.primitives(kinds) if _is_flat(flow, i)]


def _is_flat(flow: Flow, index: int) -> bool:
    """Whether the derivative of a row is 0 for all of its values: a clamp's where it gives but
    one, a sigmoid's at the ends of its range.
    """
    made, kind = flow.calls[index].outputs, operation(flow.calls[index])
    if kind in SQUASHING:
        ends = "at_tanh_ends" if "tanh" in kind else "at_sigmoid_ends"
        return bool(made) and stat(made[0], ends) == 1.0
    return kind in STEPWISE or (bool(made) and stat(made[0], "std") == 0)
