"""A tensor that the model uses and nobody moves or saves."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, Hidden, operation
from cnnprobe.diagnosis.evidence.questions import spoken, traces
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying

COPYING = frozenset(
    {"as_tensor", "tensor", "new_tensor", "cuda", "cpu", "type_as", "copy"}
)  # to the device that is asked for


def _net(registered: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 4)
            if registered:
                self.register_buffer("mean", torch.full((64,), 0.1))
            else:
                self.mean = torch.full((64,), 0.1)

        def forward(self, x: Any) -> Any:
            return self.body(x.flatten(1) - self.mean)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`self.mean = torch.full(...)`."""
    return _net(registered=False)


def healthy() -> Mapping[str, Any]:
    """`self.register_buffer("mean", torch.full(...))`."""
    return _net(registered=True)


@rule(code="CP303", name="unregistered-tensor", severity=Severity.WARNING, examples=(sick, healthy))
def unregistered_tensor(evidence: Evidence) -> Iterator[Finding]:
    """The forward uses a tensor attribute that is neither parameter nor buffer.

    Why it matters: .to(device) and .half() leave it where it is, and state_dict() does not save it.
    What to do: self.register_buffer(name, tensor).
    Known exceptions: a tensor that the forward itself replaces (a state, a cache), or moves to the
    device of what it is combined with; a single number, which any device takes, is info.
    Source: torch.nn.Module.register_buffer.
    """
    found = [h for h in evidence.hidden if h.kind == "tensor" and h.used and h.stable]
    names = {_fqn(h) for h in found}
    flows = [Flow(trace) for trace in traces(evidence)] if found else []
    for hidden in found:
        if any(_meets_others(flow, _fqn(hidden), names) for flow in flows):
            base = hidden.name.partition("[")[0]
            yield Finding(
                module=hidden.owner,
                severity=Severity.WARNING if hidden.shape else Severity.INFO,
                message=(
                    f"{spoken(evidence, hidden.owner)}.{hidden.name}, of shape {hidden.shape}, is "
                    "used but is neither a parameter nor a buffer"
                ),
                fix=f'self.register_buffer("{base}", ...) in place of self.{base} = ...',
            )


def _fqn(hidden: Hidden) -> str:
    return f"{hidden.owner}.{hidden.name}" if hidden.owner else hidden.name


def _meets_others(flow: Flow, name: str, names: set[str]) -> bool:
    """Whether values of the tensor are combined with some of the model or its inputs before the
    forward moves them to where those are.
    """
    constant: set[int] = set()  # rows that only such tensors went into
    own: set[int] = set()  # those of them that this one went into
    for i in flow.primitives():
        call = flow.calls[i]
        kept = [t.source in constant or t.source in names for t in call.inputs]
        is_own = any(t.source in own or t.source == name for t in call.inputs)
        if not call.inputs and "device" not in call.arguments:
            constant.add(i)  # made where torch makes what no device is said of, as the tensor was
        if _is_moved(call) or not any(kept):
            continue
        if is_own and not all(kept):
            return True
        if all(kept):
            constant.add(i)
            own |= {i} if is_own else set()
    return False


def _is_moved(call: ModuleCall) -> bool:
    """Whether the row puts its first tensor on a device that is named, or on that of another
    one.
    """
    if operation(call) != "to":
        return operation(call) in COPYING
    given = [str(value) for value in call.arguments.values()]
    return len(call.inputs) > 1 or any(
        not value.startswith("torch.") and value not in ("True", "False") for value in given
    )
