"""Shapes as formulas, and memory as one, as a user holds them: in any format, and as numbers at any
size. Keep no model alive.
"""

import os
from collections.abc import Mapping

from cnnprobe.document.layout.memory import lay_out_memory, write_verdict
from cnnprobe.document.layout.sizes import lay_out_sizes, write_shape
from cnnprobe.document.render import Document, render
from cnnprobe.errors import ProbeError, UnknownNameError, suggest
from cnnprobe.records import schema
from cnnprobe.records.memory import TRAINING, MemoryNeed, MemoryWay, compute_peak
from cnnprobe.records.sizes import SizedCall, SizedShapes, Symbol, evaluate_dim
from cnnprobe.report import save_as

__all__ = ["Memory", "Shapes"]


class Shown:
    """What is laid out as a document: in any format, saved, and shown in a notebook."""

    def to(self, format: str, *, width: int | None = None, colour: bool = False) -> str:  # noqa: A002
        """The result as "text", "markdown", "html" (a whole page), "fragment" (of HTML) or "json".

        Args:
            format: a name of `cnnprobe.document.render.formats()`.
            width: columns of the terminal, for text; None asks the terminal.
            colour: whether text has the escape codes of a terminal's colours.

        Raises:
            UnknownNameError: there is no such format.
        """
        if format == "json":
            return self._write_json()
        return render(self._lay_out(), format, width=width, colour=colour)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the result in the format that the suffix of `path` names.

        Raises:
            UnknownNameError: no format has this suffix.
            ProbeError: the file cannot be written.
        """
        save_as(path, self.to)

    def _write_json(self) -> str:
        raise NotImplementedError

    def _lay_out(self) -> Document:
        raise NotImplementedError

    def __str__(self) -> str:
        return self.to("text").rstrip("\n")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        """The forms in which a notebook shows it."""
        return {"text/plain": str(self), "text/html": self.to("fragment")}


class Shapes(Shown):
    """What `shapes` found: a formula for each output shape, and which input sizes are legal.

    `shapes["layer1"]` is the shape of a module's first output as text, `shapes.at("layer1", N=8,
    H=64, W=64)` as numbers. `data` is all of it as plain data.
    """

    def __init__(self, data: SizedShapes) -> None:
        self.data = data

    @property
    def symbols(self) -> Mapping[str, Symbol]:
        """The sizes that can be chosen, by name, with the values that the forward accepts."""
        return {symbol.name: symbol for symbol in self.data.symbols}

    def __getitem__(self, fqn: str) -> str:
        """The shape of the first output of the module `fqn` ("" is the model), as "(N, 64, H/4,
        W/4)".

        Raises:
            UnknownNameError: no such module was called.
        """
        return write_shape(self._find(fqn).outputs[0])

    def at(self, fqn: str, **sizes: int) -> tuple[int, ...]:
        """The shape of the first output of the module `fqn` at these sizes; sizes that are left out
        are as given.

        Raises:
            UnknownNameError: no such module was called, or no size has this name.
            ProbeError: one of its dims has no formula.
        """
        where = f"Shapes.at({fqn!r})"
        for name in sizes:
            if name not in self.symbols:
                raise UnknownNameError(
                    f"no size named {name!r}", where=where, fix=suggest(name, self.symbols)
                )
        values = {name: symbol.given for name, symbol in self.symbols.items()} | sizes
        found = []
        for dim in self._find(fqn).outputs[0]:
            value = None if dim is None else evaluate_dim(dim, values)
            if value is None:
                raise ProbeError(
                    "no formula fits this shape",
                    where=where,
                    fix=(
                        "call cnnprobe.probe(model, x, shapes_only=True) with an input of these "
                        "sizes"
                    ),
                )
            found.append(value)
        return tuple(found)

    def _find(self, fqn: str) -> SizedCall:
        call = self.data.trace[fqn]
        index = next(i for i, other in enumerate(self.data.trace.calls) if other is call)
        row = next(row for row in self.data.rows if row.call == index)
        if not row.outputs:
            raise ProbeError(
                f"{fqn!r} gives no tensor",
                where=f"shapes of {self.data.trace.model}",
                fix="name a module that does",
            )
        return row

    def _write_json(self) -> str:
        return schema.to_text("Shapes", schema.to_plain(self.data))

    def _lay_out(self) -> Document:
        return lay_out_sizes(self.data)

    def __repr__(self) -> str:
        inputs = ", ".join(write_shape(dims) for _, dims in self.data.inputs)
        return f"<Shapes of {self.data.trace.model}: input {inputs}>"


class Memory(Shown):
    """What `memory` found: the peak as a function of the batch, and the largest batch that fits.

    `data` is all of it as plain data.
    """

    def __init__(self, data: MemoryNeed) -> None:
        self.data = data

    def find_way(self, name: str = TRAINING, *, autocast: str = "") -> MemoryWay:
        """One way to run the model: "training" or "inference", also under "bfloat16" autocast.

        Raises:
            UnknownNameError: it was not measured.
        """
        for way in self.data.ways:
            if (way.name, way.autocast) == (name, autocast):
                return way
        wanted = name + (f" under {autocast} autocast" if autocast else "")
        raise UnknownNameError(
            f"{wanted} was not measured",
            where=f"memory of {self.data.model}",
            fix=suggest(name, {way.name for way in self.data.ways}),
        )

    def at(self, batch: int, name: str = TRAINING, *, autocast: str = "") -> int:
        """Bytes at the peak with a batch, by the line of this way; the line is exact from its
        `first` batch on.
        """
        return compute_peak(self.find_way(name, autocast=autocast), batch)

    def fits(self, name: str = TRAINING, *, autocast: str = "") -> int:
        """The largest batch within the limit that was given; 0 where none is.

        Raises:
            ProbeError: no limit was given.
        """
        found = self.find_way(name, autocast=autocast).fits
        if found is None:
            raise ProbeError(
                "no limit was given",
                where=f"memory of {self.data.model}",
                fix='call cnnprobe.memory(model, x, fits="24GiB")',
            )
        return found

    def _write_json(self) -> str:
        return schema.to_text("Memory", schema.to_plain(self.data))

    def _lay_out(self) -> Document:
        return lay_out_memory(self.data)

    def __repr__(self) -> str:
        said = write_verdict(self.data).replace("\n", "; ") if self.data.limit is not None else ""
        return f"<Memory of {self.data.model}{': ' if said else ''}{said}>"
