"""Remedies of terms that judge too little or too much: an ignored class, a norm, a mean error."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.kinds.calls import instead, rows_at
from cnnprobe.remedies.remedy import Remedy, answers
from cnnprobe.remedies.rewriting import Rewriting
from cnnprobe.rulebook.divergence_outweighs import find_outweighed, say_likelihood

NO_LABEL = -100  # torch's own ignore_index


@answers("ignored-class")
def ignore_no_class(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """A label that is no class in the place of the class."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"ignore_index={NO_LABEL} in {finding.subject}",
            change=instead(call, _ignore_nothing),
            shows="every label is judged",
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
def take_likelihood(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The likelihood of a whole sample in the place of its mean error."""
    found = next(find_outweighed(evidence), None)
    for _, call in rows_at(finding, evidence)[:1] if found is not None else ():
        assert found is not None  # noqa: S101  (nothing is gone through then)
        yield Remedy(
            title=say_likelihood(found),
            change=instead(call, _as_likelihood(found.values, found.factor)),
            shows="the error counts for each of its values, as the divergence does",
            is_comparable=False,
        )


def _as_likelihood(values: int, factor: float | None) -> Rewriting:
    def compute(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        error = func(*args, **kwargs)
        return values * error if factor is None else factor * values * error.log()

    return compute
