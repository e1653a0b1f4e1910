"""What a report shows: data into a Document. No torch, no escaping, nothing printed.

The first report in a process waits for what this loads, so what few reports have (findings, a
history, pictures) is loaded where it is laid out.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cnnprobe.document.blocks import Block, Code, Document, Folded, Heading, Table, Text
from cnnprobe.document.layout.entries import Entry, list_entries
from cnnprobe.document.layout.explanations import (
    build_evidence_blocks,
    build_explanation_notice,
    build_patch_blocks,
)
from cnnprobe.document.layout.folded_rows import fold_rows
from cnnprobe.document.layout.parts import build_shares
from cnnprobe.document.layout.summary import (
    build_failure_notice,
    build_total_facts,
    introduce,
    list_observations,
)
from cnnprobe.document.layout.tables import build_module_table, build_parameter_table
from cnnprobe.errors import UnknownNameError, UsageError, suggest
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.totals import add_up
from cnnprobe.records.trace import Trace

if TYPE_CHECKING:
    from cnnprobe.diagnosis import Finding, Tried
    from cnnprobe.graph import Graph
    from cnnprobe.records.history import History

__all__ = [
    "FRAGMENT", "SECTIONS", "USUAL", "Entry", "View", "fold_rows", "lay_out_parameters",
    "lay_out_trace", "list_entries",
]  # fmt: skip

_NOT_SHOWN = "{:,} more rows are not shown here; report.save() writes them all"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is shown of a trace, and beside it."""

    depth: int | None = None  # deepest level: 0 the model alone, 1 its children, None all
    sections: Sequence[str] | None = None  # of SECTIONS, in this order; None: USUAL
    folded: bool = True  # identical neighbours are one row
    most_rows: int | None = None  # of a table; deeper levels are left out first, then the last rows
    drawn: bool = False  # with a column of drawings of how the values lie
    graph: "Graph | None" = None  # autograd's, in the section "graph" after the modules' pictures
    explanation: Explanation | None = None  # stands in place of the bare failure
    history: "History | None" = None  # the training steps that were watched, before the modules
    findings: "Sequence[Finding]" = ()  # root causes first
    together: "Tried | None" = None  # what all their proven fixes do at once


_WHOLE = View()


def lay_out_trace(trace: Trace, view: View = _WHOLE) -> Document:
    """One forward pass as people read it: what raised, every call in order, what it adds up to,
    what was noticed.

    Findings stand right under the title, below a crash where one is explained. Sums include what
    is hidden by a depth.

    Raises:
        UsageError: the depth is negative.
        UnknownNameError: there is no such section.
    """
    depth, explanation, findings = view.depth, view.explanation, view.findings
    if depth is not None and depth < 0:
        raise UsageError(
            f"depth {depth} is negative",
            where="layout",
            fix="give 0 for the model alone, 1 for its children, None for all",
        )
    sections = USUAL if view.sections is None else view.sections
    # What raised has its own place in the document.
    others = tuple(f for f in findings if not _has_own_place(f, explanation, sections))
    view = replace(view, findings=others)
    crashed = len(others) < len(findings)
    found = tuple(_show_findings(trace, view, "other finding" if crashed else "finding"))
    last = max(i for i, name in enumerate(sections) if name in _OF_CRASH) if crashed else -1
    blocks: list[Block] = [Heading(text=trace.model, level=1)]
    blocks += () if crashed else found
    blocks.append(Text(text=introduce(trace)))
    for i, section in enumerate(sections):
        if section not in _MAKERS:
            raise UnknownNameError(
                f"no section named {section!r}", where="layout", fix=suggest(section, SECTIONS)
            )
        blocks += _MAKERS[section](trace, view)
        # The rules judge what ran before the crash: the crash itself comes first.
        blocks += found if i == last else ()
    return Document(title=trace.model, blocks=tuple(blocks))


def _show_findings(trace: Trace, view: View, noun: str) -> Iterable[Block]:
    if view.findings:
        from cnnprobe.document.layout.findings import build_finding_blocks
        from cnnprobe.document.layout.trials import build_trial_blocks

        yield from build_finding_blocks(view.findings, trace, noun=noun)
        yield from build_trial_blocks(view.findings, view.together, drawn=view.drawn)


def _has_own_place(
    finding: "Finding", explanation: Explanation | None, sections: Sequence[str]
) -> bool:
    return finding.is_crash and explanation is not None and "failure" in sections


def lay_out_parameters(trace: Trace) -> Document:
    """`named_parameters()`, then `named_buffers()`, each with its shape; tied ones once."""
    tables = tuple(_build_parameter_tables(trace)) or (Text(text="no parameters and no buffers"),)
    return Document(title=trace.model, blocks=(Heading(text=trace.model, level=1), *tables))


def _build_parameter_tables(trace: Trace) -> Iterator[Table]:
    for kind, title in (("parameter", "Parameters"), ("buffer", "Buffers")):
        found = [parameter for parameter in trace.parameters if parameter.kind == kind]
        if found:
            yield build_parameter_table(found, title=title)


def _show_failure(trace: Trace, view: View) -> Iterable[Block]:
    if view.explanation is None or trace.failure is None:
        return build_failure_notice(trace)
    return [
        build_explanation_notice(
            view.explanation, key="" if trace.failure.call is None else f"c{trace.failure.call}"
        )
    ]


def _show_evidence(_trace: Trace, view: View) -> Iterable[Block]:
    return () if view.explanation is None else build_evidence_blocks(view.explanation)


def _show_patch(_trace: Trace, view: View) -> Iterable[Block]:
    return () if view.explanation is None else build_patch_blocks(view.explanation)


def _show_history(_trace: Trace, view: View) -> Iterable[Block]:
    if view.history is None:
        return ()
    from cnnprobe.document.layout.histories import build_history_blocks

    return (Heading(text="Training"), *build_history_blocks(view.history, drawn=view.drawn))


def _show_modules(trace: Trace, view: View) -> Iterable[Block]:
    rows = list_entries(trace)
    if not rows:
        return [Text(text="no module was called")]
    rows = fold_rows(trace, rows) if view.folded else rows
    shown = [row for row in rows if view.depth is None or row.depth <= view.depth]
    if view.most_rows is None or len(shown) <= view.most_rows:
        return [build_module_table(trace, shown, drawn=view.drawn)]
    table = build_module_table(trace, _keep_first_levels(shown, view.most_rows), drawn=view.drawn)
    return [replace(table, notes=(_NOT_SHOWN.format(len(shown) - len(table.rows)), *table.notes))]


def _keep_first_levels(rows: Sequence[Entry], most: int) -> Sequence[Entry]:
    """The rows of as many whole levels as fit, at least two; of those the first."""
    at = Counter(row.depth for row in rows)
    deepest, shown = 0, at[0]
    while shown + at[deepest + 1] <= most:
        deepest += 1
        shown += at[deepest]
    return [row for row in rows if row.depth <= max(deepest, 1)][:most]


def _show_totals(trace: Trace, _view: View) -> Iterable[Block]:
    return [build_total_facts(trace, add_up(trace))]


def _show_notes(trace: Trace, _view: View) -> Iterable[Block]:
    return list_observations(trace)


def _show_parameters(trace: Trace, view: View) -> Iterable[Block]:
    for table in _build_parameter_tables(trace):
        *rows, total_row = table.rows
        if view.most_rows is not None and len(rows) > view.most_rows:
            note = _NOT_SHOWN.format(len(rows) - view.most_rows)
            yield Folded(
                title=table.title,
                blocks=(replace(table, rows=(*rows[: view.most_rows], total_row), notes=(note,)),),
            )
        else:
            yield Folded(title=table.title, blocks=(table,))


def _show_shares(trace: Trace, _view: View) -> Iterable[Block]:
    return build_shares(list_entries(trace))


def _show_graph(trace: Trace, view: View) -> Iterable[Block]:
    from cnnprobe.document.layout.boxes import draw_graph_pictures

    return draw_graph_pictures(trace, view.graph)


def _show_traceback(trace: Trace, _view: View) -> Iterable[Block]:
    if trace.failure is not None and trace.failure.traceback:
        yield Folded(
            title="Traceback",
            blocks=(Code(text=trace.failure.traceback.rstrip(), language="python"),),
        )


# A part of a report is named here and nowhere else, in the order of a page: drawings before tables.
_MAKERS: Mapping[str, Callable[[Trace, View], Iterable[Block]]] = {
    "failure": _show_failure,
    "patch": _show_patch,
    "evidence": _show_evidence,
    "history": _show_history,
    "totals": _show_totals,
    "shares": _show_shares,
    "modules": _show_modules,
    "graph": _show_graph,
    "notes": _show_notes,
    "parameters": _show_parameters,
    "traceback": _show_traceback,
}
SECTIONS = tuple(_MAKERS)
"""The parts of a report. Findings are none of them: they stand in every report, under its title or
below its crash."""

_OF_CRASH = ("failure", "patch", "evidence")

USUAL = ("failure", "evidence", "history", "modules", "totals", "notes")
FRAGMENT = ("failure", "patch", "evidence", "history", "modules", "totals", "notes", "parameters")
"""What a notebook shows."""
