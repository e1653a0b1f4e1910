"""Remedies of what runs over the wrong dim: a softmax, or what mixes the samples."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.crash.edits.files import TextChange
from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.call_lines import append_argument, set_argument
from cnnprobe.remedies.kinds.calls import all_instead, find_call, instead
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriting
from cnnprobe.remedies.subject import Subject
from cnnprobe.remedies.writing import Written, write_settings


def over_other_axis(finding: Finding, evidence: Evidence) -> Iterator[Remedy]:
    """Dimension 1 in the place of 0 for what mixes the samples."""
    mixing = ("softmax", "log_softmax", "mean", "sum", "std", "normalize", "cumsum")
    flow = Flow(evidence.evaluation or evidence.trace)
    found = [
        flow.calls[i]
        for i in flow.primitives(mixing)
        if flow.owner(i) == finding.module and flow.calls[i].fqn is None
    ]
    reduced = [c for c in found if _dims_beside_batch(c)]
    if reduced:
        dims = _dims_beside_batch(reduced[0])
        yield Remedy(
            title=f"dim={dims} in {describe(reduced[0])}",
            change=all_instead(reduced[:1], _over_dim(dims)),
            shows="every sample depends on its own input alone",
        )
    for calls in ([found] if found else []) + ([[call] for call in found] if found[1:] else []):
        for more in ({}, {"keepdim": True}):
            names = " and ".join(dict.fromkeys(map(describe, calls)))
            keep = ", keepdim=True" if more else ""
            yield Remedy(
                title=f"dim=1{keep} in {names}",
                change=all_instead(calls, _over_dim(1, **more)),
                written=lambda calls=calls, more=more: _write_over_dim(calls, more),  # type: ignore[misc]
                shows="every sample depends on its own input alone",
                is_comparable=False,  # a sample that sees the others may be easier to tell
            )


def _write_over_dim(calls: list[ModuleCall], more: dict[str, bool]) -> list[TextChange]:
    return [
        change
        for call in calls
        for change in (
            *set_argument(call.source, call.kind, "dim", "1"),
            *(
                c
                for n, v in more.items()
                for c in append_argument(call.source, call.kind, f"{n}={v}")
            ),
        )
    ]


def _dims_beside_batch(call: ModuleCall) -> tuple[int, ...]:
    """The other dims of a reduction over several with the batch among them; () for none."""
    given = call.arguments.items()
    dims = [n for name, n in given if name.startswith(("dim[", "[1][")) and isinstance(n, int)]
    return tuple(n for n in dims if n != 0) if 0 in dims else ()


def _over_dim(dim: int | tuple[int, ...], **more: Any) -> Rewriting:
    def run(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = {k: v for k, v in kwargs.items() if k not in ("dim", "axis", *more)}
        is_dim = len(args) > 1 and isinstance(args[1], int | tuple | list)
        positional = args[:1] + args[2:] if is_dim else args
        return func(*positional, dim=dim, **named, **more)

    return run


@answers("softmax-dim", "softmax-over-queries", "softmax-over-positions")
def other_dim(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Another dim of the softmax: that of the classes, or of the keys."""
    found = find_call(finding, evidence, "softmax", "log_softmax")
    if found is None:
        return
    _, call = found
    rank = len(call.inputs[0].shape) if call.inputs else 2
    for dim in dict.fromkeys((1, -1, -2 if rank > 2 else 1)):
        yield Remedy(
            title=f"dim={dim} in {describe(call)}",
            change=_set_dim(call, dim),
            written=_write_dim(call, dim, evidence, model),
            shows="it runs over the right dimension",
            is_comparable=False,
        )


def _write_dim(call: ModuleCall, dim: int, evidence: Evidence, model: Any) -> Written:
    if call.fqn:
        return write_settings(call.fqn, {"dim": dim}, evidence, model)
    return lambda: set_argument(call.source, call.kind, "dim", str(dim))


def _set_dim(call: ModuleCall, dim: int) -> Callable[[Subject], None]:
    def change(subject: Subject) -> None:
        if call.fqn is None:
            subject.rewrite(call.kind, call.source, _over_dim(dim))
            return
        subject.module(call.fqn).dim = dim  # type: ignore[assignment]

    return change


def take_last_step(finding: Finding, flow: Flow) -> Iterator[Remedy]:
    """The last step of each sequence where an index takes the last sample."""
    for i in flow.primitives({"getitem"}):
        call, given = flow.calls[i], flow.data(i)
        made = flow.producer(given)
        is_sequence = made is not None and operation(flow.calls[made]) in ("rnn", "attention")
        if not is_sequence or flow.owner(i) != finding.module or given is None:
            continue
        if call.outputs and call.outputs[0].shape == given.shape[1:]:
            yield Remedy(
                title="x[:, -1] in place of x[-1]: the last step, and not the last sample",
                change=instead(call, _last_step),
                shows="every sample depends on its own input alone",
                is_comparable=False,
            )


def _last_step(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) > 1 and isinstance(args[1], int):
        return args[0][:, args[1]]
    return func(*args, **kwargs)
