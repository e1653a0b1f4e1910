"""Which tensors a recording has seen: what each was as it passed, which row has made it, and how it
is measured.
"""

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.recorder.module_tree import ModuleTree
from cnnprobe.recorder.rows import CallRow, ModuleRow, more_of
from cnnprobe.recorder.values import (
    FORM,
    FOUND,
    MOST_LEAVES,
    PATH,
    SHAPE,
    SOURCE,
    Form,
    Sighting,
    argument_leaves,
    leaves,
    plain,
    read_form,
    sight,
)
from cnnprobe.stats import PageReading, Pages, Statistics

Found = PageReading | Statistics | dict[str, float | int] | None
Summary = Callable[[Tensor], Found]


def _with_form(summarise: Summary | Pages | None) -> Callable[[Tensor, Form | None], Found] | None:
    if summarise is None:
        return None
    if isinstance(summarise, Pages):
        return summarise.measure
    return lambda tensor, _: summarise(tensor)


class Sightings:
    """The tensors of the root call that goes on."""

    def __init__(self, tree: ModuleTree, summarise: Summary | Pages | None) -> None:
        self.tree = tree
        self._summarise = _with_form(summarise)
        self.made: dict[int, Sighting] = {}  # by the id of the tensor, if that is `alive` still
        self.alive: dict[int, weakref.ref[Tensor]] = {}
        self.names: dict[int, str] = {}  # of parameters and buffers, by their ids
        self.last_write = -1  # the latest row of a function that wrote to what was there
        # rows whose values were taken out of torch, each with the number; NaN: no single one
        self.reads: list[tuple[int, float]] = []
        self.notes: dict[str, None] = {}
        self._knows_names = False

    def forget(self) -> None:
        """The root call is over."""
        self.made.clear()
        self.alive.clear()
        self.reads.clear()
        self.last_write = -1

    def find(self, tensor: Tensor) -> Sighting | None:
        """What a row has put out as this very tensor; another one may have its id by now."""
        found = self.made.get(id(tensor))
        return found if found is not None and self.alive[id(tensor)]() is tensor else None

    def maker_of(self, tensor: Tensor) -> int | None:
        """The row of the running root call that has put out this tensor."""
        found = self.find(tensor)
        return found[SOURCE] if found is not None and isinstance(found[SOURCE], int) else None

    def note_read(self, args: tuple[Any, ...], value: object = None) -> None:
        """The values of a tensor were taken out of torch, as `value` if that is a number."""
        maker = self.maker_of(args[0]) if args and isinstance(args[0], Tensor) else None
        if maker is not None:
            number = float(value) if isinstance(value, int | float) else math.nan
            self.reads.append((maker, number))

    def list_alive(self) -> frozenset[int]:
        """The rows of which somebody still holds a result."""
        return frozenset(
            made[SOURCE]  # type: ignore[misc]
            for identity, made in self.made.items()
            if self.alive[identity]() is not None
        )

    def read_inputs(self, row: CallRow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Write down what a call is given."""
        found: list[Sighting] = []
        arguments: dict[str, object] = {}
        for path, value in argument_leaves(args, kwargs):
            if isinstance(value, Tensor):
                found.append(self.see_given(value, path, row))
            else:
                arguments[path] = plain(value)
                if isinstance(value, slice):
                    found += self._see_bounds(value, path, row)
        if len(found) == 1:
            row.given = found[0]
        elif found:
            more_of(row).inputs = tuple(found)
        if arguments:
            more_of(row).arguments = arguments

    def _see_bounds(self, given: slice, path: str, row: CallRow) -> list[Sighting]:
        """The tensors that are the bounds of a slice."""
        bounds = {"start": given.start, "stop": given.stop, "step": given.step}
        return [
            self.see_given(bound, f"{path}.{name}", row)
            for name, bound in bounds.items()
            if isinstance(bound, Tensor)
        ]

    def see_given(self, tensor: Tensor, path: str, row: CallRow) -> Sighting:
        """A tensor that a call is given, with what is known of it from the row that made it."""
        known = self.made.get(id(tensor))
        if known is None or self.alive[id(tensor)]() is not tensor:
            return sight(tensor, path, self._name_of(tensor, row))
        try:
            if known[PATH] == path and known[FORM][SHAPE] == tensor.shape:
                return known
        except (RuntimeError, ValueError):  # nested, or a parameter that has no shape yet
            pass
        return sight(tensor, path, known[SOURCE], known[FOUND])

    def _name_of(self, tensor: Tensor, row: CallRow) -> str | None:
        """The name of a parameter or buffer. They are looked at when a function is first given what
        no row has made.
        """
        if not self._knows_names and (row.parent is not None or isinstance(tensor, nn.Parameter)):
            self._knows_names = True
            self.names = {**self.names, **self.tree.names_of_tensors()}
        return self.names.get(id(tensor))

    def read_outputs(self, row: CallRow, output: object) -> None:
        """Write down what a call has put out."""
        if type(output) is not Tensor:
            more_of(row).returned = type(output).__name__
        if isinstance(output, Tensor):
            row.made = self._see_made(output, "", row)
            return
        found = [
            self._see_made(value, path, row)
            for path, value in leaves(output)
            if isinstance(value, Tensor)
        ]
        if found:
            more_of(row).outputs = tuple(found)
        if len(found) >= MOST_LEAVES:
            self.notes[
                (
                    f"an output of more than {MOST_LEAVES:,} tensors was recorded with the first "
                    f"{MOST_LEAVES:,}"
                )
            ] = None

    def _see_made(self, tensor: Tensor, path: str, row: CallRow) -> Sighting:
        known = self.find(tensor) if isinstance(row, ModuleRow) else None
        if known is not None and known[SOURCE] < self.last_write and tensor._is_view():  # type: ignore[operator]
            # its base may have been written to since: what stands there is read again
            found = self._summarise(tensor, None) if self._summarise is not None else None
            return sight(tensor, path, known[SOURCE], found)
        if known is not None:
            is_below = known[SOURCE] > row.position  # type: ignore[operator]
            if is_below and known[PATH] == path:
                return known  # a container hands on what a row below it has made
            if is_below or not row.kind.is_leaf:  # type: ignore[attr-defined]
                return sight(tensor, path, known[SOURCE], known[FOUND])
        return self.note(tensor, path, row.position)

    def note(self, tensor: Tensor, path: str, position: int) -> Sighting:
        """Remember a tensor as what the row at `position` has made."""
        summarise, identity, form = self._summarise, id(tensor), read_form(tensor)
        found = summarise(tensor, form) if summarise is not None else None
        made = self.made[identity] = form, path, position, found
        self.alive[identity] = weakref.ref(tensor)
        return made


class UnseenSightings(Sightings):
    """The same where other function modes are on: they are not asked about every question of ours
    to a tensor. It measures nothing.
    """

    def read_inputs(self, row: CallRow, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Write down what a call is given."""
        with torch._C.DisableTorchFunction():
            super().read_inputs(row, args, kwargs)

    def see_given(self, tensor: Tensor, path: str, row: CallRow) -> Sighting:
        """A tensor that a call is given."""
        with torch._C.DisableTorchFunction():
            return super().see_given(tensor, path, row)

    def read_outputs(self, row: CallRow, output: object) -> None:
        """Write down what a call has put out."""
        with torch._C.DisableTorchFunction():
            super().read_outputs(row, output)

    def note(self, tensor: Tensor, path: str, position: int) -> Sighting:
        """Remember a tensor as what the row at `position` has made."""
        with torch._C.DisableTorchFunction():
            return super().note(tensor, path, position)
