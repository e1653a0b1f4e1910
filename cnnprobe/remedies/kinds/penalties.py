"""Remedies of a loss that ignores a class, and of a penalty that takes the wrong norm."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.remedy import Remedy, answers

NO_LABEL = -100  # torch's own ignore_index


@answers("ignored-class")
def ignore_no_class(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A label that is no class in the place of the class."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"ignore_index={NO_LABEL} in {finding.subject}",
            change=instead(call, _ignore_nothing),
            shows="every pixel is judged",
            is_comparable=False,
        )


def _ignore_nothing(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **{**kwargs, "ignore_index": NO_LABEL})


@answers("penalty-of-places")
def take_norm_of_samples(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """One norm for each sample."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"gradients.flatten(1).norm(2, dim=1) in place of {finding.subject}",
            change=instead(call, _take_norms),
            shows="the penalty takes one norm for each sample",
            is_comparable=False,
        )


def _take_norms(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    given = next(iter((*args, *kwargs.values())))
    return given.flatten(1).norm(2, dim=1)
