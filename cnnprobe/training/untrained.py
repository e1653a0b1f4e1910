"""Finds the networks beside the model that nothing trains, and that nothing has trained."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Untrained
from cnnprobe.diagnosis.evidence.initial import is_drawn
from cnnprobe.recorder.inventory import has_values, named_modules
from cnnprobe.training.surroundings import Surroundings

LEAST = 2  # layers of a network
NEAR = 0.3  # of its norm: two draws are 1.4 of it apart
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_untrained(model: nn.Module, around: Surroundings) -> Iterator[Untrained]:
    """The networks that no optimizer holds a parameter of, and whose layers all have the weights
    that torch has drawn for them; none that has a part in common with the model, or began as a
    copy of it.
    """
    held = {
        id(p) for _, o in around.optimizers.values() for g in o.param_groups for p in g["params"]
    }
    held |= {id(p) for p in model.parameters()}
    for name, network in around.models.values():
        layers = [m for _, m, first in named_modules(network) if first and isinstance(m, LAYERS)]
        own = list(network.parameters())
        if len(layers) < LEAST or any(id(p) in held for p in own):
            continue
        if _is_copy(layers[0].weight, model):
            continue
        if all(_is_as_drawn(m.weight) for m in layers) and not _has_seen_batches(network):
            yield Untrained(name=name, shapes=frozenset(tuple(m.weight.shape) for m in layers))


def _is_as_drawn(weight: Tensor) -> bool:
    if not has_values(weight) or weight.layout is not torch.strided:
        return False
    values = weight.detach().float()
    return is_drawn(
        tuple(weight.shape), float(values.min()), float(values.max()), float(values.std())
    )


def _has_seen_batches(network: nn.Module) -> bool:
    """Whether a BatchNorm in it has counted a batch."""
    counts = (getattr(m, "num_batches_tracked", None) for m in network.modules())
    return any(isinstance(count, Tensor) and bool(count) for count in counts)


def _is_copy(weight: Tensor, model: nn.Module) -> bool:
    """Whether the model has the same numbers, but for what a few steps change."""
    own = weight.detach()
    alike = (p.detach() for p in model.parameters() if p.shape == own.shape and has_values(p))
    return has_values(weight) and any(
        float((p - own).norm()) < NEAR * float(own.norm()) for p in alike
    )
