"""Remedies of terms that judge too little or too much: an ignored class, a norm, a mean error."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.rulebook.divergence_outweighs import find_outweighed

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


@answers("divergence-outweighs")
def sum_the_error(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The error of a sample as a sum, as the divergence is."""
    values = next((found.values for found in find_outweighed(evidence)), 0)
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"{finding.subject} times {values}, the sum over the values of a sample",
            change=instead(call, lambda func, args, kwargs: func(*args, **kwargs) * values),
            shows="error and divergence are both sums",
            is_comparable=False,
        )
