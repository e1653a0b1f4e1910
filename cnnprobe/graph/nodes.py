"""What a graph consists of: nodes, the edges between them, the calls that they belong to, and what
is saved.

Nodes and edges are named tuples and no dataclasses: there are hundreds of thousands of them, and a
frozen dataclass of twelve fields takes 3 us to make, as long as the whole walk that finds it; a
named tuple takes 0.4.
"""

from typing import NamedTuple

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
    """One operation, leaf or module call. `id` is its position in `Graph.nodes`, which is the order
    of the forward pass.
    """

    id: int
    # "ConvolutionBackward0"; in a module view the class ("Conv2d") or function ("torch.flatten")
    name: str
    # operation | custom | checkpoint | parameter | input | module | function | blocks (identical
    # ones) | more (left out)
    kind: str
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
