"""What images the published weights of a model were trained on, where the model is torchvision's or
timm's.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cnnprobe.data.expectation import Weights

AT_ZERO = 0.5  # of the biases: initialisations set them so, training moves nearly all
_TORCHVISION = "torchvision.models."


def find_weights(model: nn.Module) -> Weights | None:
    """What the published weights of a model expect; None where it is no published one, or
    normalises by itself.

    A model that wraps one, as a backbone, has the expectations of that one.
    """
    for module in model.modules():
        settings = getattr(module, "pretrained_cfg", None)
        if isinstance(settings, Mapping) and {"mean", "std", "input_size"} <= set(settings):
            steps = ((_floats(settings["mean"]), _floats(settings["std"])),)
            sides = (int(settings["input_size"][-1]),)
            return Weights(
                name=f"timm's {settings.get('architecture') or type(module).__name__}",
                normalisations=steps,
                sides=sides,
                loaded=_is_trained(module),
            )
        if type(module).__module__.startswith(_TORCHVISION):
            return _read_torchvision(module)
    return None


def _read_torchvision(module: nn.Module) -> Weights | None:
    """What all weights of its family agree on: a model does not tell which of them it has."""
    transforms = list(_list_transforms(type(module).__module__))
    steps = Counter(
        (_floats(each.mean), _floats(each.std))
        for each in transforms
        if hasattr(each, "mean") and hasattr(each, "std")
    )
    if not steps:  # detectors normalise by themselves
        return None
    crops = [each.crop_size for each in transforms if hasattr(each, "crop_size")]
    return Weights(
        name=f"torchvision's {type(module).__name__}",
        normalisations=tuple(step for step, _ in steps.most_common()),
        sides=tuple(sorted({
            int(crop[0] if isinstance(crop, list | tuple) else crop) for crop in crops
        })),
        loaded=_is_trained(module),
    )  # fmt: skip


def _list_transforms(family: str) -> Iterator[Any]:
    """The transforms of the weights whose builders are in a module of torchvision."""
    from torchvision import models

    for name in models.list_models():
        if models.get_model_builder(name).__module__ == family:
            for weights in models.get_model_weights(name):
                yield weights.transforms()


def _floats(given: Any) -> tuple[float, ...]:
    return tuple(float(each) for each in given)


def _is_trained(module: nn.Module) -> bool | None:
    """Whether a model is not at its initialisation; None where neither BatchNorm nor biases tell.

    An initialised BatchNorm has running means of zero, and most initialisations biases of zero.
    """
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    means = [m.running_mean for m in norms if m.running_mean is not None]
    if means and not any(mean.is_meta for mean in means):
        return any(bool(torch.any(mean != 0)) for mean in means)
    biases = [p for name, p in module.named_parameters() if name.endswith("bias")]
    if not biases or any(p.is_meta for p in biases):
        return None
    zero = sum(not bool(torch.any(p != 0)) for p in biases)
    # Some layers draw their biases: then nothing is known.
    return False if zero > AT_ZERO * len(biases) else (None if not zero and not norms else True)
