"""Rules over evidence: what a Rule and a Finding are, how rules are run, and which finding comes
first.

No torch here, no model: a rule is a pure function of an `Evidence`.
"""

import dataclasses
import enum
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from cnnprobe.diagnosis.discovery import read_page, read_sentence
from cnnprobe.diagnosis.tried import Tried as Tried
from cnnprobe.diagnosis.tried import Verdict as Verdict
from cnnprobe.errors import UsageError
from cnnprobe.records.trace import Failure

if TYPE_CHECKING:  # a report holds findings, and needs no evidence
    from cnnprobe.diagnosis.evidence import Evidence

UNKNOWN = ("unknown", "CP099")  # name and code of a crash whose cause is not known


class Severity(enum.StrEnum):
    """How bad it is: an error cannot learn or run as written, a warning is probably not what was
    meant, info is worth knowing.

    >>> Severity.ERROR > Severity.WARNING > Severity.INFO
    True
    """

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"

    @property
    def rank(self) -> int:
        """0 for info, 1 for warning, 2 for error."""
        return list(Severity).index(self)

    def __gt__(self, other: object) -> bool:
        return isinstance(other, Severity) and self.rank > other.rank

    def __ge__(self, other: object) -> bool:
        return isinstance(other, Severity) and self.rank >= other.rank

    def __lt__(self, other: object) -> bool:
        return isinstance(other, Severity) and self.rank < other.rank

    def __le__(self, other: object) -> bool:
        return isinstance(other, Severity) and self.rank <= other.rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One fault: which rule, where, what was measured, what to do.

    `module` is the fqn of the module to blame, "" for the root, None where it is the loop, the loss
    or the data. `follows_from` names the rules whose findings explain this one. A rule leaves
    `rule` and `code` empty: they are filled in from it. What tries its fix chooses by `kind` and
    `subject`, and never by a sentence.
    """

    message: str  # number, unit and bound: "99.8% of the outputs are zero (more than 99%)"
    fix: str  # in the user's own names
    module: str | None = None
    severity: Severity | None = None  # None: that of its rule
    rule: str = ""
    code: str = ""
    follows_from: tuple[str, ...] = ()
    source: str = ""  # the user's line, "file.py:12"
    # which fault of its rule it is, in kebab-case: "reentrant-checkpoint"; "" for the usual one
    kind: str = ""
    # what it speaks of where its place has several: a call as `describe` names it, an optimizer
    subject: str = ""
    # the wider name of a cause or a rule: "shape-mismatch", "softmax-dim"; "" where it has none
    family: str = ""
    tried: Tried | None = None  # what came of its fix; None where nothing was tried

    @property
    def is_crash(self) -> bool:
        """Whether it is an exception, and not what a rule found."""
        return self.code.startswith("CP0")

    @property
    def advice(self) -> str:
        """What to do, and what came of it: a proven fix by its own title, another with what was
        seen.
        """
        if self.tried is None:
            return self.fix
        is_proven = self.tried.verdict is Verdict.PROVEN
        return f"{self.tried.title if is_proven else self.fix} ({self.tried.sentence})"


_IGNORED = "__cnnprobe_ignore__"  # attribute of a decorated class: rule name or code to the reason
_Class = TypeVar("_Class", bound=type)
Check = Callable[["Evidence"], Iterable[Finding]]
R = TypeVar("R", bound="NamedRule")
Example = Callable[..., Mapping[str, Any]]
Examples = tuple[Example, Example]
Defining = Callable[[Any], R]  # the decorator


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedRule:
    """A check with its name, its page (the docstring) and its examples, `sick` and `healthy`, which
    are its tests: what the rules of a model, of its data and of its ranks have in common.
    """

    # CP1xx activations, 2xx gradients, 3xx structure, 4xx loss, 5xx loop, 6xx normalisation, 7xx
    # dependencies, 8xx data, 9xx ranks
    code: str
    name: str  # states the fault
    severity: Severity
    check: Callable[[Any], Iterable[Finding]]
    sick: Callable[..., Mapping[str, Any]] | None = None
    healthy: Callable[..., Mapping[str, Any]] | None = None
    explains: tuple[str, ...] = ()  # rules whose findings are but symptoms of this one
    family: str = ""  # the wider name under which it was known before, which suppresses it too

    @property
    def page(self) -> str:
        """The rule's page: the docstring of its check."""
        return read_page(self.check)

    @property
    def sentence(self) -> str:
        """The first sentence of the page."""
        return read_sentence(self.page)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule(NamedRule):
    """A rule of a model and its training; its examples give the keyword arguments of `diagnose`."""

    monitored: bool = (
        False  # a watched training loop has all that it asks for, without extra passes
    )


def define_rule(kind: type[R], name: str, examples: Examples | None, **fields: Any) -> Defining[R]:
    """Make a rule of this kind of a check.

    Raises:
        UsageError: the name is not kebab-case.
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise UsageError(
            f"a rule cannot be called {name!r}",
            where=f"rule {fields['code']}",
            fix="use kebab-case that states the fault: dead-relu",
        )
    sick, healthy = examples if examples is not None else (None, None)

    def decorate(check: Any) -> R:
        return kind(name=name, check=check, sick=sick, healthy=healthy, **fields)

    return decorate


def rule(
    *,
    code: str,
    name: str,
    severity: Severity = Severity.WARNING,
    examples: tuple[Callable[[], Mapping[str, Any]], Callable[[], Mapping[str, Any]]] | None = None,
    explains: tuple[str, ...] = (),
    family: str = "",
    monitored: bool = False,
) -> Callable[[Check], Rule]:
    """Make a Rule of a check.

    Args:
        code: CP and three digits, never one that was used before.
        name: states the fault, in kebab-case.
        severity: of a finding that does not say its own.
        examples: a sick and a healthy one, functions that give the keyword arguments of `diagnose`.
        explains: the rules whose findings are but symptoms of this one.
        family: a wider name, which suppresses its findings too.
        monitored: whether `monitor` judges it. It then gets the steps of the watched loop and no
            probes.

    Raises:
        UsageError: the name is not kebab-case.
    """
    return define_rule(
        Rule,
        name,
        examples,
        code=code,
        severity=severity,
        explains=explains,
        family=family,
        monitored=monitored,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the rules found, the root causes first, and what was suppressed and why."""

    findings: tuple[Finding, ...] = ()
    suppressed: tuple[tuple[Finding, str], ...] = ()  # with the reason
    notes: tuple[str, ...] = field(default=())  # rules that could not judge, in sentences


def run_rules(
    evidence: Any, rules: Iterable[NamedRule], *, ignore: Mapping[str, str] | None = None
) -> Diagnosis:
    """Run every rule over the evidence.

    Args:
        evidence: what the checks are given: an Evidence, or what was read of data or ranks.
        rules: the rules to run; a rule that raises is noted and the others go on.
        ignore: rule name or code, or "name:module fqn", to the reason why its findings are
            suppressed.

    Raises:
        UsageError: a suppression without a reason.
    """
    ignore = ignore or {}
    for key, why in ignore.items():
        if not why.strip():
            raise UsageError(
                f"{key!r} is ignored without a reason",
                where="ignore=",
                fix="say why, for the reader after you",
            )
    rules = tuple(rules)
    found: list[Finding] = []
    notes: list[str] = []
    for each in rules:
        try:
            found.extend(
                dataclasses.replace(
                    f,
                    rule=each.name,
                    code=each.code,
                    family=each.family,
                    severity=f.severity or each.severity,
                )
                for f in each.check(evidence)
            )
        except Exception as error:  # one rule's mistake must not hide what the others found
            notes.append(f"rule {each.name} could not judge: {type(error).__name__}: {error}")
    found = list(dict.fromkeys(found))  # one place, called again and again, is one fault
    kept, suppressed = split_ignored(found, ignore)
    return Diagnosis(findings=in_order(kept, rules), suppressed=suppressed, notes=tuple(notes))


def ignore(name: str, reason: str) -> Callable[[_Class], _Class]:
    """A decorator of a class of modules: what the rule says of them, and of what is in them, is
    suppressed by `diagnose`.

    Args:
        name: of the rule, or its code.
        reason: why, for the reader after you; it is noted in the report.

    Raises:
        UsageError: there is no reason.

    >>> @ignore("dead-relu", "a sparse code")
    ... class Code:
    ...     pass
    """
    if not reason.strip():
        raise UsageError(
            f"{name!r} is ignored without a reason",
            where="@ignore",
            fix="say why, for the reader after you",
        )

    def decorate(decorated: _Class) -> _Class:
        setattr(decorated, _IGNORED, {**getattr(decorated, _IGNORED, {}), name: reason})
        return decorated

    return decorate


def ignored_by_classes(modules: Iterable[tuple[str, object]]) -> dict[str, str]:
    """What the decorated classes among modules (fqn and instance, parents before children)
    suppress, in the form of `ignore=` of `run_rules`.
    """
    found: dict[str, str] = {}
    above: list[tuple[str, Mapping[str, str]]] = []
    for fqn, module in modules:
        own = getattr(type(module), _IGNORED, {})
        if own:
            above.append((fqn, own))
        for holder, reasons in above:
            if not holder:
                found |= reasons  # the whole model: also what is found in its loop
            elif fqn == holder or fqn.startswith(holder + "."):
                found |= {f"{name}:{fqn}": reason for name, reason in reasons.items()}
    return found


def to_finding(failure: Failure, explanation: Any = None) -> Finding:
    """A crash as a finding, with the name and code of its cause.

    Args:
        failure: where and what was raised.
        explanation: the crash's Explanation; its first repair becomes the fix.
    """
    if explanation is None or explanation.diagnosis == UNKNOWN[0]:
        name, code = UNKNOWN
        return Finding(
            rule=name,
            code=code,
            severity=Severity.ERROR,
            module=failure.module,
            message=f"the {failure.stage} raised {failure.error}",
            fix="the trace shows what every layer before it got",
            source=failure.source,
        )
    best = explanation.repairs[0] if explanation.repairs else None
    outcome = f" ({best.tried or 'not tried'})" if best is not None else ""
    return Finding(
        rule=explanation.diagnosis,
        code=explanation.code,
        family=explanation.family if explanation.family != explanation.diagnosis else "",
        severity=Severity.ERROR,
        module=explanation.module,
        message=explanation.message
        + (f": {explanation.arithmetic}" if explanation.arithmetic else ""),
        fix=f"{best.title}{outcome}" if best is not None else "no repair was found that works",
        source=explanation.source or failure.source,
    )


def split_ignored(
    findings: Iterable[Finding], ignore: Mapping[str, str]
) -> tuple[tuple[Finding, ...], tuple[tuple[Finding, str], ...]]:
    """The findings that stay, and those that are suppressed, each with the reason."""
    judged = [(finding, find_reason(finding, ignore)) for finding in findings]
    kept = tuple(finding for finding, reason in judged if reason is None)
    return kept, tuple((finding, reason) for finding, reason in judged if reason is not None)


def find_reason(finding: Finding, ignore: Mapping[str, str]) -> str | None:
    """Why a finding is suppressed; None where it is not."""
    for name in filter(None, (finding.rule, finding.code, finding.family)):
        for key in (name, f"{name}:{finding.module}"):
            if key in ignore:
                return ignore[key]
    return None


def in_order(findings: Iterable[Finding], rules: Sequence[NamedRule]) -> tuple[Finding, ...]:
    """Root causes first, then the graver, then the order of the rules, and info last; symptoms get
    the names of the causes that were found too.
    """
    findings = list(findings)
    explains = {r.name: r.explains for r in rules}
    present = {f.rule for f in findings if f.severity is not None and f.severity > Severity.INFO}
    causes = {
        f.rule: tuple(sorted(c for c in present if f.rule in explains.get(c, ()) and c != f.rule))
        for f in findings
    }
    linked = [
        dataclasses.replace(
            f, follows_from=tuple(dict.fromkeys((*f.follows_from, *causes[f.rule])))
        )
        for f in findings
    ]
    position = {r.name: i for i, r in enumerate(rules)}
    return tuple(
        sorted(
            linked,
            key=lambda f: (
                f.severity is Severity.INFO,
                bool(f.follows_from),
                -(f.severity or Severity.INFO).rank,
                position.get(f.rule, 0),
            ),
        )
    )


def at_least(findings: Iterable[Finding], threshold: str) -> Iterator[Finding]:
    """The findings that `--fail-on` means: of a severity or graver, or of a rule by name, code or
    family.
    """
    names = {severity.value for severity in Severity}
    for finding in findings:
        severity = finding.severity or Severity.INFO
        if (threshold in names and severity >= Severity(threshold)) or threshold in (
            finding.rule,
            finding.code,
            finding.family,
        ):
            yield finding
