"""The order of findings that follows from what was tried."""

from collections.abc import Collection, Iterable

from cnnprobe.diagnosis import Finding, Severity, Verdict


def order_by_trials(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings whose fix is proven before others of their kind, and those that clear the most
    first; last what only tidies up.
    """
    return tuple(sorted(findings, key=_place))


def order_beside(findings: Iterable[Finding], others: Collection[str]) -> tuple[Finding, ...]:
    """The same, where the findings of other rules, which nothing tries, stay at their places."""
    findings = tuple(findings)
    tried = iter(order_by_trials(f for f in findings if f.rule not in others))
    return tuple(f if f.rule in others else next(tried) for f in findings)


def _place(finding: Finding) -> tuple[bool, bool, bool, int, int]:
    tried = finding.tried
    return (
        finding.severity is Severity.INFO,
        finding.severity is Severity.INFO and tried is not None and tried.tidies,
        bool(finding.follows_from),
        tried.verdict.rank if tried is not None else Verdict.UNTRIED.rank,
        -len(tried.clears) if tried is not None and tried.verdict is Verdict.PROVEN else 0,
    )
