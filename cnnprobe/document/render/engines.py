"""Graphviz, where there is one: the `dot` command, or the pygraphviz package; always in a child
process and under a time limit.

dot needs more than a minute for dense graphs (densenet121) and may end with a signal; neither
reaches the caller.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LIMIT = 10.0  # seconds
ENGINES = ("dot", "pygraphviz")  # in the order in which they are asked
_CHILD = """
import sys
try:
    import pygraphviz
except ImportError:
    sys.exit(3)
pygraphviz.AGraph(string=sys.stdin.read()).draw(sys.argv[1], format=sys.argv[2], prog="dot")
"""
_MISSING = 3  # exit status of the child


class Drawn(NamedTuple):
    """What came of asking."""

    picture: bytes | None
    failures: tuple[str, ...] = ()  # of those that were asked first: "dot is not on PATH"


def draw(dot: str, format: str, *, engines: Sequence[str] = ENGINES, limit: float = LIMIT) -> Drawn:  # noqa: A002 - Graphviz's own word
    """The picture that the first engine makes that is there and in time, and why those before it
    made none.

    Args:
        dot: the graph, as DOT.
        format: one of Graphviz's: "svg", "png", "pdf".
        engines: of `ENGINES`, those to be asked.
        limit: seconds that each may take.
    """
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"graph.{format}"
        for engine in engines:
            failure = _ask(engine, dot, target, limit)
            if failure is None:
                return Drawn(target.read_bytes(), tuple(failures))
            failures.append(failure)
    return Drawn(None, tuple(failures))


def _ask(engine: str, dot: str, target: Path, limit: float) -> str | None:
    """Let an engine write the picture; what went wrong, if anything."""
    form = target.suffix[1:]
    if engine == "dot":
        found = shutil.which("dot")
        if found is None:
            return "dot is not on PATH"
        command = [found, f"-T{form}", "-o", str(target)]
    else:
        command = [sys.executable, "-c", _CHILD, str(target), form]
    try:
        status = _run(command, dot, limit)
    except OSError as error:
        return f"{engine} could not be started: {error.strerror}"
    if status is None:
        return f"{engine} took more than {limit:g} s"
    if engine == "pygraphviz" and status == _MISSING:
        return "pygraphviz is not installed"
    if status < 0:
        return f"{engine} was killed by signal {-status}"
    return f"{engine} exited with status {status}" if status or not target.exists() else None


def _run(command: Sequence[str], text: str, limit: float) -> int | None:
    """Exit status of a child; None if it took too long: it is ended then, with all that it has
    started.
    """
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    nowhere = subprocess.DEVNULL
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=nowhere,
        stderr=nowhere,
        env=environment,
        start_new_session=os.name == "posix",
    ) as child:
        try:
            child.communicate(text.encode(), timeout=limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                _stop(child)
        return child.returncode


def _stop(child: "subprocess.Popen[bytes]") -> None:
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    child.kill()
