"""Questions that several rules ask of the evidence: where the loss is, which parameters are whose,
how a module is spoken of.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Event, Evidence, Gradient, OptimizerInfo
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import (
    FORWARDING,
    LOSSES,
    PROJECTIONS,
    operation,
    operation_of_module,
)
from cnnprobe.records.trace import ModuleCall, ModuleInfo, ParameterInfo, TensorInfo, Trace

ROUTING = frozenset(
    {"getitem", "index_select", "masked_select", "gather"}
)  # some of the samples, by an index that was computed
PART = 5  # a fifth of the run is its end
PACE = 0.5  # of an even fall
LITTLE = 0.01  # of the first loss
MOST = 0.9  # of the steps
ROUNDING = 1e-5  # of the first loss, a hundred times the relative precision of float32


def spoken(evidence: Evidence, fqn: str | None) -> str:
    """A module in the user's own words: "net.features[0]", "net" for the root.

    >>> from cnnprobe.records.trace import Trace
    >>> spoken(Evidence(trace=Trace(model="Net"), names={"model": "net"}), "features.0")
    'net.features[0]'
    """
    text = evidence.names.get("model", "model")
    for part in (fqn or "").split("."):
        if part:
            text += f"[{part}]" if part.isdigit() else f".{part}"
    return text


def variable(evidence: Evidence, role: str) -> str:
    """The user's variable for a role: "optimizer", "loss_fn", "scheduler"."""
    return evidence.names.get(role, role)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCall:
    """A call of a loss function: its row, what it got as prediction and target, and where the
    prediction was computed.
    """

    index: int
    call: ModuleCall
    flow: Flow
    operation: str
    prediction: TensorInfo
    target: TensorInfo | None
    origin: int | None  # the row whose values the prediction are

    @property
    def origin_operation(self) -> str:
        """The operation of the origin; "" where there is none."""
        return "" if self.origin is None else operation(self.flow.calls[self.origin])

    @property
    def has_other_readers(self) -> bool:
        """Whether the function beside the loss that made the prediction serves others too."""
        made = self.flow.producer(self.prediction)
        if made is None or self.flow.calls[made].fqn is not None:
            return False
        beside = self.flow.calls[made].parent == self.call.parent
        return beside and len(self.flow.readers[made]) > 1


def loss_calls(evidence: Evidence) -> Iterator[LossCall]:
    """The calls of the standard losses in the first step."""
    flow = Flow(evidence.trace)
    for i in flow.primitives(LOSSES):
        call = flow.calls[i]
        if call.inputs:
            yield LossCall(
                index=i,
                call=call,
                flow=flow,
                operation=operation(call),
                prediction=call.inputs[0],
                target=call.inputs[1] if len(call.inputs) > 1 else None,
                origin=flow.origin(call.inputs[0], FORWARDING),
            )


def stat(info: TensorInfo | None, name: str) -> float:
    """A statistic of a tensor; NaN where it is not known."""
    if info is None or info.stats is None or name not in info.stats:
        return math.nan
    return float(info.stats[name])


def find_nan_data(evidence: Evidence) -> tuple[str, TensorInfo] | None:
    """The first input or target with NaN or Inf in it, and which of the two it is."""
    for role, infos in (("inputs", evidence.inputs), ("targets", evidence.targets)):
        for info in infos:
            if stat(info, "nan") > 0 or (stat(info, "inf") > 0 and not _is_mask(info)):
                return role, info
    return None


def _is_mask(info: TensorInfo) -> bool:
    """Whether all that is finite is 0: what is added to the scores of an attention."""
    return stat(info, "min") == stat(info, "max") == 0


def find_nan_parameter(evidence: Evidence) -> str | None:
    """The first parameter or buffer with NaN or Inf in it.

    Inf alone is no fault in a buffer or a frozen parameter: a mask holds it, and a range that has
    seen no value yet; running statistics have no use for it.
    """
    trained = {
        name for p in evidence.trace.parameters if p.trainable for name in (p.fqn, *p.aliases)
    }
    return next(
        (
            name
            for name, value in evidence.values.items()
            if value.nonfinite > value.infinite
            or (value.infinite and (name in trained or "running_" in name))
        ),
        None,
    )


def rms(info: TensorInfo | None) -> float:
    """Root mean square of a tensor's finite values; NaN where it is not known."""
    count = stat(info, "count") - stat(info, "nan") - stat(info, "inf")
    return stat(info, "l2") / math.sqrt(count) if count > 0 else math.nan


def input_stats(flow: Flow, info: TensorInfo) -> TensorInfo:
    """The tensor with the statistics of the row that made it, where it has none of its own."""
    if info.stats is not None or not isinstance(info.source, int):
        return info
    made = [o for o in flow.calls[info.source].outputs if o.stats is not None]
    return made[0] if made else info


def given_values(evidence: Evidence, loss: LossCall) -> TensorInfo | None:
    """The target of a loss with its statistics: those of the batch's targets or inputs, where it
    came from outside with their shape.
    """
    return None if loss.target is None else find_given(evidence, loss.flow, loss.target)


def find_given(evidence: Evidence, flow: Flow, target: TensorInfo) -> TensorInfo | None:
    """A tensor with its statistics: those of the batch's targets or inputs, where it came from
    outside with their shape.
    """
    found = input_stats(flow, target)
    if found.stats is not None:
        return found
    first = flow.outer(target)
    same = [
        info
        for info in (*evidence.targets, *evidence.inputs)
        if math.prod(info.shape) == math.prod(target.shape) and info.dtype == first.dtype
    ]
    return same[0] if same and first.source is None else None


def is_cosine(flow: Flow, index: int | None) -> bool:
    """Whether values are products of vectors of unit length, however they were scaled or given a
    margin afterwards.
    """
    products = (
        [
            i
            for i in flow.before(index) | {index}
            if operation(flow.calls[i]) in PROJECTIONS | {"matmul"}
        ]
        if index is not None
        else []
    )
    if not products:
        return False
    makers = [flow.origin(info) for info in flow.calls[max(products)].inputs[:2]]
    return len(makers) == 2 and all(
        i is not None and operation(flow.calls[i]) in ("normalize", "div") for i in makers
    )


def are_probabilities(info: TensorInfo, axis: int = 1) -> bool:
    """Whether the values are in [0, 1] and add up to 1 over the class axis: their mean is then 1 /
    classes.
    """
    if info.stats is None or len(info.shape) <= axis or info.shape[axis] < 2:
        return False
    low, high, mean = stat(info, "min"), stat(info, "max"), stat(info, "mean")
    return (
        low >= 0
        and high <= 1 + 1e-6
        and abs(mean * info.shape[axis] - 1) < 1e-4
        and stat(info, "std") > 0
    )


def batch_size(evidence: Evidence) -> int | None:
    """The size of dimension 0 that inputs and targets share."""
    sizes = {info.shape[0] for info in (*evidence.inputs, *evidence.targets) if info.shape}
    return sizes.pop() if len(sizes) == 1 and evidence.targets else None


def find_module(evidence: Evidence, fqn: str | None) -> ModuleInfo | None:
    """What is known of a registered module."""
    return next((m for m in evidence.trace.modules if m.fqn == fqn), None)


def takes_time_first(info: ModuleInfo) -> bool:
    """Whether a module takes sequences as (L, N, features): recurrent layers and attention do by
    default.
    """
    return (
        operation_of_module(info) in ("rnn", "attention")
        and info.config.get("batch_first") is False
    )


def find_cut(flow: Flow, rows: Iterable[int] | None = None) -> ModuleCall | None:
    """The first row that makes integers or truth values of what requires grad: argmax, x > 0."""
    for i in sorted(rows) if rows is not None else flow.primitives():
        call = flow.calls[i]
        made = call.outputs[0].dtype if call.outputs else ""
        if (
            made.startswith(("int", "bool", "uint"))
            and call.inputs
            and call.inputs[0].requires_grad
        ):
            return call
    return None


def is_routed(call: ModuleCall) -> bool:
    """Whether a row takes some of its values by an index that was computed."""
    return operation(call) in ROUTING and any(t.source is not None for t in call.inputs[1:])


# -- parameters ------------------------------------------------------------------------------------


def trainable(evidence: Evidence) -> dict[str, ParameterInfo]:
    """The trainable parameters by fqn."""
    return {p.fqn: p for p in evidence.trace.parameters if p.trainable and p.kind == "parameter"}


def reached(evidence: Evidence) -> frozenset[str] | None:
    """The parameters that any backward reached; None where there was none, or a graph was not
    walked to its end.
    """
    losses = [loss for step in evidence.steps for loss in step.losses]
    if not losses or not all(loss.complete for loss in losses):
        return None
    return frozenset().union(*(loss.reached for loss in losses))


def optimised(evidence: Evidence) -> frozenset[str]:
    """The parameters that any known optimizer holds."""
    return frozenset().union(*(o.parameters for o in evidence.optimizers))


def is_idle(evidence: Evidence, optimizer: OptimizerInfo) -> bool:
    """Whether an optimizer makes none of the observed steps."""
    return not any(
        e.kind == "step" and e.subject == optimizer.name for s in evidence.steps for e in s.events
    )


def clears_before_stepping(evidence: Evidence) -> bool:
    """Whether every step of the user's own loop comes right after a zero_grad of its gradients."""
    kinds = ("zero_grad", "backward", "step")
    events = [e for s in evidence.steps for e in s.events if e.kind in kinds]
    stepped = [i for i, e in enumerate(events) if e.kind == "step"]
    return (
        evidence.own_loop
        and len(stepped) > 1
        and all(_is_cleared_before(events, i) for i in stepped)
    )


def _is_cleared_before(events: list[Event], step: int) -> bool:
    """Whether the last thing before a step without gradients is a zero_grad of the same optimizer,
    and a backward the one before it.
    """
    before = [
        e for e in events[:step] if e.kind != "zero_grad" or e.subject == events[step].subject
    ]
    kinds = [e.kind for e in before[-2:]]
    return not events[step].effective and kinds == ["backward", "zero_grad"]


def warms_up(evidence: Evidence) -> bool:
    """Whether every learning rate is 0 as yet, and a scheduler is there to raise it: these steps
    could change nothing.
    """
    rates = [rate for o in evidence.optimizers for rate in o.rates]
    is_scheduled = "scheduler" in evidence.names or any(o.scheduled for o in evidence.optimizers)
    return is_scheduled and bool(rates) and not any(rates)


def falls_steadily(losses: Sequence[float | None]) -> bool:
    """Whether a loss is slow, but on its way: the last fifth of the run brings at least half of
    what an even pace would.

    A fall of less than 1% counts only where nine steps of ten lower the loss, as small steps along
    its gradient do, and noise does not.
    """
    known = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    steps = [earlier - later for earlier, later in itertools.pairwise(known)]
    last, fall = max(1, len(steps) // PART), sum(steps)
    if not steps or not sum(steps[-last:]) > PACE * fall * last / len(steps):
        return False
    lowered = sum(step > 0 for step in steps)
    return fall > LITTLE * abs(known[0]) or (
        fall > ROUNDING * abs(known[0]) and lowered >= MOST * len(steps)
    )


def owner(parameter: str) -> str:
    """The fqn of the module that a parameter is registered in."""
    return parameter.rpartition(".")[0]


def traces(evidence: Evidence) -> list[Trace]:
    """Every trace: of the steps, the evaluation, the plain forward."""
    found = [step.trace for step in evidence.steps] or [evidence.trace]
    return [*found, evidence.evaluation] if evidence.evaluation is not None else found


def called(evidence: Evidence) -> set[str]:
    """The fqns of the modules that any observed pass called."""
    return {c.fqn for t in traces(evidence) for c in t.calls if c.fqn is not None} | set(
        evidence.probes.called_in_train
    )


def topmost(fqns: Iterable[str], trace: Trace) -> list[str]:
    """The fewest modules that stand for all of these: a parent in place of its children where all
    its parametrised children are in.

    Args:
        fqns: modules that own parameters themselves.
        trace: any trace of the model.
    """
    chosen = set(fqns)
    owners = {owner(p.fqn) for p in trace.parameters if p.kind == "parameter"}
    for module in sorted((m.fqn for m in trace.modules), key=lambda f: -f.count(".")):
        below = {o for o in owners if module in (o, "") or o.startswith(module + ".")}
        if (
            len(below) > 1
            and below <= chosen | {module}
            and below & chosen
            and all(o in chosen for o in below)
        ):
            chosen.add(module)
    roots = [
        f
        for f in chosen
        if not any(
            f != p and (p == "" or f.startswith(p + ".")) and p in chosen for p in _parents(f)
        )
    ]
    roots.sort(key=_order(trace))
    return roots


def _parents(fqn: str) -> list[str]:
    parts = fqn.split(".")
    return ["", *(".".join(parts[:i]) for i in range(1, len(parts)))] if fqn else []


def _order(trace: Trace) -> Callable[[str], int]:
    position = {m.fqn: i for i, m in enumerate(trace.modules)}
    return lambda fqn: position.get(fqn, 0)


def zero(gradient: Gradient | None) -> bool:
    """Whether there is a gradient and it is exactly zero."""
    return gradient is not None and gradient.norm == 0.0 and gradient.nonfinite == 0


def complete(evidence: Evidence) -> bool:
    """Whether the forward passes ended without an exception, so that "never" can be said."""
    return evidence.trace.failure is None


def modules_of(evidence: Evidence, operation_name: str) -> list[ModuleInfo]:
    """The registered modules of an operation."""
    return [m for m in evidence.trace.modules if operation_of_module(m) == operation_name]
