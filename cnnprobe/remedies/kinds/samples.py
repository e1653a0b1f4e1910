"""Remedies of a batch with values that are no numbers."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import batch_size
from cnnprobe.recorder.values import leaves
from cnnprobe.records.words import format_counted
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.subject import CannotTryError, Subject


@answers("nan-data")
def clean_batch(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The batch without the samples that hold NaN or Inf; then 0 in their place."""
    n = batch_size(evidence)
    if n is not None and n > 1:
        yield Remedy(
            title="drop the samples that hold NaN or Inf: x[x.flatten(1).isfinite().all(1)]",
            change=lambda subject: _drop(subject, n),
            shows="the batch holds finite numbers alone",
            is_comparable=False,
        )
    yield Remedy(
        title="torch.nan_to_num(x, posinf=0, neginf=0), where 0 is a fair value",
        change=lambda subject: _change(subject, _fill),
        shows="the batch holds finite numbers alone",
        is_comparable=False,
    )


def _drop(subject: Subject, n: int) -> None:
    request = subject.request
    tensors = [t for _, t in leaves((request.inputs, request.targets)) if isinstance(t, Tensor)]
    batched = [t for t in tensors if t.dim() and t.shape[0] == n]
    whole = torch.ones(n, dtype=torch.bool)
    for tensor in batched:
        whole &= tensor.detach().reshape(n, -1).isfinite().all(1).cpu()
    count = int((~whole).sum())
    if not count or count > n - 2 or len(batched) < len(tensors):
        raise CannotTryError(
            f"{format_counted(count, 'sample')} of {n} {'holds' if count == 1 else 'hold'} such "
            "values, so too few are left"
        )
    _change(subject, lambda t: t[whole.to(t.device)])


def _fill(tensor: Tensor) -> Tensor:
    is_number = tensor.is_floating_point() or tensor.is_complex()
    return torch.nan_to_num(tensor, posinf=0.0, neginf=0.0) if is_number else tensor


def _change(subject: Subject, how: Callable[[Tensor], Tensor]) -> None:
    """The inputs and the targets, each tensor changed."""

    def each(value: Any) -> Any:
        return how(value.detach()) if isinstance(value, Tensor) else value

    inputs = torch.utils._pytree.tree_map(each, subject.request.inputs)
    targets = torch.utils._pytree.tree_map(each, subject.request.targets)
    subject.request = replace(subject.request, inputs=inputs, targets=targets)
