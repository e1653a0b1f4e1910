"""The names of blocks and of their attributes, and the sentence that describes a block."""

import re
from collections.abc import Sequence

from cnnprobe.comparison.refactoring.branches import Item, Parallel
from cnnprobe.comparison.refactoring.layers import Layer
from cnnprobe.comparison.refactoring.patterns import split
from cnnprobe.comparison.refactoring.templates import Template

WIDTH = 88  # columns of the source that is written
SWITCHES = ("downsample", "residual")


_ATTRIBUTES = {
    "Conv": "conv",
    "Linear": "fc",
    "BatchNorm": "norm",
    "GroupNorm": "norm",
    "LayerNorm": "norm",
    "Dropout": "dropout",
    "Flatten": "flatten",
}


def choose_class_name(model: str) -> str:
    """A class name for the refactored model.

    >>> choose_class_name("SimpleCNN")
    'ModularSimpleCNN'
    """
    cleaned = re.sub(r"\W", "", model, flags=re.ASCII) or "Model"
    return f"Modular{cleaned}"


def clean(text: str) -> str:
    """The text without what could end a string or a comment of the written code."""
    return re.sub(r"[^\w .,()-]", "", text, flags=re.ASCII)


def name_classes(templates: Sequence[Template]) -> None:
    """Give each template a class name of its own, by what it holds."""
    taken: set[str] = set()
    for template in templates:
        wish = _choose_word(template.pattern)
        name, k = wish, 2
        while name in taken:
            name, k = f"{wish}{k}", k + 1
        taken.add(name)
        template.name = name


def _choose_word(pattern: Sequence[Item]) -> str:
    """What the block is."""
    residual = next((item for item in pattern if isinstance(item, Parallel)), None)
    if residual is not None:
        main, shortcut = split(residual)
        convolutions = [
            layer for layer in main if isinstance(layer, Layer) and layer.kind.startswith("Conv")
        ]
        if shortcut is None:
            return "BranchedBlock"
        sizes = [layer.arguments.get("kernel_size") for layer in convolutions]
        if any(_is_depthwise(layer) for layer in convolutions):
            return "InvertedResidual"
        return "Bottleneck" if sizes == [1, 3, 1] else "ResidualBlock"
    layers = [item for item in pattern if isinstance(item, Layer)]
    if any(_is_depthwise(layer) for layer in layers):
        return (
            "DepthwiseSeparableBlock"
            if len([x for x in layers if x.kind.startswith("Conv")]) > 1
            else "DepthwiseBlock"
        )
    if any(layer.kind.startswith("ConvTranspose") for layer in layers):
        return "UpBlock"
    if any(layer.kind.startswith("Conv") for layer in layers):
        return "ConvBlock"
    return "LinearBlock" if any(layer.kind == "Linear" for layer in layers) else "Block"


def _is_depthwise(layer: Layer) -> bool:
    groups = layer.arguments.get("groups", 1)
    return groups != 1 and groups == layer.arguments.get("in_channels")


def write_docstring(template: Template) -> str:
    """The docstring of a block: one sentence that lists its layers."""
    return f'    """{_write_sentence(template.pattern)}."""'


def _write_sentence(pattern: Sequence[Item]) -> str:
    parts = []
    for item in pattern:
        if isinstance(item, Layer):
            parts.append(item.kind)
        elif isinstance(item, Parallel):
            main, shortcut = split(item)
            inner = ", ".join(layer.kind for layer in main if isinstance(layer, Layer))
            parts.append(
                f"({inner}) beside a shortcut"
                if shortcut is not None
                else f"{len(item.branches)} branches"
            )
        else:
            parts.append(item.text.format(x="x"))
    text = ", ".join(parts)
    return text if len(text) < WIDTH - 12 else text[: text.rindex(",", 0, WIDTH - 16)] + ", ..."


def choose_attribute(kinds: Sequence[str], *, top: bool, first: bool, last: bool) -> str:
    """The attribute that holds layers of these kinds."""
    if top and first:
        return "layers" if last else "features"
    if top:
        return "classifier" if last else "neck"
    if len(kinds) > 1:
        return "layers"
    for prefix, name in _ATTRIBUTES.items():
        if kinds[0].startswith(prefix):
            return name
    return (
        re.sub(r"\d?[dD]?$", "", kinds[0]).lower()
        if not kinds[0].endswith(("Pool1d", "Pool2d", "Pool3d"))
        else "pool"
    )
