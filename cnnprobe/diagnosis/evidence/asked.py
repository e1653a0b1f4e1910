"""What questions to the user's own code showed: the loss without its model, names that nothing
reads, properties that a function of a known name lacks.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeOutput:
    """What the loss asks of the output, by one target: seen with a tensor in the place of the model
    that is free to be anything.
    """

    target: str  # its path: "targets", "targets[1]", "inputs"
    classes: int  # of which the target holds labels; 0: it holds values
    # elements of the target that were changed, one at a time, and changed the gradient of the
    # output; and how many of these changed it at other places only, or in the wrong direction
    tried: int
    misplaced: int
    reversed: int
    places: tuple[tuple[int, ...], tuple[int, ...]]  # one element, and where it acts
    # of the output that makes the loss small: the share of the labels that it gives the greatest
    # value, and the least; its rank correlation with values, and minus that; None: not asked
    agreement: float | None = None
    opposite: float | None = None
    steps: int = 0  # that made it
    # of more than two values: its distance from them over that of the model's own output
    farther: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FreeLoss:
    """What the loss reads of the output and of the batch, whatever the output is."""

    outputs: tuple[FreeOutput, ...] = ()
    samples: int = 0
    unread: tuple[int, ...] = ()  # samples of the output that the loss has no gradient for
    # of each class of the targets, of 0 and 1 where it has two: its share, and how much the loss
    # pulls at an output that knows nothing
    pulls: tuple[tuple[float, float], ...] = ()
    # channels of the output that change nothing, although the targets hold values for them, and
    # how many it has
    channels: tuple[int, ...] = ()
    size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedName:
    """A name that a function unpacks from the batch, or takes as an argument, and never reads."""

    name: str
    function: str
    source: str
    is_argument: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenProperty:
    """A property of a known formula that the user's function or module of its name lacks."""

    name: str  # of the function, or the class
    formula: str  # "focal loss"
    expected: str  # "0 where both are the same"
    found: str  # "0.31"
    fix: str
    source: str
    reference: str  # where the property is from


@dataclass(frozen=True, slots=True, kw_only=True)
class Untrained:
    """A fixed network beside the model whose weights are those of torch's initialisation."""

    name: str  # the user's variable
    shapes: frozenset[tuple[int, ...]]  # of the weights of its layers


@dataclass(frozen=True, slots=True, kw_only=True)
class MisreadBoxes:
    """Boxes of the targets that are read as centers and sizes, and are a corner and a size, or the
    other way round.
    """

    function: str  # that reads them
    target: str  # its path: "targets['boxes']"
    as_centers: bool  # how they are read
    outside: float  # the share that reaches out of the picture when they are read so
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCode:
    """What was seen of the user's own loss and functions, and of the networks beside the model."""

    free: FreeLoss | None = None  # None: the loss cannot be asked without the model
    broken: tuple[BrokenProperty, ...] = ()
    unread: tuple[UnpackedName, ...] = ()  # of the functions that the step is made of
    untrained: tuple[Untrained, ...] = ()
    boxes: MisreadBoxes | None = None  # None: none that are read as something else
