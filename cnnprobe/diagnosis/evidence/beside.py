"""What the training step works with beside the model: a loss with parameters, a discriminator."""

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
    is_loss: bool  # the module is the loss function, or is called one
    training: bool  # the mode of the module that owns it
    graded: bool  # a backward left it a gradient that is not 0
    moved: bool  # its values have changed since the first step
    # backward passes of this step whose graph ends at what its optimizer holds, and nowhere else
    alone: int
