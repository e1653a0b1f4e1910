"""One line that says where a training run is, written over itself: in a terminal on stderr, in a
notebook in an output of the cell.
"""

import shutil
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from cnnprobe.document.render.units import format_count, format_percent, format_value

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch

_PAUSE = 0.1  # seconds between two lines
_SHOWN = (
    ("loss", "loss"),
    ("learning rate", "lr"),
    ("gradient norm", "gradient"),
    ("update ratio", "update"),
)


def line(watch: "Watch", step: int, width: int | None = None) -> str:
    """What is wrong, and the latest of each curve; what `width` leaves no room for is left out as a
    whole, the last part first.
    """
    ledger = watch.ledger
    parts = [f"step {format_count(step)}"]
    event = ledger.nonfinite
    if event is not None:
        what = "loss" if event.what == "loss" else f"{event.what} of {event.fqn or 'the model'!r}"
        parts.append(f"NOT FINITE since step {event.step}: {what}")
    for name, short in _SHOWN:
        if name in ledger.curves:
            latest = ledger.curves[name][1][-1]
            parts.append(f"{short} {format_value(latest)}")
    times = ledger.curves.get("seconds", ([], []))[1][-20:]
    if times and sum(times) > 0:
        parts.append(f"{len(times) / sum(times):.3g} steps/s")
    if watch.pace.every > 1:
        cost = watch.pace.cost
        parts.append(
            f"1 in {watch.pace.every} observed"
            + (f" (+{format_percent(cost)})" if cost is not None else "")
        )
    while width is not None and len(", ".join(parts)) > width and len(parts) > 2:
        parts.pop()
    text = ", ".join(parts)
    return text if width is None or len(text) <= width else text[: width - 1] + "…"


class TerminalLine:
    """In a terminal; where stderr is none nothing is written."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._written = float("-inf")
        self._is_on = self._stream.isatty()

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:  # noqa: ARG002
        """Write the line, unless it was just written."""
        if self._is_on and time.monotonic() - self._written >= _PAUSE:
            self._write(watch, step)

    def _write(self, watch: "Watch", step: int) -> None:
        width = max(20, shutil.get_terminal_size().columns - 1)
        self._stream.write("\r" + line(watch, step, width).ljust(width))
        self._stream.flush()
        self._written = time.monotonic()

    def close(self, watch: "Watch") -> None:
        """The last state stays, and the cursor goes below it."""
        if self._is_on and watch.step:
            self._write(watch, watch.step - 1)
            self._stream.write("\n")
            self._stream.flush()


class NotebookLine:
    """In the output of a notebook's cell."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._written = float("-inf")

    def wrote(self, watch: "Watch", step: int, *, observed: bool) -> None:  # noqa: ARG002
        """Show the line, unless it was just shown."""
        if time.monotonic() - self._written >= 5 * _PAUSE:
            self._show(line(watch, step))

    def _show(self, text: str) -> None:
        from IPython.display import display

        data = {"text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)
        self._written = time.monotonic()

    def close(self, watch: "Watch") -> None:
        """The last state stays."""
        if watch.step:
            self._show(line(watch, watch.step - 1))


def progress() -> TerminalLine | NotebookLine:
    """The line that goes with where this runs."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return NotebookLine() if getattr(shell, "kernel", None) is not None else TerminalLine()
