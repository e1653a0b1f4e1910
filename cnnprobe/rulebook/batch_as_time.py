"""A layer of sequences that takes the batch for time."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import (
    batch_size,
    find_module,
    spoken,
    takes_time_first,
)
from cnnprobe.rulebook.material import classifying


def _net(batch_first: bool) -> Mapping[str, Any]:
    """Rows of the image, one after the other."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(8, 8, batch_first=batch_first)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            sequence, _ = self.lstm(x[:, 0])
            return self.head(sequence[:, -1])

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """An LSTM of (N, L, features) without batch_first."""
    return _net(batch_first=False)


def healthy() -> Mapping[str, Any]:
    """With it."""
    return _net(batch_first=True)


@rule(
    code="CP708",
    name="batch-as-time",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="batch-leak",
    explains=("constant-output", "ignored-input", "zero-grad", "cannot-overfit"),
)
def batch_as_time(evidence: Evidence) -> Iterator[Finding]:
    """A recurrent layer or an attention gets (N, L, features) without batch_first=True: it takes
    the batch for time.

    Why it matters: each sample is a step of one long sequence, so its output depends on the samples
    before it.
    What to do: set batch_first=True, or give it (L, N, features).
    Known exceptions: inputs and targets that have time in dim 0 themselves are not judged.
    Source: torch.nn.LSTM, "batch_first: If True, then the input and output tensors are provided as
    (batch, seq, feature) instead of (seq, batch, feature)"; two forward passes in eval mode.
    """
    if evidence.probes.leak is not None:
        yield from _leaks(evidence, *evidence.probes.leak)
    elif evidence.probes.spread == 0:
        yield from _gives_all_the_same(evidence)


def _leaks(evidence: Evidence, module: str | None, gap: float) -> Iterator[Finding]:
    """Samples influence each other, first in such a layer."""
    info = find_module(evidence, module)
    if info is None or not takes_time_first(info):
        return
    if any(len(t.shape) > 1 for t in evidence.targets):
        return  # the first dim may be time, of inputs and targets alike
    yield Finding(
        module=module,
        message=(
            f"other samples in their batch change the outputs by {gap:.1e} of their size (more "
            f"than 1e-4), first in {spoken(evidence, module)}"
        ),
        fix=f"batch_first=True in {spoken(evidence, _find_maker(evidence, module))}",
    )


def _gives_all_the_same(evidence: Evidence) -> Iterator[Finding]:
    """All samples get the same output, so that none is left to influence another."""
    n = batch_size(evidence)
    for call in evidence.trace.calls:
        info = find_module(evidence, call.fqn)
        if n is None or info is None or not takes_time_first(info):
            continue
        shape = call.inputs[0].shape if call.inputs else ()
        if len(shape) == 3 and shape[0] == n and shape[1] != n:
            yield Finding(
                module=info.fqn,
                message=(
                    f"{spoken(evidence, info.fqn)} takes dim 0 of {shape} for time, which is the "
                    f"batch of {n}: all samples get the same output"
                ),
                fix=f"batch_first=True in {spoken(evidence, _find_maker(evidence, info.fqn))}",
                source=call.source,
            )
            return


def _find_maker(evidence: Evidence, fqn: str | None) -> str | None:
    """The module whose argument batch_first is: an attention's in a Transformer's layer is that of
    the layer.
    """
    parent = (fqn or "").rpartition(".")[0]
    kinds = {m.fqn: m.kind for m in evidence.trace.modules}
    transformers = ("TransformerEncoderLayer", "TransformerDecoderLayer")
    return parent if kinds.get(parent) in transformers else fqn
