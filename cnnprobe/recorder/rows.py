"""What is written down while a forward pass runs: a Row for each call, of which assembly makes the
frozen data afterwards.
"""

from collections.abc import Mapping

from torch import nn

from cnnprobe.recorder import cost
from cnnprobe.recorder.inventory import Kind
from cnnprobe.recorder.values import Sighting

NOTHING: Mapping[str, object] = {}
Calls = list[
    tuple[cost.Pending, str]
]  # of functions, that are still to be counted, and their public names


class More:
    """What must be said of few calls: defaults are what holds for nearly all."""

    inputs: tuple[Sighting, ...] = ()
    outputs: tuple[Sighting, ...] = ()
    arguments: Mapping[str, object] = NOTHING
    returned = "Tensor"
    pending: Calls | None = None  # made within it
    completed = True
    recomputed = False
    thread = ""


Closed = tuple[
    int | str, int | None, Sighting | None, Sighting | None, str, float, int, int, More | None
]
"""A call that is over: where its module stands in the tree of the model (or the public name of the
function), position of the parent, the sole input, the sole output, source, seconds, autograd's
sequence numbers, and more if there is more to say.

A bare tuple of plain values and of such tuples, no deeper than this: the garbage collector soon
leaves those alone. Of ten thousand objects that grow old it would come to search all the objects of
torch, in the middle of the user's forward.
"""


class CallRow:
    """A call that goes on. Whoever makes one sets all of it: a constructor would cost more than the
    stores.
    """

    __slots__ = (
        "began",
        "ended",
        "first",
        "given",
        "last",
        "made",
        "more",
        "of",
        "parent",
        "position",
        "source",
        "suspended",
    )

    of: int | str  # where the module stands in the tree, or the public name of the function
    parent: "ModuleRow | None"
    position: int  # among the rows
    given: Sighting | None  # the sole input
    made: Sighting | None  # the sole output
    source: str
    began: float  # seconds
    ended: float
    first: int  # autograd's sequence numbers
    last: int
    more: More | None
    suspended: bool  # the function mode was taken off the stack for the time of this call


class ModuleRow(CallRow):
    """The call of a module."""

    __slots__ = ("kind", "module")

    module: nn.Module
    kind: Kind


def more_of(row: CallRow) -> More:
    """Where to write what must be said of few calls."""
    if row.more is None:
        row.more = More()
    return row.more


def close(row: CallRow) -> Closed:
    """What stays of a row."""
    parent = row.parent
    return (
        row.of, None if parent is None else parent.position, row.given, row.made, row.source,
        row.ended - row.began, row.first, row.last, row.more,
    )  # fmt: skip
