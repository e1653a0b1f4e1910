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
from cnnprobe.data.sheets import ContactSheet
from cnnprobe.diagnosis import Finding
from cnnprobe.document.render import Document, render
from cnnprobe.errors import ProbeError
from cnnprobe.records import schema
from cnnprobe.report import save_as


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class DataReport:
    """What was found out about the data that a loader gives."""

    data: Data
    findings: tuple[Finding, ...] = ()  # root causes first
    notes: tuple[str, ...] = ()
    sheets: tuple[ContactSheet, ...] = ()  # pictures

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
            return schema.to_text(DataReport.__name__, self.to_plain())
        if format == "html":
            from cnnprobe.document.render.page import render_page  # jinja2: for those with a page

            return render_page(self.lay_out(), data=self.to("json"))
        document = self.lay_out(drawn=format == "fragment")
        return render(document, format, width=width, colour=colour)

    def to_plain(self) -> dict[str, Any]:
        """The report as plain data, which `cnnprobe.load` reads back."""
        plain: dict[str, Any] = schema.to_plain(self)
        return plain

    def lay_out(self, *, drawn: bool = True, within: bool = False) -> Document:
        """The report as a document.

        Args:
            drawn: with its pictures.
            within: as a part of the report of a model, which has the findings and the notes.
        """
        return lay_out_data(
            self.data,
            None if within else self.findings,
            notes=() if within else self.notes,
            sheets=self.sheets if drawn else (),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report in the format that the suffix of `path` names; ".png" writes the
        contact sheet of the training images.

        Raises:
            UnknownNameError: no format has this suffix.
            ProbeError: the file cannot be written, or there is no picture.
        """
        if Path(path).suffix.lower() == ".png":
            self._save_sheet(Path(path))
        else:
            save_as(path, self.to, others=(".png",))

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

    def _contact_sheet(self) -> ContactSheet | None:
        return next((sheet for sheet in self.sheets if sheet.name == "training-images"), None)

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def __repr__(self) -> str:
        read = ", ".join(f"{split.samples:,} {split.name} samples" for split in self.data.splits)
        return f"<DataReport of {read}: {len(self.findings)} findings>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        """The forms in which a notebook shows the report."""
        return {"text/plain": str(self), "text/html": self.to("fragment")}


def _to_png(sheet: ContactSheet) -> bytes:
    data = base64.b64decode(sheet.data)
    if sheet.mime == "image/png":
        return data
    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "PNG")
    return buffer.getvalue()
