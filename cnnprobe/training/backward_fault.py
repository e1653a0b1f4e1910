"""Where the backward pass of a finite loss first makes a gradient that is not finite."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Flow
from cnnprobe.recorder import Recording
from cnnprobe.records.trace import Trace
from cnnprobe.training.wrapping import TrainingStep, unwrapped


def find_bad_derivative(
    model: nn.Module, run: Callable[[], Any], names: Mapping[int, str]
) -> int | None:
    """Runs one step with a hook on what every row made; the row that turned a finite gradient into
    a non-finite one.
    """
    fired: list[tuple[int, bool]] = []
    count = 0

    def watch(tensor: Tensor) -> dict[str, float | int] | None:
        nonlocal count
        if not tensor.requires_grad:
            return None
        count += 1
        slot = count
        tensor.register_hook(lambda grad: fired.append((slot, bool(grad.isfinite().all()))))  # type: ignore[no-untyped-call]
        return {"slot": slot}

    wrapper = TrainingStep(model, run)
    names = {key: f"model.{name}" for key, name in names.items()}
    recording = Recording(wrapper, statistics=watch, through_compiled=True, names=names)
    with recording:
        try:
            wrapper()
        except Exception:  # it ran before; what was seen until now is enough
            return None
    trace = unwrapped(recording.trace, "")
    rows = {
        int(info.stats["slot"]): i
        for i, c in enumerate(trace.calls)
        for info in c.outputs
        if info.stats
    }
    flow = Flow(trace)
    state = {rows[slot]: good for slot, good in fired if slot in rows}
    for slot, good in fired:
        if not good and slot in rows:
            readers = [r for r in flow.readers.get(rows[slot], ()) if state.get(r, True)]
            return readers[0] if readers else rows[slot]
    return _find_by_owner(model, names, trace, flow)


def _find_by_owner(
    model: nn.Module, names: Mapping[int, str], trace: Trace, flow: Flow
) -> int | None:
    """The last call of a module whose parameters got a gradient that is not finite."""
    bad = {
        name
        for p in model.parameters()
        if p.grad is not None and not bool(p.grad.isfinite().all())
        for name in [names.get(id(p), "")]
    }
    owners = {name.rpartition(".")[0] for name in bad}
    return next(
        (
            i
            for i, c in reversed(list(enumerate(trace.calls)))
            if c.fqn in owners and flow.is_primitive[i]
        ),
        None,
    )
