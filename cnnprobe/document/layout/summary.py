"""The sentences of a report: what was run, what raised, what it adds up to, what is worth
noticing.
"""

from collections.abc import Iterator, Mapping, Sequence

from cnnprobe.document.blocks import Facts, Notice
from cnnprobe.document.layout.entries import shorten_function
from cnnprobe.document.layout.frames import list_notes
from cnnprobe.document.layout.tables import format_shape, format_shapes, is_odd
from cnnprobe.document.render.units import (
    format_count,
    format_percent,
    format_si,
    format_size,
)
from cnnprobe.records.totals import Totals, list_leaves
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace
from cnnprobe.records.words import format_counted

_STAGES = {
    "forward": "the forward pass",
    "loss": "the loss",
    "backward": "the backward pass",
    "step": "the optimizer step",
}
_NAMED = 6  # names in a sentence; of the others only how many


def introduce(trace: Trace) -> str:
    """What was run, where, on what."""
    root = next((call for call in trace.calls if call.fqn == ""), None)
    training = next((module.training for module in trace.modules if module.fqn == ""), None)
    how = ["on shapes only (meta device)" if trace.mode == "meta" else f"on {trace.device}"]
    if training is not None:
        how.append("train mode" if training else "eval mode")
    if trace.torch:
        how.append(f"torch {trace.torch}")
    given = (
        "; input " + ", ".join(map(_describe_tensor, root.inputs))
        if root is not None and root.inputs
        else ""
    )
    return "one forward pass " + ", ".join(how) + given


def _describe_tensor(tensor: TensorInfo) -> str:
    name = "" if tensor.path.isdigit() or not tensor.path else f"{tensor.path}="
    return f"{name}{format_shape(tensor.shape)} {tensor.dtype}"


def build_failure_notice(trace: Trace) -> Iterator[Notice]:
    """What raised and where, if anything did."""
    failure = trace.failure
    if failure is None:
        return
    what = f"{_STAGES.get(failure.stage, failure.stage)} raised {failure.error}"
    yield Notice(
        severity="error",
        text=what,
        where="; ".join(_describe_place(trace)),
        key="" if failure.call is None else f"c{failure.call}",
    )


def _describe_place(trace: Trace) -> Iterator[str]:
    failure = trace.failure
    if failure is None:
        return
    call = (
        None
        if failure.call is None or failure.call >= len(trace.calls)
        else trace.calls[failure.call]
    )
    kind = next((module.kind for module in trace.modules if module.fqn == failure.module), "")
    named = f"module {failure.module!r}" if failure.module else "the model itself"
    parts = [named + (f" ({kind})" if kind else "")]
    if call is not None and call.fqn is None:
        parts.append(f"in {call.kind}")
    if call is not None and call.inputs:
        parts.append(f"given {format_shapes(call.inputs)}")
    if failure.source:
        parts.append(f"at {failure.source}")
    yield ", ".join(parts)
    done = [trace.calls[i] for i in list_leaves(trace) if trace.calls[i].completed]
    if done and failure.stage == "forward":
        yield (
            f"after {format_counted(len(done), 'completed operation')}, the last was "
            f"{_name_call(done[-1])}"
        )


def _name_call(call: ModuleCall) -> str:
    return call.kind if call.fqn is None else f"{call.fqn!r} ({call.kind})"


def build_total_facts(trace: Trace, totals: Totals) -> Facts:
    """Parameters, buffers, MACs and bytes."""
    pairs = [("parameters", _describe_parameters(totals))]
    if totals.buffers:
        pairs.append(
            (
                "buffers",
                f"{format_count(totals.buffers)} elements, {_list_sizes(totals.buffer_bytes)}",
            )
        )
    if trace.calls:
        pairs += [("MACs", _describe_macs(trace, totals)), *_list_uncounted(totals)]
        upto = " up to there" if trace.failure is not None else ""
        pairs.append(
            (
                "activations",
                (
                    f"{format_size(totals.activation_bytes)}, the outputs of all operations "
                    f"together{upto}"
                ),
            )
        )
    return Facts(title="", pairs=tuple(pairs))


def _describe_parameters(totals: Totals) -> str:
    frozen = totals.parameters - totals.trainable
    split = "all trainable" if frozen == 0 else "all frozen" if totals.trainable == 0 else ""
    split = split or f"{format_count(totals.trainable)} trainable, {format_count(frozen)} frozen"
    return (
        f"{format_count(totals.parameters)} ({split}), {_list_sizes(totals.parameter_bytes)}"
        if totals.parameters
        else "none"
    )


def _list_sizes(by_dtype: Mapping[str, int]) -> str:
    return ", ".join(f"{format_size(nbytes)} of {dtype}" for dtype, nbytes in by_dtype.items())


def _describe_macs(trace: Trace, totals: Totals) -> str:
    if totals.operations and not totals.counted:
        return "- (no operation has a formula)"
    upto = " up to there" if trace.failure is not None else ""
    return (
        f"{format_si(totals.macs)}{upto} for this input (one multiply-add each; biases and "
        "normalisation are left out)"
    )


def _list_uncounted(totals: Totals) -> Iterator[tuple[str, str]]:
    share = totals.counted / totals.operations if totals.operations else 1.0
    counted = (
        f"{format_count(totals.counted)} of {format_counted(totals.operations, 'operation')} have "
        f"a formula ({format_percent(share)})"
    )
    if totals.uncounted:
        kinds = [
            f"{shorten_function(kind)} ({format_count(n)})" for kind, n in totals.uncounted.items()
        ]
        yield "", f"{counted}; not counted: {join_first(kinds)}"


def join_first(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _list_odd(trace: Trace) -> Iterator[Notice]:
    odd = [
        call
        for call in trace.calls
        if any(is_odd(tensor) for tensor in call.outputs) and not call.recomputed
    ]
    if odd:
        innermost = [
            trace.calls[i]
            for i in list_leaves(trace)
            if any(is_odd(tensor) for tensor in trace.calls[i].outputs)
        ]
        first = (innermost or odd)[0]
        yield Notice(
            severity="warning",
            text=(
                f"NaN or Inf in the output of {format_counted(len(odd), 'call')}; the first is "
                f"{_name_call(first)}"
            ),
        )


def list_observations(trace: Trace) -> Iterator[Notice]:
    """What a reader should know besides: NaN and Inf, modules never called, shared modules, tied
    parameters, what could not be seen.
    """
    yield from _list_odd(trace)
    shared = [
        " = ".join((module.fqn, *module.aliases)) for module in trace.modules if module.aliases
    ]
    if shared:
        yield Notice(
            severity="info", text=f"the same module under several names: {join_first(shared)}"
        )
    of_shared = {name for module in trace.modules for name in module.aliases}
    tied = [
        " = ".join((p.fqn, *names))
        for p in trace.parameters
        if (names := [alias for alias in p.aliases if alias.rpartition(".")[0] not in of_shared])
    ]
    if tied:
        yield Notice(severity="info", text=f"tied parameters, counted once: {join_first(tied)}")
    again = sum(call.recomputed for call in trace.calls)
    if again:
        text = (
            f"{format_counted(again, 'call')} recomputed in the backward pass by activation "
            "checkpointing, not in the table"
        )
        yield Notice(severity="info", text=text)
    yield from list_notes(trace.notes)
