"""What a model and its loss expect of the data, as frozen plain data."""

from dataclasses import dataclass

# Losses over numbers, as modules and as functions: their targets are no classes.
_OF_PROBABILITIES = (
    "BCEWithLogitsLoss", "BCELoss", "binary_cross_entropy", "binary_cross_entropy_with_logits",
)  # fmt: skip
_OF_NUMBERS = (
    "MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "PoissonNLLLoss", "GaussianNLLLoss",
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "poisson_nll_loss", "gaussian_nll_loss",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """What images the published weights of a model were trained on."""

    name: str  # "torchvision's ResNet"
    # mean and std by channel in the order R, G, B, the usual ones first
    normalisations: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...] = ()
    sides: tuple[int, ...] = ()  # pixels, from the least
    loaded: bool | None = None  # the model is not at its initialisation; None: that cannot be told


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What the model and its loss expect of the data."""

    outputs: int | None = None  # classes
    detected: int | None = None  # classes of a detector of torchvision, 0 the background
    loss: str = ""  # "cross_entropy"
    ignored: int = -100  # label that the loss leaves out
    unreduced: bool = False  # the loss gives one number a target, which may be masked by hand
    batch_norm: str = ""  # name of a BatchNorm that sees one value per channel of a batch of one
    seconds: float | None = None  # of a training step, at most
    accepted: bool | None = None  # whether the model took a batch; None: it was not tried
    weights: Weights | None = None  # where the model, or a part of it, is a published one

    @property
    def of_classes(self) -> bool:
        """Whether the loss takes the numbers of classes."""
        return self.loss in ("cross_entropy", "nll_loss")

    @property
    def of_probabilities(self) -> bool:
        """Whether the loss takes numbers from 0 to 1."""
        return self.loss in _OF_PROBABILITIES

    @property
    def of_numbers(self) -> bool:
        """Whether the loss takes numbers that are no classes, as in regression."""
        return self.loss in _OF_NUMBERS
