"""The calls that a model makes on other threads than that of the recording: watched apart, and put
into one trace at the end.

Each thread writes rows of its own, so that none waits for another. Their positions begin at a
number of their own, high above those of the recording's thread, and turn into places behind its
rows when the root call is over.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from torch import nn

from cnnprobe.recorder.rows import Closed, More
from cnnprobe.recorder.values import SOURCE, Sighting
from cnnprobe.recorder.watching import Watcher

_APART = 2**32  # between the positions of two threads
Place = Callable[[Any], Any]


class Threads:
    """All other threads on which the modules of one recording are called."""

    def __init__(self, main: Watcher) -> None:
        self.main = main
        self.is_open = False  # between start and stop of the recording
        self.lock = threading.Lock()
        self._strands: dict[int, _Strand] = {}

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module is about to be called on the current thread."""
        if self.is_open:
            self._strand().enter(module, args, kwargs)

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """It has returned, or has raised."""
        strand = self._strands.get(threading.get_ident())
        if strand is not None and strand.current is not None:
            strand.leave(module, args, output)

    def take(self, rows: Sequence[Closed]) -> list[Closed]:
        """The rows of a root call, with those of all threads that are at rest behind them."""
        with self.lock:
            strands = [
                s for s in self._strands.values() if s.current is None and list.__len__(s.rows)
            ]
            merged = _merge(rows, strands) if strands else list(rows)
            for strand in strands:
                strand.begin_anew()
        return merged

    def find_anchor(self) -> int | None:
        """The row that goes on in the recording's thread, or else at the top of another: what a
        thread calls is called below it.
        """
        for watcher in (self.main, *self._strands.values()):
            if watcher.current is not None:
                return watcher.current.position
        return None

    def _strand(self) -> "_Strand":
        thread = threading.current_thread()
        strand = self._strands.get(threading.get_ident())
        if strand is None or strand.owner is not thread:
            with self.lock:
                strand = _Strand(self, thread, len(self._strands))
                while strand.number in {s.number for s in self._strands.values()}:
                    strand.number += 1
                strand.begin_anew()
                self._strands[threading.get_ident()] = strand
        return strand


class _Strand(Watcher):
    """What one other thread calls."""

    rows: "_FarRows"

    def __init__(self, threads: Threads, owner: threading.Thread, number: int) -> None:
        main = threads.main
        super().__init__(
            main.model, main.tree, summarise=None, guard=main.guard, on_root=main.on_root
        )
        self.threads, self.owner, self.number = threads, owner, number
        self.hooks, self.sightings = main.hooks, main.sightings
        self.watched, self.notes = main.watched, main.notes
        self.others = threads

    def begin_anew(self) -> None:
        """Have no rows."""
        self.rows = _FarRows((self.number + 1) * _APART)
        self.anchors: dict[int, int | None] = {}  # of the topmost rows, by position

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """As on the recording's thread; the topmost call takes the function mode to this thread."""
        if self.current is None:
            self.anchors[len(self.rows)] = self.threads.find_anchor()
            if not self.hooks.stays_compiled:
                self.__enter__()  # type: ignore[no-untyped-call]
        super().enter(module, args, kwargs)
        if self.anchors.get(self.rows.base) is None:
            self.threads.main.given = self.given

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: object = None) -> None:
        """As on the recording's thread."""
        super().leave(module, args, output)
        if self.current is None and not self.hooks.stays_compiled:
            self.__exit__(None, None, None)

    def finish_root(self) -> None:
        """The topmost call is over: its rows wait for those of the call that they were made in, if
        there is one.
        """
        self.close_open_rows()
        self.current = None
        if self.threads.find_anchor() is None:
            self.on_root(self, [])
            self.error = None


class _FarRows(list[Any]):
    """Rows that count their positions from a base on."""

    def __init__(self, base: int) -> None:
        super().__init__()
        self.base = base

    def __len__(self) -> int:
        return self.base + super().__len__()

    def __setitem__(self, position: Any, row: Any) -> None:
        super().__setitem__(position - self.base, row)


def _merge(rows: Sequence[Closed], strands: Sequence[_Strand]) -> list[Closed]:
    """All rows in one list, with positions and sources as places in it."""
    shifts: dict[int, int] = {}
    end = len(rows)
    for strand in strands:
        shifts[strand.number + 1] = end - strand.rows.base
        end += list.__len__(strand.rows)

    def place(position: Any) -> Any:
        if not isinstance(position, int) or position < _APART:
            return position
        shift = shifts.get(position // _APART)
        return None if shift is None else position + shift

    merged = [_moved(row, place, "") for row in rows]
    for strand in strands:
        merged.extend(_placed(strand, place))
    return merged


def _placed(strand: _Strand, place: Place) -> Iterator[Closed]:
    for position, row in enumerate(strand.rows, strand.rows.base):
        moved = _moved(row, place, strand.owner.name)
        if row[1] is None:
            moved = (moved[0], place(strand.anchors.get(position)), *moved[2:])
        yield moved


def _moved(row: Closed, place: Place, thread: str) -> Closed:
    of, parent, given, made, source, seconds, first, last, more = row
    if thread or more is not None:
        more = more or More()
        more.inputs = tuple(_sighting_moved(each, place) for each in more.inputs)
        more.outputs = tuple(_sighting_moved(each, place) for each in more.outputs)
        more.thread = thread
    given = None if given is None else _sighting_moved(given, place)
    made = None if made is None else _sighting_moved(made, place)
    return of, place(parent), given, made, source, seconds, first, last, more


def _sighting_moved(sighting: Sighting, place: Place) -> Sighting:
    source = sighting[SOURCE]
    if not isinstance(source, int) or source < _APART:
        return sighting
    return (*sighting[:SOURCE], place(source), *sighting[SOURCE + 1 :])


def describe_threads(rows: Iterable[Closed]) -> Iterator[str]:
    """In a sentence what ran on other threads."""
    names = [row[-1].thread for row in rows if row[-1] is not None and row[-1].thread]
    if names:
        shown = ", ".join(dict.fromkeys(names))
        yield (
            f"{len(names)} calls ran on other threads ({shown}): each names its thread, and "
            "stands behind those of the main one"
        )
