"""Measurements as their user holds them: plain data, shown in any format, saved and loaded."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnnprobe.document.layout.measured import lay_out_measured
from cnnprobe.document.render import render
from cnnprobe.errors import ProbeError, UnknownNameError, suggest
from cnnprobe.records import reading, schema
from cnnprobe.records.measured import Measured
from cnnprobe.report import save_as

_PARTS: dict[str, Any] = {
    "model": str,
    "data": str,
    "samples": int,
    "tensors": tuple[Measured, ...],
    "notes": tuple[str, ...],
}


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Measurements:
    """What every layer put out over a data set, in the order in which the layers were called."""

    model: str  # class name
    data: str  # what was measured over, in words
    samples: int
    tensors: tuple[Measured, ...] = ()
    notes: tuple[str, ...] = ()

    def of(
        self, fqn: str, what: Literal["activation", "input"] = "activation", call: int = 0
    ) -> Measured:
        """What a module put out; of "" with "input" what went into the model.

        Raises:
            UnknownNameError: there is no such tensor.
        """
        for measured in self.tensors:
            if (measured.fqn, measured.what, measured.call) == (fqn, what, call):
                return measured
        known = (measured.fqn for measured in self.tensors if measured.what == what)
        raise UnknownNameError(
            f"no {what} of {fqn!r}, call {call}",
            where=f"measurements of {self.model}",
            fix=suggest(fqn, known),
        )

    def to(self, format: str, *, width: int | None = None, colour: bool = False) -> str:  # noqa: A002
        """The measurements as "text", "markdown", "html" (a whole page), "fragment" or "json".

        Args:
            format: a name of `cnnprobe.document.render.formats()`.
            width: columns of the terminal, for text; None asks the terminal.
            colour: whether text has the escape codes of a terminal's colours.

        Raises:
            UnknownNameError: there is no such format.
        """
        if format == "json":
            return schema.to_text(
                Measurements.__name__,
                {name: schema.to_plain(getattr(self, name)) for name in _PARTS},
            )
        document = lay_out_measured(
            self.tensors,
            model=self.model,
            data=self.data,
            samples=self.samples,
            notes=self.notes,
        )
        return render(document, format, width=width, colour=colour)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the measurements in the format that the suffix of `path` names.

        Raises:
            UnknownNameError: no format has this suffix.
            ProbeError: the file cannot be written.
        """
        save_as(path, self.to)

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def __repr__(self) -> str:
        return (
            f"<Measurements of {self.model}: {len(self.tensors)} tensors, {self.samples:,} samples>"
        )

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        """The forms in which a notebook shows them."""
        return {"text/plain": str(self), "text/html": self.to("fragment")}


def load_measurements(path: str | os.PathLike[str]) -> Measurements:
    """What `Measurements.save` has written to a `.json` file.

    Raises:
        ProbeError: the file is not there, is damaged, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProbeError(
            f"the measurements cannot be read: {error}", where=str(path), fix="check the path"
        ) from error
    found = schema.parse(text, expected=Measurements.__name__, where=str(path))
    parts = {name: reading.read_plain(kind, found[name]) for name, kind in _PARTS.items()}
    return Measurements(**parts)
