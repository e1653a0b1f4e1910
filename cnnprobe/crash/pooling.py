"""A pooling for another number of axes than its map has, or without its kernel."""

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import replace

from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.facts.frames import list_calls
from cnnprobe.crash.facts.windows import count_dims
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Suspect, propose
from cnnprobe.crash.wording import reworded

_OF_A_KERNEL = re.compile(r"(max|avg)_pool[123]d")
_KERNELS = (2, 3, 4)  # of poolings, the most usual first
_FAMILIES = ("MaxPool", "AvgPool", "LPPool", "AdaptiveAvgPool", "AdaptiveMaxPool")
_SETTINGS = {
    "kernel_size": None,
    "stride": None,
    "padding": 0,
    "dilation": 1,
    "output_size": None,
}  # with torch's defaults


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where a pooling was given a map of another rank, or no kernel."""
    layer, call = crash.leaf, crash.call
    if layer is None and call is not None and isinstance(crash.error, TypeError):
        yield from _without_kernel(crash)
    family = type(layer).__name__.rstrip("d123") if layer is not None else ""
    if layer is None or call is None or family not in _FAMILIES or not call.inputs:
        return
    shape, axes, fqn = call.inputs[0].shape, count_dims(layer), call.fqn or ""
    if len(shape) in (axes + 1, axes + 2):
        return
    other = getattr(nn, f"{family}{len(shape) - 2}d", None)
    settings = _settings(layer)
    candidates = []
    if other is not None and settings is not None:
        code = f"nn.{other.__name__}({', '.join(f'{name}={value}' for name, value in settings.items())})"
        edit = Exchange(
            title=f"make {quote(fqn)} an {code}",
            code=code,
            module=fqn,
            layer=lambda _old: other(**settings),
        )
        candidates.append(propose(edit, weight=STRONG))
    yield Suspect(
        diagnosis="shape-mismatch",
        module=fqn,
        message=f"{describe_module(crash, fqn)} is for {axes + 2} axes (batch, channels and {axes} more), and {shape} has {len(shape)}",
        arithmetic=f"{crash.describe_origin(call.inputs[0])} gives {shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _without_kernel(crash: Crash) -> Iterator[Suspect]:
    """F.max_pool2d(x): the least kernel with which the forward passes is tried first."""
    for call in list_calls(crash.error):
        name = (
            call.func.attr
            if isinstance(call.func, ast.Attribute)
            else call.func.id
            if isinstance(call.func, ast.Name)
            else ""
        )
        if (
            not _OF_A_KERNEL.fullmatch(name)
            or len(call.args) > 1
            or any(k.arg in ("kernel_size", None) for k in call.keywords)
        ):
            continue
        for kernel in _KERNELS:
            filled = copy.deepcopy(call)
            filled.args.append(ast.Constant(kernel))
            found = reworded(
                crash,
                call,
                ast.unparse(filled),
                diagnosis="call-signature",
                message=f"{name} was not given the size of its kernel",
                arithmetic=f"{name}(input, kernel_size, ...)",
            )
            weight = USUAL if kernel == _KERNELS[0] else POSSIBLE
            yield replace(
                found, candidates=tuple(replace(one, weight=weight) for one in found.candidates)
            )
        return


def _settings(layer: nn.Module) -> dict[str, int] | None:
    """The settings of a pooling, where each of them is one number for all axes; those that are as torch has them are left out."""
    found: dict[str, int] = {}
    for name, usual in _SETTINGS.items():
        value = getattr(layer, name, None)
        values = set(value) if isinstance(value, tuple | list) else {value}
        only = values.pop() if len(values) == 1 else None
        if values or (only is not None and not isinstance(only, int)):
            return None
        if (
            only is not None
            and only != usual
            and not (name == "stride" and only == found.get("kernel_size"))
        ):
            found[name] = only
    return found
