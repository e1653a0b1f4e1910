"""A report: what was found, held as data, shown in any format, and saved.

Making one loads none of that: a first probe in a process takes as long as what it loads.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnprobe.errors import ProbeError, UnknownNameError, suggest
from cnnprobe.records.trace import Trace
from cnnprobe.records.words import format_counted

if TYPE_CHECKING:
    from cnnprobe.diagnosis import Finding, Tried
    from cnnprobe.document.blocks import Document
    from cnnprobe.records.explanation import Explanation
    from cnnprobe.records.history import History

PARTS = ("trace", "findings", "together", "explanation", "graph", "history")
"""What a saved report holds; `cnnprobe.saved` says of which type each is. The report of the data,
where there is one, stands beside them.
"""

# rows; a notebook keeps every output, and at a kilobyte a row, with the parameters, this is 250 kB
_SHOWN_IN_NOTEBOOK = 200
# of the series of a run, and of each curve: with them a page stays below 2 MB
_NUMBERS_IN_PAGE, _POINTS_IN_PAGE = 80_000, 1024


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Report:
    """What cnnprobe found out about a model. Holds no model; `output` and `error` live in memory
    only.
    """

    trace: Trace
    findings: "tuple[Finding, ...]" = ()  # root causes first
    together: "Tried | None" = None  # all proven fixes at once, where there are several
    # where the forward (or the loss, the backward, the step) raised
    explanation: "Explanation | None" = None
    graph: Any = None  # a Graph where one was asked for
    history: "History | None" = None  # the training steps that a monitor has watched
    output: object = field(default=None, compare=False)  # what the model itself returned
    data: Any = None  # the DataReport where loaders were given
    error: BaseException | None = field(
        default=None, compare=False
    )  # the very exception that was raised

    @property
    def ok(self) -> bool:
        """Whether the model ran to its end and no finding is an error."""
        return self.trace.failure is None and not any(
            finding.severity == "error" for finding in self.findings
        )

    @property
    def patch(self) -> str:
        """The proven fixes as one unified diff, each file once, for `patch -p1`; "" where none has
        a known line in your files. Fixes that only tidy up, as `bias=False` before a BatchNorm,
        are left out. A crash: its best repair.
        """
        if self.explanation is not None:
            repairs = (each for each in self.explanation.repairs if each.plausible)
            return next((each.patch for each in repairs if each.patch), "")
        if self.together is not None and self.together.patch:
            return self.together.patch
        from cnnprobe.diagnosis import Verdict

        tried = [f.tried for f in self.findings if f.tried is not None]
        return "".join(
            dict.fromkeys(
                each.patch for each in tried if each.verdict is Verdict.PROVEN and not each.tidies
            )
        )

    def to(
        self,
        format: str,  # noqa: A002
        *,
        width: int | None = None,
        depth: int | None = None,
        colour: bool = False,
    ) -> str:
        """The report as "text", "markdown", "html" (a whole page), "fragment" (of HTML, for
        notebooks) or "json" (which `load` reads back, always whole).

        Args:
            format: a name of `cnnprobe.document.render.formats()`.
            width: columns of the terminal, for text; None asks the terminal.
            depth: deepest level of modules that is shown: 1 is `named_children`, None all.
            colour: whether text has the escape codes of a terminal's colours.

        Raises:
            UnknownNameError: there is no such format.
        """
        if format == "json":
            from cnnprobe.records import schema

            parts = {name: schema.to_plain(getattr(self, name)) for name in PARTS}
            of_data = {"data": self.data.to_plain()} if self.data is not None else {}
            return schema.to_text(Report.__name__, parts | of_data)
        if format == "html":
            return self._render_page(depth)
        from cnnprobe.document.render import render

        sections = "fragment" if format == "fragment" else None
        document = _lay_out(self, depth, sections, drawn=sections is not None)
        return render(document, format, width=width, colour=colour)

    def _render_page(self, depth: int | None) -> str:
        """The page, which carries the report as JSON: for programs, and for what it tells of a row
        that is marked. Of a long run it carries as much as fits into a page.
        """
        from cnnprobe.document.render.page import render_page  # jinja2 is for those who want a page

        carried = replace(self, history=_shorten(self.history))
        document = _lay_out(self, depth, "page", folded=False, drawn=True)
        if self.data is not None:
            of_data = self.data.lay_out(within=True).blocks
            document = replace(document, blocks=(*document.blocks, *of_data))
        return render_page(document, data=carried.to("json"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report in the format that the suffix of `path` names; the file is there as a
        whole or not at all.

        Raises:
            UnknownNameError: no format has this suffix.
            ProbeError: the file cannot be written.
        """
        save_as(path, self.to)

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def __repr__(self) -> str:
        from cnnprobe.records.totals import add_up

        failure = self.trace.failure
        state = (
            "ok"
            if self.ok
            else f"raised {failure.kind}"
            if failure
            else format_counted(len(self.findings), "finding")
        )
        return (
            f"<Report of {self.trace.model}: {format_counted(len(self.trace.calls), 'call')}, "
            f"{format_counted(add_up(self.trace).parameters, 'parameter')}, {state}>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        """The forms in which a notebook shows the report, folded to a size that a notebook
        bears.
        """
        from cnnprobe.document.render import render

        document = _lay_out(self, None, "fragment", most_rows=_SHOWN_IN_NOTEBOOK, drawn=True)
        text = render(_lay_out(self, None, None, most_rows=_SHOWN_IN_NOTEBOOK), "text")
        return {"text/plain": text.rstrip("\n"), "text/html": render(document, "fragment")}


def _shorten(history: "History | None") -> "History | None":
    if history is None:
        return None
    from cnnprobe.records.thinning import thin_history  # numpy is for those who have a history

    return thin_history(history, numbers=_NUMBERS_IN_PAGE, points=_POINTS_IN_PAGE)


def _lay_out(report: Report, depth: int | None, form: str | None, **view: Any) -> "Document":
    """In the sections that a page, a fragment of HTML or (None) any other form has."""
    from cnnprobe.document.layout import FRAGMENT, SECTIONS, View, lay_out_trace

    sections = {"page": SECTIONS, "fragment": FRAGMENT, None: None}[form]
    parts = {name: getattr(report, name) for name in PARTS if name != "trace"}
    return lay_out_trace(report.trace, View(depth=depth, sections=sections, **parts, **view))


def save_as(
    path: str | os.PathLike[str], write: Callable[[str], str], *, others: Sequence[str] = ()
) -> None:
    """Writes a file in the format that its suffix names.

    Args:
        path: of the file.
        write: gives the text in a format of `map_suffixes()`.
        others: further suffixes to suggest, which the caller has taken already.

    Raises:
        UnknownNameError: no format has this suffix.
        ProbeError: the file cannot be written.
    """
    from cnnprobe.document.render import map_suffixes

    target, known = Path(path), map_suffixes()
    if target.suffix.lower() not in known:
        fix = suggest(target.suffix, (*known, *others))
        what = f"no format has the suffix {target.suffix!r}"
        raise UnknownNameError(what, where=str(target), fix=fix)
    write_file(target, write(known[target.suffix.lower()]))


def write_file(target: Path, text: str) -> None:
    """Beside the target first, then in its place: whoever reads meanwhile sees the old file or the
    new one.
    """
    data = text.encode("utf-8", errors="backslashreplace")
    try:
        target = target.resolve()
        if (
            target.exists() and not target.is_file()
        ):  # a device or a pipe cannot be replaced, a folder says so itself
            target.write_bytes(data)
            return
        draft = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
        try:
            draft.write_bytes(data)
            draft.replace(target)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink()
    except OSError as error:
        fix = "choose an existing folder that you can write to"
        raise ProbeError(
            f"the report cannot be written: {error.strerror or error}", where=str(target), fix=fix
        ) from error
