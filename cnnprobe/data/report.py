"""The report of the data: held as plain data, shown in any format, saved and loaded. It keeps no
loader alive.
"""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.layout import lay_out_data
from cnnprobe.data.sheets import Sheet
from cnnprobe.diagnosis import Finding
from cnnprobe.document.render import map_suffixes, render
from cnnprobe.errors import ProbeError, UnknownNameError, suggest
from cnnprobe.records import reading, schema
from cnnprobe.report import write_file

_PARTS: dict[str, Any] = {
    "data": Data,
    "findings": tuple[Finding, ...],
    "notes": tuple[str, ...],
    "sheets": tuple[Sheet, ...],
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DataReport:
    """What was found out about the data that a loader gives."""

    data: Data
    findings: tuple[Finding, ...] = ()  # root causes first
    notes: tuple[str, ...] = ()
    sheets: tuple[Sheet, ...] = ()  # pictures

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.severity == "error" for finding in self.findings)

    def to(self, format: str, *, width: int | None = None, colour: bool = False) -> str:  # noqa: A002
        """The report as "text", "markdown", "html" (a whole page), "fragment" (of HTML) or "json".

        Args:
            format: a name of `cnnprobe.document.render.formats()`.
            width: columns of the terminal, for text; None asks the terminal.
            colour: whether text has the escape codes of a terminal's colours.

        Raises:
            UnknownNameError: there is no such format.
        """
        if format == "json":
            return schema.to_text(
                DataReport.__name__, {name: schema.to_plain(getattr(self, name)) for name in _PARTS}
            )
        sheets = self.sheets if format in ("html", "fragment") else ()
        document = lay_out_data(self.data, self.findings, notes=self.notes, sheets=sheets)
        return render(document, format, width=width, colour=colour)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report in the format that the suffix of `path` names; ".png" writes the
        contact sheet of the training images.

        Raises:
            UnknownNameError: no format has this suffix.
            ProbeError: the file cannot be written, or there is no picture.
        """
        target = Path(path)
        known = map_suffixes()
        if target.suffix.lower() == ".png":
            self._save_sheet(target)
            return
        if target.suffix.lower() not in known:
            what = f"no format has the suffix {target.suffix!r}"
            fix = suggest(target.suffix, (*known, ".png"))
            raise UnknownNameError(what, where=str(target), fix=fix)
        write_file(target, self.to(known[target.suffix.lower()]))

    def _save_sheet(self, target: Path) -> None:
        sheet = self._contact_sheet()
        if sheet is None:
            raise ProbeError(
                "no picture was drawn of this data",
                where=str(target),
                fix="give images, and let pictures=True (it needs torchvision and Pillow)",
            )
        try:
            target.write_bytes(_to_png(sheet))
        except OSError as error:
            fix = "choose a folder that exists and that you may write to"
            what = f"the picture cannot be written: {error.strerror or error}"
            raise ProbeError(what, where=str(target), fix=fix) from error

    def _contact_sheet(self) -> Sheet | None:
        return next((sheet for sheet in self.sheets if sheet.name == "training-images"), None)

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def __repr__(self) -> str:
        read = ", ".join(f"{split.samples:,} {split.name} samples" for split in self.data.splits)
        return f"<DataReport of {read}: {len(self.findings)} findings>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        """The forms in which a notebook shows the report."""
        return {"text/plain": str(self), "text/html": self.to("fragment")}


def _to_png(sheet: Sheet) -> bytes:
    data = base64.b64decode(sheet.data)
    if sheet.mime == "image/png":
        return data
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG")
    return buffer.getvalue()


def load_data_report(path: str | os.PathLike[str]) -> DataReport:
    """The report that `DataReport.save` has written to a `.json` file.

    Raises:
        ProbeError: the file is not there, is damaged, or is no report of data.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(
            f"the report cannot be read: {error}", where=str(path), fix="check the path"
        ) from error
    found = schema.parse(text, expected=DataReport.__name__, where=str(path))
    parts = {name: reading.read_plain(kind, found[name]) for name, kind in _PARTS.items()}
    return DataReport(**parts)
