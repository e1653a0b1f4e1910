"""A line on stderr that says what is being waited for, once that takes longer than a second, and
only on a terminal.
"""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

from cnnprobe.cli.program import make_printable

PATIENCE = 1.0  # seconds


@contextlib.contextmanager
def show_progress(doing: str) -> Iterator[Callable[[str], None]]:
    """Show `doing` and the seconds it takes while the block runs; nothing where stderr is no
    terminal. The block gets a function by which it says something newer.
    """
    said = deque([doing], maxlen=1)
    stream = sys.stderr
    if stream is None or not stream.isatty():
        yield said.append
        return
    done = threading.Event()

    def show() -> None:
        began = time.monotonic()
        wait = PATIENCE
        while not done.wait(wait):
            seconds = f"{time.monotonic() - began:.0f} s"
            stream.write(f"\r\x1b[K{make_printable(said[-1])} ... {seconds}")
            stream.flush()
            wait = PATIENCE / 2

    thread = threading.Thread(target=show, name="cnnprobe progress", daemon=True)
    thread.start()
    try:
        yield said.append
    finally:
        done.set()
        thread.join()
        stream.write("\r\x1b[K")
        stream.flush()
