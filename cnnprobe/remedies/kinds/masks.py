"""Remedies of masks before a softmax."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence, describe
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.remedy import Remedy, answers


@answers("mask-of-zeros")
def fill_with_infinity(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """Minus infinity in the place of what is masked."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f'scores.masked_fill(mask == 0, float("-inf")) in place of {describe(call)}',
            change=instead(call, _fill),
            shows="what is masked gets a weight of 0",
            is_comparable=False,
        )


def _fill(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """As masked_fill with minus infinity; a row that is masked entirely stays as it is."""
    first, second = args[:2]
    if second.dtype == torch.bool and func is not torch.mul and len(args) + len(kwargs) > 2:
        return _mask(first, second)
    scores, mask = (first, second) if first.requires_grad else (second, first)
    return _mask(scores, mask == 0)


def _mask(scores: Tensor, hidden: Tensor) -> Tensor:
    whole = hidden.expand_as(scores).all(-1, keepdim=True)
    return scores.masked_fill(hidden & ~whole, float("-inf"))
