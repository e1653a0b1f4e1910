"""Graph: operations or module calls, as plain data that keeps no tensor alive."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnnprobe.graph.nodes import Call, Edge, Node, Saved

if TYPE_CHECKING:
    from cnnprobe.graph.changes import GraphDifference


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The nodes in the order of the forward pass, and the values between them.

    `view` is "autograd" (one node an operation that autograd recorded) or "modules" (one node a
    module call or function).
    """

    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    calls: tuple[Call, ...] = ()
    outputs: tuple[int, ...] = ()  # ids of the nodes that made the outputs
    saved: tuple[Saved, ...] = ()
    title: str = ""  # class name of the model, "" if none was named
    view: str = "autograd"
    notes: tuple[str, ...] = ()  # what could not be observed, in sentences

    @property
    def saved_bytes(self) -> int:
        """Bytes of activations that are kept for backward, each storage once; parameters and inputs
        not counted.
        """
        return sum(saved.nbytes for saved in self.saved if saved.kind == "activation")

    def collapse(
        self, depth: int | None = None, *, limit: int | None = None, around: str | None = None
    ) -> "Graph":
        """The same graph folded to module calls, `depth` levels of the model deep.

        Args:
            depth: 1 shows the children of the model, 2 theirs; None goes as deep as `limit` allows.
            limit: boxes at most, if `depth` is None; 80 unless told.
            around: fqn of a module to stay with: only it, and what is next to it.

        Raises:
            UnknownNameError: no call of a module `around` was recorded.
        """
        return _load("cnnprobe.graph.folding").collapse(self, depth, limit=limit, around=around)  # type: ignore[no-any-return]

    def diff(self, other: "Graph") -> "GraphDifference":
        """What this graph has that `other` has not, and the other way round, by module call."""
        return _load("cnnprobe.graph.difference").diff_graphs(self, other)  # type: ignore[no-any-return]

    def to(self, format: str) -> str:  # noqa: A002 - the word users type
        """The graph as "dot", "svg", "mermaid", "markdown", "text", "json" or "html".

        Raises:
            UnknownNameError: there is no such format.
        """
        return _load("cnnprobe.document.graph_files").render_graph(self, format)  # type: ignore[no-any-return]

    def save(self, path: str | Path) -> Path:
        """Write the graph in the format that the name's ending tells; ".png" and ".pdf" need
        Graphviz.

        Raises:
            UsageError: no format has this ending, or its engine is not there.
        """
        _load("cnnprobe.document.graph_files").save_graph(self, path)
        return Path(path)

    def __str__(self) -> str:
        return self.to("text")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        return {"image/svg+xml": self.to("svg"), "text/plain": self.to("text")}


def _load(name: str) -> Any:
    """Rooms that know this one, found when a method of convenience is asked for: data imports
    nothing above it.
    """
    return importlib.import_module(name)
