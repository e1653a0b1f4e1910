"""Graph, Node and Edge: a graph of operations or of module calls, as plain data that keeps no tensor alive.

Nodes and edges are named tuples and no dataclasses: there are hundreds of thousands of them, and a frozen dataclass of
twelve fields takes 3 us to make, as long as the whole walk that finds it; a named tuple takes 0.4.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from cnnprobe.graph.difference import GraphDifference

OPERATION, CUSTOM, CHECKPOINT = "operation", "custom", "checkpoint"
PARAMETER, INPUT, MODULE, FUNCTION, BLOCKS, MORE = (
    "parameter",
    "input",
    "module",
    "function",
    "blocks",
    "more",
)


class Node(NamedTuple):
    """One operation, leaf or module call. `id` is its position in `Graph.nodes`, which is the order of the forward pass."""

    id: int
    name: str  # "ConvolutionBackward0"; in a module view the class ("Conv2d") or function ("torch.flatten")
    kind: str  # operation | custom | checkpoint | parameter | input | module | function | blocks (identical ones) | more (left out)
    # fqn of the innermost module call that made it; None: outside of every recorded call
    module: str | None = None
    call: int = 0  # k-th call of that module, from 0
    source: str = ""  # the user's line, "net.py:12"
    shape: tuple[int, ...] | None = None  # of its (first) output; None: not known
    dtype: str = ""
    parameter: str | None = None  # fqn of a leaf that is a parameter of the model
    # held for backward and saved here first; parameters and inputs are not in it
    saved_bytes: int = 0
    marks: tuple[str, ...] = ()  # "view", "in-place", "hook", "overwritten", "2 outputs", ...
    members: int = 1  # nodes folded into this one


class Edge(NamedTuple):
    """A value that passes from node `start` to node `end`, in the direction of the forward pass."""

    start: int
    end: int
    input: int = 0  # which input of `end`
    output: int = 0  # which output of `start`


class Call(NamedTuple):
    """A module call that nodes belong to; `parent` is an index into `Graph.calls`."""

    fqn: str
    call: int  # k-th call of this module, from 0
    kind: str  # class name
    parent: int | None = None
    source: str = ""


class Saved(NamedTuple):
    """A storage that the graph keeps for backward: once, at the node that saved it first."""

    node: int
    name: str  # what the operation calls it: "self", "weight", "result"
    nbytes: int  # of the whole storage, since all of it is kept
    kind: str  # "activation" | "parameter" | "input"
    shape: tuple[int, ...] = ()
    dtype: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The nodes in the order of the forward pass, and the values between them.

    `view` is "autograd" (one node an operation that autograd recorded) or "modules" (one node a module call or function).
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
        """Bytes of activations that are kept for backward, each storage once; parameters and inputs not counted."""
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
        return _room("cnnprobe.graph.folding").collapse(self, depth, limit=limit, around=around)  # type: ignore[no-any-return]

    def diff(self, other: "Graph") -> "GraphDifference":
        """What this graph has that `other` has not, and the other way round, by module call."""
        return _room("cnnprobe.graph.difference").difference(self, other)  # type: ignore[no-any-return]

    def to(self, format: str) -> str:  # noqa: A002 - the word users type
        """The graph as "dot", "svg", "mermaid", "markdown", "text", "json" or "html".

        Raises:
            UnknownNameError: there is no such format.
        """
        return _room("cnnprobe.document.graph_files").render_graph(self, format)  # type: ignore[no-any-return]

    def save(self, path: str | Path) -> Path:
        """Write the graph in the format that the name's ending tells; ".png" and ".pdf" need Graphviz.

        Raises:
            UsageError: no format has this ending, or its engine is not there.
        """
        _room("cnnprobe.document.graph_files").save_graph(self, path)
        return Path(path)

    def __str__(self) -> str:
        return self.to("text")

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:  # noqa: ARG002
        return {"image/svg+xml": self.to("svg"), "text/plain": self.to("text")}


def _room(name: str) -> Any:
    """Rooms that know this one, found when a method of convenience is asked for: data imports nothing above it."""
    return importlib.import_module(name)
