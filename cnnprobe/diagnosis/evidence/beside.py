"""What the training step works with beside the model: a loss with parameters, a
discriminator, a copy of the weights.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Companion:
    """A trainable parameter of a module that the step works with and that is no part of the
    model.
    """

    module: str  # the user's variable of the outermost module: "criterion", "self.loss"
    kind: str  # class of that module
    name: str  # within it: "classifier.weight"
    shape: tuple[int, ...]
    optimizer: str  # that holds it; "": none that is known
    training: bool  # the mode of the module that owns it
    graded: bool  # a backward left it a gradient that is not 0
    moved: bool  # its values have changed since the first step
    # backward passes of this step whose graph ends at what its optimizer holds, and nowhere else
    alone: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftBehind:
    """What of a copy of trained weights stays as it is while its original and the rest of the copy
    change.
    """

    name: str  # of the copy: "teacher", "model.head_k"
    of: str
    parameters: tuple[str, ...] = ()  # of the copy; all of them where a sibling follows
    # "model.encoder_k": the copy beside it that follows its own original; "": the copy itself does
    sibling: str = ""
    # running statistics, of layers that normalise with them
    statistics: tuple[str, ...] = ()
