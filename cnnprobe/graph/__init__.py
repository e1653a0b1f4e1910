"""A graph of operations or module calls as plain data, and what can be done with one: fold,
compare, lay out. No torch.
"""

from cnnprobe.graph.changes import Change, GraphDifference
from cnnprobe.graph.graph import Graph
from cnnprobe.graph.modules import build_module_graph
from cnnprobe.graph.nodes import (
    BLOCKS,
    CHECKPOINT,
    CUSTOM,
    FUNCTION,
    INPUT,
    MODULE,
    MORE,
    OPERATION,
    PARAMETER,
    Call,
    Edge,
    Node,
    Saved,
)
from cnnprobe.graph.reachability import Cut, find_unreached

__all__ = [
    "BLOCKS",
    "CHECKPOINT",
    "CUSTOM",
    "FUNCTION",
    "INPUT",
    "MODULE",
    "MORE",
    "OPERATION",
    "PARAMETER",
    "Call",
    "Change",
    "Cut",
    "Edge",
    "Graph",
    "GraphDifference",
    "Node",
    "Saved",
    "build_module_graph",
    "find_unreached",
]
