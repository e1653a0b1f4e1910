"""Findings as people read them: what is wrong, where, and what to do; the root causes first, the
rest folded.
"""

from collections import Counter
from collections.abc import Sequence

from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.document.blocks import Block, Document, Folded, Heading, Notice, Text
from cnnprobe.records.trace import Trace
from cnnprobe.records.words import format_counted

SHOWN = 5  # findings that a report shows before it folds the rest
SEVERAL = 3  # findings of one rule, from which on the first stands for all


def lay_out_findings(title: str, findings: Sequence[Finding]) -> Document:
    """The findings alone."""
    said = build_finding_blocks(findings) if findings else (Text(text="nothing was found"),)
    return Document(title=title, blocks=(Heading(text=title, level=1), *said))


def build_finding_blocks(
    findings: Sequence[Finding], trace: Trace | None = None, *, noun: str = "finding"
) -> tuple[Block, ...]:
    """The first five as notices, the rest folded; `noun` is what they are counted as."""
    shown, rest = fold(findings)
    counts = ", ".join(
        f"{n} {kind.value}{'s' if n > 1 and kind is not Severity.INFO else ''}"
        for kind in reversed(Severity)
        if (n := sum(1 for f in findings if f.severity == kind))
    )
    blocks: list[Block] = [Text(text=f"{format_counted(len(findings), noun)}: {counts}")]
    keys = {
        call.fqn: f"c{i}"
        for i, call in reversed(list(enumerate(trace.calls if trace is not None else ())))
    }
    for finding in shown:
        key = keys.get(finding.module, "") if finding.module else ""
        kind = finding.rule, finding.severity
        alike = [f for f in rest if (f.rule, f.severity) == kind]
        stands = sum((f.rule, f.severity) == kind for f in shown) == 1
        blocks.append(build_finding_notice(finding, key=key, alike=alike if stands else ()))
    if rest:
        folded = tuple(build_finding_notice(finding) for finding in rest)
        blocks.append(Folded(title=f"{len(rest)} more", blocks=folded))
    return tuple(blocks)


def fold(
    findings: Sequence[Finding], shown: int = SHOWN
) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """The first findings to show, and those that are folded away. Of several of one rule and
    severity the first stands for all.
    """
    count = Counter((finding.rule, finding.severity) for finding in findings)
    met: Counter[tuple[str, Severity | None]] = Counter()
    first, rest = list[Finding](), list[Finding]()
    for finding in findings:
        kind = finding.rule, finding.severity
        met[kind] += 1
        is_repeated = count[kind] >= SEVERAL and met[kind] > 1
        (rest if is_repeated or len(first) == shown else first).append(finding)
    return tuple(first), tuple(rest)


def build_finding_notice(
    finding: Finding, *, key: str = "", alike: Sequence[Finding] = ()
) -> Notice:
    """One finding; `key` is that of the row of its module, `alike` are those that it stands for."""
    more = f"and {len(alike)} more below" if alike else ""
    follows = f" (follows from {', '.join(finding.follows_from)})" if finding.follows_from else ""
    return Notice(
        severity=(finding.severity or Severity.INFO).value,
        text=f"{finding.rule}: {finding.message}{follows}",
        where=", ".join(filter(None, (_name_place(finding), finding.source, more))),
        fix=finding.advice,
        code=finding.code,
        key=key,
    )


def _name_place(finding: Finding) -> str:
    if finding.module is None:  # a line says more than that it is none of the model's
        return "" if finding.source else "the training loop, the loss or the data"
    return f"module '{finding.module}'" if finding.module else "the model"
