"""Walks grad_fn into a Graph and names each node by the module call that made it; says what the
graph keeps, and what is cut off.
"""

from cnnprobe.recorder.autograd.finding import tensors_in
from cnnprobe.recorder.autograd.lifetime import GraphWatch, KeptGraph
from cnnprobe.recorder.autograd.walking import made_by, walk

__all__ = ["GraphWatch", "KeptGraph", "made_by", "tensors_in", "walk"]
