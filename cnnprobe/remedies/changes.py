"""The changes that remedies of several kinds share: another layer, another attribute, fresh
weights.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cnnprobe.recorder.inventory import named_modules
from cnnprobe.remedies.subject import Subject


def exchange(fqn: str, make: Callable[[nn.Module], nn.Module]) -> Callable[[Subject], None]:
    """Another module in the place of `fqn`, made from it; the optimizer gets its parameters."""

    def change(subject: Subject) -> None:
        new = make(subject.module(fqn))
        subject.set_module(fqn, new)
        subject.optimise(list(new.parameters()))

    return change


def set_attribute(fqn: str, name: str, value: Any) -> Callable[[Subject], None]:
    """Another value of a module's attribute."""

    def change(subject: Subject) -> None:
        setattr(subject.module(fqn), name, value)

    return change


def find_module(model: nn.Module, fqn: str | None) -> nn.Module | None:
    """The module of a name; None where there is none."""
    return next((m for name, m, _ in named_modules(model) if name == fqn), None)


def initialise_all(subject: Subject) -> None:
    """He's initialisation of every linear layer and convolution; biases of 0."""
    for module in subject.model.modules():
        initialise(module)


def initialise(module: nn.Module) -> None:
    """He's initialisation of a layer; a bias of 0."""
    for name, parameter in module._parameters.items():
        if parameter is None or (isinstance(module, nn.modules.batchnorm._NormBase)):
            continue
        with torch.no_grad():
            if parameter.dim() > 1:
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            elif name == "bias":
                parameter.zero_()
