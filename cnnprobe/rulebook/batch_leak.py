"""Samples that influence each other."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, operation_of_module
from cnnprobe.diagnosis.evidence.questions import batch_size, spoken
from cnnprobe.rulebook.material import classifying


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
    """In eval mode, another first sample changes what the other samples get.

    Why it matters: a prediction depends on its neighbours in the batch; a single sample gets another one.
    What to do: check the axis of means, softmaxes and attention, views that merge the batch, and batch_first=True of recurrent layers.
    Known exceptions: matrices of similarities between samples; BatchNorm without running statistics, which uses the batch by design.
    Source: two forward passes in eval mode; Karpathy 2019, "A Recipe for Training Neural Networks", "use backprop to chart dependencies".
    """
    if evidence.probes.leak is None:
        yield from _over_the_batch(evidence)
        return
    module, gap = evidence.probes.leak
    info = next((m for m in evidence.trace.modules if m.fqn == module), None)
    if info is not None and operation_of_module(info) == "batch_norm":
        return
    recurrent = (
        info is not None
        and operation_of_module(info) in ("rnn", "attention")
        and info.config.get("batch_first") is False
    )
    if recurrent and any(len(t.shape) > 1 for t in evidence.targets):
        return  # the first dimension may be time, of inputs and targets alike
    yield Finding(
        module=module,
        message=f"another first sample changes the others' outputs by {gap:.1e} of their size (more than 1e-4), first in {spoken(evidence, module)}",
        fix=f"batch_first=True in {spoken(evidence, _made_by(evidence, module))}"
        if recurrent
        else f"look for an operation over dimension 0 in {spoken(evidence, module)}",
    )


def _over_the_batch(evidence: Evidence) -> Iterator[Finding]:
    """A layer of sequences that takes the batch for time, where all samples then get the same: no sample is left to influence another."""
    n = batch_size(evidence)
    if evidence.probes.spread != 0 or n is None:
        return
    for call in evidence.trace.calls:
        info = next((m for m in evidence.trace.modules if m.fqn == call.fqn), None)
        if (
            info is None
            or operation_of_module(info) not in ("rnn", "attention")
            or info.config.get("batch_first") is not False
        ):
            continue
        shape = call.inputs[0].shape if call.inputs else ()
        if len(shape) == 3 and shape[0] == n and shape[1] != n:
            yield Finding(
                module=info.fqn,
                message=f"{spoken(evidence, info.fqn)} takes dimension 0 of {shape} for time, which is the batch of {n}: all samples get the same output",
                fix=f"batch_first=True in {spoken(evidence, _made_by(evidence, info.fqn))}",
                source=call.source,
            )
            return


def _made_by(evidence: Evidence, fqn: str | None) -> str | None:
    """The module whose argument batch_first is: an attention's in a Transformer's layer is that of the layer."""
    parent = (fqn or "").rpartition(".")[0]
    kinds = {m.fqn: m.kind for m in evidence.trace.modules}
    return (
        parent
        if kinds.get(parent) in ("TransformerEncoderLayer", "TransformerDecoderLayer")
        else fqn
    )
