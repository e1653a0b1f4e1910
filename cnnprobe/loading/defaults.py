"""An input for a model when none is given: inferred from its first layers, and tried on the meta
device.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator

import torch
from torch import nn

from cnnprobe.errors import UsageError
from cnnprobe.loading.inputs import load_inputs
from cnnprobe.loading.meta import copy_to_meta

_STRIDED_STEM = (224, 256, 299, 227, 384, 64, 32)  # sizes of ImageNet models, likeliest first
_PLAIN_STEM = (
    32,
    28,
    64,
    224,
    96,
    128,
    256,
    48,
    16,
)  # a first convolution of stride 1: CIFAR, MNIST, then larger
_COLOURS = 3


def make_default_inputs(
    model: nn.Module, *, dtype: torch.dtype | None = None, device: torch.device, seed: int = 0
) -> tuple[tuple[object, ...], dict[str, object], str]:
    """Arguments for `model.forward` of one sample, and a sentence that says what was assumed.

    The channels come from the first Conv2d (or the features from the first Linear); the size is the
    first of the usual ones that passes a forward on the meta device, which costs no memory and
    leaves the model alone.

    Raises:
        UsageError: the forward takes several inputs, or no Conv2d or Linear says what it takes.
    """
    _check_forward(model)
    candidates = _list_candidates(model)
    shape = (
        next((shape for shape in candidates if _can_run_on_meta(model, shape)), candidates[0])
        if len(candidates) > 1
        else candidates[0]
    )
    text = ",".join(str(size) for size in shape)
    args, kwargs = load_inputs(
        [text], dtype=dtype or _choose_dtype(model), device=device, seed=seed
    )
    return (
        args,
        kwargs,
        f"no input given: using --input {text} (random), derived from the model's first layers",
    )


def _check_forward(model: nn.Module) -> None:
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (ValueError, TypeError):
        return
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY for p in needed):
        names = ", ".join(p.name for p in needed)
        example = " ".join(f"--input {p.name}={_guess_shape(model, p.name)}" for p in needed)
        raise UsageError(
            f"{type(model).__name__}.forward takes {names}",
            where="no --input was given",
            fix=f"give a shape or a file for each: {example}",
        )


def _guess_shape(model: nn.Module, name: str) -> str:
    """The shape of an argument that the forward hands to a layer; SHAPE where it is not known."""
    for layer in _list_readers(model, name):
        if isinstance(layer, nn.Conv2d):
            return f"1,{layer.in_channels},32,32"
        if isinstance(layer, nn.Conv1d):
            return f"1,{layer.in_channels},64"
        if isinstance(layer, nn.Linear):
            return f"1,{layer.in_features}"
        if isinstance(layer, nn.Embedding):
            return "1,8"
    return "SHAPE"


def _list_readers(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The first layer of each module that the forward calls with an argument: self.conv(x)."""
    try:
        text = textwrap.dedent(inspect.getsource(type(model).forward))
        tree = ast.parse(text)
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        match node:
            case ast.Call(
                func=ast.Attribute(value=ast.Name(id="self"), attr=attribute),
                args=[ast.Name(id=given), *_],
            ) if given == name:
                module = model._modules.get(attribute)
                leaves = [m for m in module.modules() if m._parameters] if module else []
                yield from leaves[:1]


def _list_candidates(model: nn.Module) -> list[tuple[int, ...]]:
    # timm's own record of what the model takes
    configured = getattr(model, "default_cfg", None) or {}
    if isinstance(configured, dict) and configured.get("input_size"):
        return [(1, *configured["input_size"])]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            sizes = _STRIDED_STEM if max(module.stride) > 1 else _PLAIN_STEM
            return [(1, module.in_channels or _COLOURS, size, size) for size in sizes]
        if isinstance(module, nn.Linear) and module.in_features:
            return [(1, module.in_features)]
    raise UsageError(
        f"{type(model).__name__} has no Conv2d or Linear to derive an input shape from",
        where="no --input was given",
        fix="give one: --input 1,3,32,32",
    )


def _choose_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)


def _can_run_on_meta(model: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether a copy of the model without any data takes an input of that shape."""
    try:
        without_data = copy_to_meta(model)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            without_data(torch.empty(shape, dtype=_choose_dtype(model), device="meta"))
    except (Exception, SystemExit):  # whatever the user's code raises, the answer is no
        return False
    return True
