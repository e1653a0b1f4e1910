"""Graphviz, where there is one: the `dot` command, or the pygraphviz package; always in a child process and under a time limit.

dot needs more than a minute for dense graphs (densenet121) and may end with a signal; neither reaches the caller.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LIMIT = 10.0  # seconds
_CHILD = "import sys, pygraphviz; pygraphviz.AGraph(string=sys.stdin.read()).draw(sys.argv[1], format=sys.argv[2], prog='dot')"


def draw(dot: str, format: str, *, limit: float = LIMIT) -> bytes | None:  # noqa: A002 - Graphviz's own word
    """The picture that Graphviz makes of a DOT text as "svg", "png" or "pdf"; None if no engine is there, or none was in time.

    Args:
        dot: the graph.
        format: one of Graphviz's.
        limit: seconds that an engine may take.
    """
    if shutil.which("dot"):
        return _run([str(shutil.which("dot")), f"-T{format}"], dot, limit)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "graph"
        done = _run([sys.executable, "-c", _CHILD, str(target), format], dot, limit)
        return target.read_bytes() if done is not None and target.exists() else None


def _run(command: list[str], text: str, limit: float) -> bytes | None:
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=limit, check=False, env=environment)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout if done.returncode == 0 else None
