"""Samples that influence each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    Evidence,
    Flow,
    argument,
    describe,
    operation,
    operation_of_module,
)
from cnnprobe.diagnosis.evidence.questions import find_module, spoken, takes_time_first
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying

PRODUCTS = ("matmul",)


def _net(leaking: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = self.body(x.flatten(1)).relu()
            x = x - x.mean(dim=0 if leaking else 1, keepdim=True)
            return self.head(x)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """The mean over dimension 0."""
    return _net(leaking=True)


def healthy() -> Mapping[str, Any]:
    """The mean over the features."""
    return _net(leaking=False)


@rule(
    code="CP701",
    name="batch-leak",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("constant-output", "ignored-input"),
)
def batch_leak(evidence: Evidence) -> Iterator[Finding]:
    """In eval mode, other samples in the batch change what a sample gets: by an operation over the
    batch, or by a BatchNorm that normalises by the batch in both modes.

    Why it matters: a prediction depends on its neighbours in the batch; a single sample gets
    another one.
    What to do: check the dim of means, softmaxes and attention, and views that merge the batch;
    F.batch_norm(..., training=self.training).
    Known exceptions: matrices of similarities between samples; rows that are nodes of one graph,
    which a product with a fixed matrix joins; a model that writes to its own
    buffers in eval mode, such as the ranges of a quantization, is not judged; BatchNorm without
    running statistics, which uses the batch by design; dynamic quantization, whose scale is that of
    the whole batch, is info. A recurrent layer that takes the batch for time is `batch-as-time`.
    Source: two forward passes in eval mode; Karpathy 2019, "A Recipe for Training Neural Networks",
    "use backprop to chart dependencies".
    """
    yield from _list_norms_in_training(evidence)
    if evidence.probes.leak is None or joins_rows(evidence):
        return
    module, gap = evidence.probes.leak
    info = find_module(evidence, module)
    if info is not None and (takes_time_first(info) or operation_of_module(info) == "batch_norm"):
        return
    if _is_quantized_dynamically(evidence, module):
        yield Finding(
            module=module,
            severity=Severity.INFO,
            message=(
                f"other samples in their batch change the outputs by {gap:.1e} of their size: "
                "dynamic quantization takes one scale for the whole batch, by construction"
            ),
            fix="nothing; quantize statically where a sample must get the same alone as in a batch",
        )
        return
    place = spoken(evidence, module)
    call, line = evidence.probes.mixing or ("", "")
    at = f"{call} in {place}" if call else place
    yield Finding(
        module=module,
        message=(
            f"other samples in their batch change the outputs by {gap:.1e} of their size (more "
            f"than 1e-4), first by {at}"
        ),
        fix=(
            f"keep the batch out of {call}: let it run over another dim"
            if call
            else f"look for an operation over dim 0 in {place}"
        ),
        source=line,
    )


def _list_norms_in_training(evidence: Evidence) -> Iterator[Finding]:
    """The first BatchNorm with running statistics that normalises by the batch in eval mode."""
    if evidence.evaluation is None:
        return
    flow = Flow(evidence.evaluation)
    found = [i for i in flow.primitives({"batch_norm"}) if _is_in_training(evidence, flow, i)]
    if found:
        call, place = flow.calls[found[0]], spoken(evidence, flow.owner(found[0]))
        is_function = call.fqn is None
        does = "normalise" if len(found) > 1 else "normalises"
        yield Finding(
            module=flow.owner(found[0]),
            severity=Severity.WARNING,
            message=(
                f"in eval mode {format_counted(len(found), 'BatchNorm')} (the first is {place}) "
                f"still {does} by the statistics of the batch: the output of a sample depends on "
                "the others beside it"
            ),
            fix=f"{describe(call)}(..., training=self.training) in {place}"
            if is_function
            else f"let eval() reach {place}: train() of the model must pass the mode on to it",
            source=call.source,
            kind="norm" if is_function else "mode",
        )


def _is_in_training(evidence: Evidence, flow: Flow, index: int) -> bool:
    call, layer = flow.calls[index], find_module(evidence, flow.owner(index))
    if call.fqn is None:
        has_statistics = len([t for t in call.inputs if t.shape]) > 2
        return argument(call, "training", False) is True and has_statistics
    modes = {m.fqn: m.training for m in evidence.evaluation.modules} if evidence.evaluation else {}
    keeps = layer is not None and layer.config.get("track_running_stats") is True
    return modes.get(call.fqn, False) and keeps


def joins_rows(evidence: Evidence) -> bool:
    """Whether a product with a fixed (N, N) matrix joins the N rows of the input: they are nodes of
    a graph, and no samples.
    """
    calls, flow = evidence.trace.calls, Flow(evidence.trace)
    rows = {info.shape[0] for i in flow.roots() for info in calls[i].inputs if info.shape}
    return any(
        operation(call) in PRODUCTS
        and len(call.inputs) >= 2
        and not isinstance(call.inputs[0].source, int)
        and not call.inputs[0].requires_grad
        and call.inputs[0].shape == (call.inputs[1].shape[0],) * 2
        and call.inputs[1].shape[0] in rows
        for call in calls
        if call.inputs and call.inputs[-1].shape
    )


def _is_quantized_dynamically(evidence: Evidence, module: str | None) -> bool:
    """Whether the module runs a dynamically quantized product."""
    calls = evidence.trace.calls
    return any(
        "quantized" in call.kind
        and "dynamic" in call.kind
        and call.parent is not None
        and (module in (None, "") or calls[call.parent].fqn == module)
        for call in calls
    )
