"""What a case of the bench is: a silent fault as people write it, with its corrected twin.

`@case(rule, *modules)` says what has to be found, and where: any of the modules is right, None is
the training loop, the loss or the data. `CASES[name].build(sick)` gives the arguments of
`diagnose`.
"""

from dataclasses import dataclass

import torch
from torch import nn

from bench.parts import images, labels

CASES = {}


@dataclass(frozen=True)
class Case:
    rule: str
    modules: tuple
    build: object


def case(rule, *modules):
    def keep(build):
        CASES[build.__name__] = Case(rule, modules, build)
        return build

    return keep


def looped(model, step, **others):
    optimizer = others.pop("optimizer", None) or torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(model, inputs, targets):
        return step(model, inputs, targets, optimizer)

    return {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "optimizer": optimizer,
        "train_step": train_step,
    } | others


def net(forward, **parts):
    """A Net with these parts and this forward."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

    Net.forward = forward
    return Net()
