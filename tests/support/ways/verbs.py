"""What each verb does with a way, in a word or two."""

import inspect
from collections.abc import Callable, Iterable

import torch
from torch import nn

import cnnprobe
from cnnprobe.records.trace import Trace
from tests.support.ways.way import Way

SEEN, OUTSIDE = "seen", "seen from outside"
Again = Callable[[], Way]  # the same way once more


def describe_trace(trace: Trace, way: Way) -> str:
    """Whether the layer inside was seen, or the call of what it lies in."""
    check_notes(trace.notes)
    if any(call.fqn == way.inner and call.completed and call.outputs for call in trace.calls):
        return SEEN
    assert trace.notes, "what was not seen is not told"
    assert any(call.completed for call in trace.calls)
    return OUTSIDE


def check_notes(notes: Iterable[str]) -> None:
    assert not [note for note in notes if "please report" in note]


def by_probe(way: Way, _: Again) -> str:
    report = cnnprobe.probe(way.model, *way.args)
    assert report.ok, report.error
    if inspect.iscoroutine(report.output):
        report.output.close()  # the caller's to await
    return describe_trace(report.trace, way)


def by_record(way: Way, _: Again) -> str:
    with cnnprobe.record(way.model) as recording:
        way.call(way.model, way.args)
    cells = [describe_trace(trace, way) for trace in recording.traces]
    return SEEN if SEEN in cells else OUTSIDE


def by_probed(way: Way, _: Again) -> str:
    model = cnnprobe.probed(way.model)
    way.call(model, way.args)
    return describe_trace(cnnprobe.last_report(model).trace, way)


def by_autograd_graph(way: Way, _: Again) -> str:
    graph = cnnprobe.autograd_graph(way.call(way.model, way.args), way.model)
    if not graph.nodes:
        assert graph.notes
        return "no graph"
    return SEEN if way.inner in {node.module for node in graph.nodes} else OUTSIDE


def by_compare(way: Way, again: Again) -> str:
    comparison = cnnprobe.compare(way.model, again().model, *way.args)
    if not comparison.equivalent:
        assert "meta device" in str(comparison)
        return "structure only"
    is_outside = cnnprobe.record(way.model)._sealed or "compiled" in str(comparison)
    return OUTSIDE if is_outside else SEEN


def by_refactor(way: Way, _: Again) -> str:
    cnnprobe.refactor(way.model, *way.args)
    return OUTSIDE if any(map(is_opaque, way.model.modules())) else SEEN


def is_opaque(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def by_diagnose(way: Way, _: Again) -> str:
    inputs = way.args if len(way.args) > 1 else way.args[0]
    report = cnnprobe.diagnose(
        way.model, inputs, torch.zeros(()), loss_fn=lambda output, _: way.loss(output), steps=1
    )
    return describe_trace(report.trace, way)


def by_monitor(way: Way, _: Again) -> str:
    parameters = [p for p in way.model.parameters() if not nn.parameter.is_lazy(p)]
    optimizer = torch.optim.SGD(parameters, lr=0.01) if parameters else None
    with cnnprobe.monitor(way.model, optimizer) as monitor:
        for _ in range(3):
            loss = way.loss(way.call(way.model, way.args))
            if loss.requires_grad:
                loss.backward()
                if optimizer is not None:
                    optimizer.step()
    check_notes(monitor.history.notes)
    if not loss.requires_grad:
        return "no steps"
    assert (0, 1, 2) == monitor.history.steps
    if way.inner in {slot.fqn for slot in monitor.ledger.slots}:
        return SEEN
    assert monitor.history.notes or monitor.report.trace.notes
    return OUTSIDE


def by_shapes(way: Way, _: Again) -> str:
    found = cnnprobe.shapes(way.model, *way.args)
    assert not [row.call for row in found.data.rows if None in sum(row.outputs, ())]
    return describe_trace(found.data.trace, way)


def by_memory(way: Way, _: Again) -> str:
    found = cnnprobe.memory(way.model, *way.args, loss_fn=way.loss)
    assert all(way.slope > 0 for way in found.data.ways)
    return SEEN if found.find_way().given.saved else "no steps"


VERBS: dict[str, Callable[[Way, Again], str]] = {
    "probe": by_probe,
    "record": by_record,
    "probed": by_probed,
    "autograd_graph": by_autograd_graph,
    "compare": by_compare,
    "refactor": by_refactor,
    "diagnose": by_diagnose,
    "monitor": by_monitor,
    "shapes": by_shapes,
    "memory": by_memory,
}
