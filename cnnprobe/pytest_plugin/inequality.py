"""What differs between two of our own values that a test compares by `==`, a line a layer."""

import dataclasses
import difflib
import sys
from typing import Any

_MOST = 8  # names of fields, where no line differs


def explain_inequality(left: object, right: object) -> list[str] | None:
    """The lines in which two reports, traces or graphs differ; None for anything else."""
    kinds = {name: getattr(sys.modules.get(room), name, None) for name, room in _ROOMS.items()}
    for name, lines_of in _LINES.items():
        kind = kinds[name]
        if kind is not None and isinstance(left, kind) and isinstance(right, kind):
            lines = [
                line
                for line in difflib.unified_diff(lines_of(right), lines_of(left), n=0, lineterm="")
                if not line.startswith(("---", "+++", "@@"))
            ]
            return [
                f"{_name_value(left)} == {_name_value(right)}",
                "they differ (- right, + left):",
                *(lines or _diff_fields(left, right)),
            ]
    return None


def _name_value(value: Any) -> str:
    model = getattr(value, "title", "") or getattr(getattr(value, "trace", value), "model", "")
    return type(value).__name__ + (f" of {model}" if model else "")


def _write_report_lines(report: Any) -> list[str]:
    findings = [f"finding {f.rule} in {f.module!r}: {f.message}" for f in report.findings]
    return [*_write_trace_lines(report.trace), *findings]


def _write_trace_lines(trace: Any) -> list[str]:
    """Calls first: pytest shows no more than the first lines unless it is run with -vv."""
    calls = [
        (
            f"{'model' if c.fqn == '' else c.fqn or '-'}  {c.kind}  {_format_shapes(c.inputs)} -> "
            f"{_format_shapes(c.outputs) or c.returned}"
        )
        for c in trace.calls
    ]
    raised = (
        [f"raised {trace.failure.kind} in {trace.failure.module!r}: {trace.failure.message}"]
        if trace.failure is not None
        else []
    )
    parameters = [
        f"{p.kind} {p.fqn}  {p.shape} {p.dtype}{'' if p.trainable else ' frozen'}"
        for p in trace.parameters
    ]
    modules = [
        f"module {m.fqn}  {m.kind}({', '.join(f'{k}={v}' for k, v in m.config.items())})"
        for m in trace.modules
    ]
    return [*calls, *raised, *parameters, *modules]


def _format_shapes(tensors: Any) -> str:
    return ", ".join(str(t.shape) for t in tensors)


def _write_graph_lines(graph: Any) -> list[str]:
    names = {
        node.id: node.parameter or f"{node.name}{f' of {node.module}' if node.module else ''}"
        for node in graph.nodes
    }
    into: dict[Any, list[str]] = {node.id: [] for node in graph.nodes}
    for edge in graph.edges:
        into[edge.end].append(names[edge.start])
    return [
        f"{names[node.id]}  {node.shape or ''}  from {', '.join(into[node.id]) or 'nothing'}"
        for node in graph.nodes
    ]


def _diff_fields(left: Any, right: Any) -> list[str]:
    """The fields, down to the rows of tuples, that are not equal: of two runs of one model, their
    times.
    """
    apart: dict[str, None] = {}
    for path, a, b in _list_pairs("", left, right):
        if a != b:
            apart[path] = None
    names = list(apart)
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return [
        f"same layers, shapes and parameters; these fields differ: {', '.join(names[:_MOST])}{more}"
    ]


def _list_pairs(path: str, left: Any, right: Any) -> Any:
    if dataclasses.is_dataclass(left) and type(left) is type(right):
        for field in dataclasses.fields(left):
            if field.compare:
                yield from _list_pairs(
                    f"{path}.{field.name}" if path else field.name,
                    getattr(left, field.name),
                    getattr(right, field.name),
                )
    elif isinstance(left, tuple) and isinstance(right, tuple) and len(left) == len(right):
        for k, (a, b) in enumerate(zip(left, right, strict=True)):
            yield from _list_pairs(f"{path}[{k}]", a, b)
    else:
        yield path, left, right


_ROOMS = {"Report": "cnnprobe.report", "Trace": "cnnprobe.records.trace", "Graph": "cnnprobe.graph"}
_LINES = {"Report": _write_report_lines, "Trace": _write_trace_lines, "Graph": _write_graph_lines}
