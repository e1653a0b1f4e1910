"""What the examples of the rules are made of: a few images, labels, and the usual arguments of
`diagnose`. Imports torch only when called.
"""

from collections.abc import Callable
from typing import Any


def images(n: int = 8, channels: int = 1, size: int = 8) -> Any:
    """Normalised images, shape (N, C, size, size)."""
    import torch

    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def labels(n: int = 8, classes: int = 4) -> Any:
    """Class indices, shape (N,), each class about equally often."""
    import torch

    return torch.arange(n) % classes


def layers(*given: Any) -> Any:
    """An nn.Sequential of the layers, freshly and equally initialised each time."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(
        *(
            layer() if isinstance(layer, Callable) and not isinstance(layer, nn.Module) else layer  # type: ignore[arg-type]
            for layer in given
        )
    )


def classifying(model: Any, **others: Any) -> dict[str, Any]:
    """The arguments of `diagnose` for a classifier: images, labels, cross entropy, SGD."""
    import torch
    from torch import nn

    trainable = [p for p in model.parameters() if p.requires_grad]
    arguments = {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(trainable, lr=0.05) if trainable else None,
    }
    return arguments | others


def perceptron(*, end: tuple[Any, ...] = (), hidden: int = 32) -> Any:
    """Flatten, Linear, ReLU, Linear to four classes, and what `end` adds."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 4), *end)


def stepping(
    model: Any, loop: Callable[[Any, Any, Any, Any, Any], Any], **others: Any
) -> dict[str, Any]:
    """The arguments of `diagnose` with a train_step of one's own; `loop` gets model, inputs,
    targets, optimizer, loss function.
    """
    import torch
    from torch import nn

    optimizer = others.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05)
    loss_fn = nn.CrossEntropyLoss()

    def train_step(inputs: Any, targets: Any) -> Any:
        return loop(model, inputs, targets, optimizer, loss_fn)

    return {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "optimizer": optimizer,
        "train_step": train_step,
    } | others
