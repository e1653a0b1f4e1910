"""A display in a notebook that is drawn again in its place while a training runs. Elsewhere it
shows nothing and costs nothing.
"""

import sys
import time
from types import TracebackType
from typing import Any, Protocol, Self

from cnnprobe.document.layout.histories import lay_out_history
from cnnprobe.document.render import render
from cnnprobe.records.history import History


class Watched(Protocol):
    """What has a history that grows: a monitor, or a report."""

    @property
    def history(self) -> History | None:
        """What was seen so far."""
        ...


class Live:
    """The curves of a training run so far, in one output of the cell that is replaced at each
    `update`. A context manager.
    """

    def __init__(self, source: Watched, *, seconds: float = 1.0) -> None:
        self._source = source
        self._seconds = seconds
        self._handle: Any = None
        self._drawn = float("-inf")

    def update(self) -> None:
        """Draws again, unless it did so less than `seconds` ago."""
        if time.monotonic() - self._drawn >= self._seconds and _kernel() is not None:
            self._draw()

    def __enter__(self) -> Self:
        self.update()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if _kernel() is not None:  # the last steps are shown too, also those before an exception
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(self)
        # after drawing: a slow display is updated less often, and never holds up the training
        self._drawn = time.monotonic()

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        history = self._source.history
        if history is None:
            return {"text/plain": "nothing was watched so far"}
        texts = {"text/plain": render(lay_out_history(history), "text").rstrip("\n")}
        return texts | {"text/html": render(lay_out_history(history, drawn=True), "fragment")}


def live(source: Watched, *, seconds: float = 1.0) -> Live:
    """A display of the curves of a training run that is drawn again in its place while the run goes
    on.

    Call `update()` in the loop as often as you like. In a terminal, or in a script, nothing is
    shown.

    Args:
        source: what has a `history`: a monitor, or a report.
        seconds: at least so long after one drawing the next is made.

    >>> from cnnprobe.records.history import Curve, History
    >>> from types import SimpleNamespace
    >>> watched = SimpleNamespace(history=History(model="Net", total=1, curves=(Curve(name="loss", steps=(0,), values=(2.5,)),)))
    >>> with live(watched) as display:
    ...     display.update()
    """  # noqa: E501
    return Live(source, seconds=seconds)


def _kernel() -> object | None:
    """The kernel of the notebook that this runs in."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None)
