"""A line on stderr that says what is being waited for, once that takes longer than a second, and
only on a terminal.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from cnnprobe.cli.program import make_printable

PATIENCE = 1.0  # seconds


@contextlib.contextmanager
def show_progress(doing: str) -> Iterator[None]:
    """Show `doing` and the seconds it takes while the block runs; nothing where stderr is no
    terminal.
    """
    stream = sys.stderr
    if stream is None or not stream.isatty():
        yield
        return
    done = threading.Event()

    def show() -> None:
        began = time.monotonic()
        wait = PATIENCE
        while not done.wait(wait):
            stream.write(f"\r\x1b[K{make_printable(doing)} ... {time.monotonic() - began:.0f} s")
            stream.flush()
            wait = PATIENCE / 2

    thread = threading.Thread(target=show, name="cnnprobe progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        stream.write("\r\x1b[K")
        stream.flush()
