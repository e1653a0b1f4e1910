"""A line on stderr that says which fix is being tried, once that takes longer than a second, and
only on a terminal.
"""

import sys
import threading
import time

PATIENCE = 1.0  # seconds
SHOWN_ELSEWHERE = "cnnprobe progress"  # the name of a thread that shows such a line already


class TrialLine:
    """Written over itself; nothing of it is left afterwards."""

    def __init__(self, count: int) -> None:
        self._count, self._number = count, 0
        self._begun = time.monotonic()
        self._is_written = False
        stream = sys.stderr
        is_shown = any(thread.name == SHOWN_ELSEWHERE for thread in threading.enumerate())
        self._stream = stream if stream is not None and stream.isatty() and not is_shown else None

    def show(self, rule: str) -> None:
        """The next finding's fix is tried."""
        self._number += 1
        seconds = time.monotonic() - self._begun
        if self._stream is not None and seconds > PATIENCE:
            text = f"trying the fix of {rule} ({self._number} of {self._count}) ... {seconds:.0f} s"
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._is_written = True

    def clear(self) -> None:
        """Take the line away."""
        if self._stream is not None and self._is_written:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
