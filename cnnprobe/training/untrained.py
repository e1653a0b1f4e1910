"""Finds the networks beside the model that nothing trains, and that nothing has trained."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Untrained
from cnnprobe.diagnosis.evidence.initial import is_drawn
from cnnprobe.recorder.inventory import has_values, named_modules
from cnnprobe.training.surroundings import Surroundings

LEAST = 2  # layers of a network
LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def find_untrained(model: nn.Module, around: Surroundings) -> Iterator[Untrained]:
    """The networks that no optimizer holds a parameter of, and whose layers all have the weights
    that torch has drawn for them; none that has a part in common with the model.
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
