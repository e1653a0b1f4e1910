"""Graphviz as `dot` or pygraphviz, in a child process: who is asked, how long, and who takes over.
A folder of fakes is the PATH.
"""

import time

import pytest

from cnnprobe.document.graph_files import save_graph
from cnnprobe.errors import UnknownNameError, UsageError
from cnnprobe.graph import Edge, Graph, Node

GRAPH = Graph(
    nodes=(Node(0, "Linear", "module", "first"), Node(1, "ReLU", "module", "second")),
    edges=(Edge(0, 1),),
)
WRITES = "while [ $# -gt 1 ]; do shift; done; /bin/cat > /dev/null; echo drawn by a fake > $1"


@pytest.fixture
def dot(tmp_path, monkeypatch):
    """Puts a `dot` on a PATH where nothing else is; None leaves it empty."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()

    def put(script):
        program = tmp_path / "bin" / "dot"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    return put


@pytest.fixture
def pygraphviz(tmp_path, monkeypatch):
    """Puts a pygraphviz before the installed one, for child processes."""

    def put(code):
        (tmp_path / "packages").mkdir()
        (tmp_path / "packages" / "pygraphviz.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))

    return put


ABSENT = "raise ImportError"
FAKE = """
class AGraph:
    def __init__(self, string): assert "second" in string
    def draw(self, path, format, prog): open(path, "w").write(f"{format} by {prog} of pygraphviz")
"""


@pytest.mark.parametrize("engine", ["dot", "auto"])
def test_dot_is_asked_where_it_is_there(engine, dot, tmp_path):
    dot(WRITES)
    assert () == save_graph(GRAPH, tmp_path / "graph.svg", engine=engine)
    assert "drawn by a fake\n" == (tmp_path / "graph.svg").read_text()


def test_our_own_layout_asks_nobody(dot, tmp_path):
    dot(WRITES)
    assert () == save_graph(GRAPH, tmp_path / "graph.svg")
    assert GRAPH.to("svg") == (tmp_path / "graph.svg").read_text()


@pytest.mark.parametrize(
    ("script", "failure"),
    [
        ("/bin/sleep 30; echo never", "dot took more than 0.3 s"),
        ("kill -SEGV $$", "dot was killed by signal 11"),
        ("exit 2", "dot exited with status 2"),
        ("exit 0", "dot exited with status 0"),
    ],
)
def test_our_own_layout_takes_over_and_the_reason_is_told(script, failure, dot, tmp_path):
    dot(script)
    start = time.monotonic()
    assert (failure,) == save_graph(
        GRAPH, tmp_path / "graph.svg", engine="dot", limit=0.3 if "sleep" in script else 10
    )
    assert time.monotonic() - start < 10  # what dot has started is ended with it
    assert GRAPH.to("svg") == (tmp_path / "graph.svg").read_text()


def test_auto_asks_pygraphviz_where_there_is_no_dot(dot, pygraphviz, tmp_path):
    pygraphviz(FAKE)
    assert ("dot is not on PATH",) == save_graph(GRAPH, tmp_path / "graph.svg", engine="auto")
    assert "svg by dot of pygraphviz" == (tmp_path / "graph.svg").read_text()


def test_auto_falls_back_to_our_own_layout_where_there_is_no_engine(dot, pygraphviz, tmp_path):
    pygraphviz(ABSENT)
    assert ("dot is not on PATH", "pygraphviz is not installed") == save_graph(
        GRAPH, tmp_path / "graph.svg", engine="auto"
    )
    assert GRAPH.to("svg") == (tmp_path / "graph.svg").read_text()


def test_png_without_an_engine_says_what_to_do(dot, pygraphviz, tmp_path):
    pygraphviz(ABSENT)
    with pytest.raises(UsageError) as raised:
        GRAPH.save(tmp_path / "graph.png")
    assert (
        "no engine made a png: dot is not on PATH; pygraphviz is not installed" == raised.value.what
    )
    assert (
        "install Graphviz or `pip install pygraphviz`, or write .svg, which needs neither"
        == raised.value.fix
    )


def test_png_is_drawn_by_the_pygraphviz_that_is_installed(dot, tmp_path):
    pytest.importorskip("pygraphviz")
    assert () == save_graph(GRAPH, tmp_path / "graph.png", engine="pygraphviz")
    assert b"\x89PNG" == (tmp_path / "graph.png").read_bytes()[:4]


def test_an_unknown_engine_names_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="no engine named 'dott'") as raised:
        save_graph(GRAPH, tmp_path / "graph.svg", engine="dott")
    assert "dot" in raised.value.fix
