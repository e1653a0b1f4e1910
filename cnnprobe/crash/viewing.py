"""A view or reshape that does not fit its tensor: another number of elements, another order in memory, a merged batch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash import grouping, linear
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.facts.words import count_elements, operation, shorten, write_product
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import ModuleCall, TensorInfo


def _sizes(call: ModuleCall) -> tuple[int, ...]:
    """The sizes that a view was asked for."""
    found: list[int] = []
    for path, value in call.arguments.items():
        if path != "[0]" and isinstance(value, int) and not isinstance(value, bool):
            found.append(value)
        elif isinstance(value, tuple) and all(isinstance(v, int) for v in value):
            found.extend(value)
    return tuple(found)


def suspect_view(crash: Crash, call: ModuleCall, name: str) -> Iterator[Suspect]:
    """What may be wrong where a view or reshape raised."""
    if not call.inputs or name not in ("view", "reshape"):
        return
    x, sizes = call.inputs[0], _sizes(call)
    known = math.prod(n for n in sizes if n != -1)
    if not sizes or not x.shape:
        return
    if known and (
        count_elements(x.shape) == known
        if -1 not in sizes
        else count_elements(x.shape) % known == 0
    ):
        if name == "view":
            yield _not_contiguous(crash, call, x, sizes)
        return
    grouped = list(grouping.undivided(crash, call, x, sizes))
    if grouped:
        yield from grouped
        return
    sample = count_elements(x.shape[1:])
    if len(sizes) == 2:
        yield _batch_view(crash, call, x, sizes)
        yield from _wrong_map(crash, x, sizes[1])
    wanted = math.prod(n for n in sizes[1:] if n != -1)
    if len(sizes) > 2 and wanted != sample:
        yield _map_view(crash, call, x, sizes)


def _reshaping(
    crash: Crash,
    call: ModuleCall,
    function: Callable[[Tensor, tuple[Any, ...]], Any],
    code: str,
    respell: str = "",
) -> Rewrite:
    return Rewrite(
        title=f"use {code.format(x='x')} instead of {operation(call)} at {shorten(call.source)}",
        code=code,
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=lambda _func, args, _kwargs: function(args[0], args[1:]),
        respell=respell,
    )


def _not_contiguous(
    crash: Crash, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]
) -> Suspect:
    shown = ", ".join(map(str, sizes))
    reshape = _reshaping(
        crash,
        call,
        lambda t, rest: t.reshape(*rest),
        f"{{x}}.reshape({shown})",
        "{x}.reshape({rest})",
    )
    contiguous = _reshaping(
        crash,
        call,
        lambda t, rest: t.contiguous().view(*rest),
        f"{{x}}.contiguous().view({shown})",
        "{x}.contiguous().view({rest})",
    )
    return Suspect(
        diagnosis="noncontiguous-view",
        module=crash.owner,
        message=f"view in {describe_module(crash, crash.owner)} needs the elements of {x.shape} one after the other in memory, "
        f"and {crash.describe_origin(x)} has left them in another order",
        arithmetic=f"shape {x.shape}, strides {x.strides}; the sizes asked for are {sizes}",
        candidates=(propose(reshape, weight=STRONG), propose(contiguous, weight=USUAL)),
        weight=STRONG,
    )


def _batch_view(crash: Crash, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]) -> Suspect:
    sample = count_elements(x.shape[1:])
    asked = ", ".join(map(str, sizes))
    flat = _reshaping(
        crash,
        call,
        lambda t, _rest: torch.flatten(t, 1),
        "torch.flatten({x}, 1)",
        "torch.flatten({x}, 1)",
    )
    features = sizes[1]
    layers = [
        fqn
        for fqn, m in crash.modules.items()
        if isinstance(m, nn.Linear) and m.in_features == features
    ]
    candidates = [propose(flat, weight=STRONG)]
    if features not in (-1, sample) and layers:
        candidates = [propose(flat, configure(crash, layers[0], in_features=sample), weight=STRONG)]
        candidates += linear.resizings(crash, features, x)
    fixed = sizes[0] not in (-1, x.shape[0])
    why = (
        f"it has the batch size {sizes[0]} hard-wired, and {x.shape[0]} arrive"
        if fixed
        else f"a sample has {sample} elements, not {features}"
    )
    return Suspect(
        diagnosis="batch-merge-view",
        module=crash.owner,
        message=f"{operation(call)}({asked}) in {describe_module(crash, crash.owner)} does not keep one row for each sample: {why}",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}: {write_product(x.shape[1:])} elements a sample; {count_elements(x.shape)} in all",
        candidates=tuple(candidates),
        weight=STRONG if fixed else USUAL,
    )


def _wrong_map(crash: Crash, x: TensorInfo, features: int) -> Iterator[Suspect]:
    """The map itself has another size than the view and the Linear after it were written for."""
    layers = [
        fqn
        for fqn, m in crash.modules.items()
        if isinstance(m, nn.Linear) and m.in_features == features
    ]
    if layers and len(x.shape) >= 3:
        found = linear.Product(x=x, wanted=features, module=layers[0], is_layer=True)
        yield from linear.other_windows(crash, found, x)


def suspect_earlier_view(crash: Crash, x: TensorInfo, wanted: int) -> Iterator[Suspect]:
    """A view that made rows of features into maps of too few or too many channels, and so gave another batch to a layer that wants `wanted`."""
    for _, call in crash.walk_back(x):
        if not call.outputs or not call.inputs or call.outputs[0].shape != x.shape:
            return
        given, rest = call.inputs[0].shape, x.shape[2:]
        if (
            operation(call) not in ("view", "reshape")
            or call.outputs[0].shape[0] == given[0]
            or given[0] != crash.batch
        ):
            continue
        if len(x.shape) < 3 or wanted * count_elements(rest) != count_elements(given[1:]):
            return
        shape = (wanted, *rest)
        code = f"{{x}}.view(-1, {', '.join(map(str, shape))})"
        reshape: Callable[..., Any] = lambda t, _rest, shape=shape: t.reshape(-1, *shape)  # noqa: E731
        edit = replace(
            _reshaping(
                crash,
                call,
                reshape,
                code,
                code,
            ),
            module=crash.find_module_above(call.parent),
        )
        yield Suspect(
            diagnosis="batch-merge-view",
            module=edit.module,
            message=f"{crash.describe_call(call)} does not keep one row for each sample: {given} became {x.shape}",
            arithmetic=f"{write_product(shape)} elements a sample, where {x.shape[1:]} takes {count_elements(x.shape[1:])}",
            candidates=(propose(edit, weight=STRONG),),
            weight=STRONG,
            needs_proof=True,
        )
        return


def _map_view(crash: Crash, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]) -> Suspect:
    wanted = math.prod(n for n in sizes[1:] if n != -1)
    candidates: list[Candidate] = []
    for _, row in crash.walk_back(x):
        if row.fqn is not None and isinstance(crash.modules.get(row.fqn), nn.Linear):
            candidates.append(propose(configure(crash, row.fqn, out_features=wanted)))
            break
        if (
            row.fqn is not None
            and isinstance(crash.modules.get(row.fqn), nn.modules.conv._ConvNd)
            and len(row.outputs[0].shape) > 2
        ):
            places = count_elements(row.outputs[0].shape[2:])
            if (
                sizes[-(len(row.outputs[0].shape) - 2) :] == row.outputs[0].shape[2:]
                and wanted % places == 0
            ):
                candidates.append(propose(configure(crash, row.fqn, out_channels=wanted // places)))
            break
    fixed = sizes[0] not in (-1, x.shape[0]) and wanted == count_elements(x.shape[1:])
    if sizes[0] != -1:
        rest = sizes[1:]
        edit = _reshaping(
            crash,
            call,
            lambda t, _rest: t.reshape(-1, *rest),
            "{x}.view(-1, " + ", ".join(map(str, rest)) + ")",
        )
        candidates.append(propose(edit, weight=STRONG if fixed else POSSIBLE))
    return Suspect(
        diagnosis="batch-merge-view" if fixed else "shape-mismatch",
        module=crash.owner,
        message=f"{operation(call)}{sizes} in {describe_module(crash, crash.owner)} asks for {wanted} elements a sample, and {x.shape} has {count_elements(x.shape[1:])}",
        arithmetic=f"{write_product(sizes[1:])}, arrived {x.shape} from {crash.describe_origin(x)}",
        candidates=tuple(candidates),
        weight=USUAL,
    )
