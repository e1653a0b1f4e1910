"""A view or reshape that does not fit its tensor: another number of elements, another order in memory, a merged batch."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash import grouping, linear
from cnnprobe.crash.adapting import configured
from cnnprobe.crash.case import Case, named, operation, product, short, size
from cnnprobe.crash.edits import Rewrite
from cnnprobe.crash.suspicion import POSSIBLE, STRONG, USUAL, Candidate, Suspicion, candidate
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


def suspect_view(case: Case, call: ModuleCall, name: str) -> Iterator[Suspicion]:
    """What may be wrong where a view or reshape raised."""
    if not call.inputs or name not in ("view", "reshape"):
        return
    x, sizes = call.inputs[0], _sizes(call)
    known = math.prod(n for n in sizes if n != -1)
    if not sizes or not x.shape:
        return
    if known and (size(x.shape) == known if -1 not in sizes else size(x.shape) % known == 0):
        if name == "view":
            yield _not_contiguous(case, call, x, sizes)
        return
    grouped = list(grouping.undivided(case, call, x, sizes))
    if grouped:
        yield from grouped
        return
    sample = size(x.shape[1:])
    if len(sizes) == 2:
        yield _batch_view(case, call, x, sizes)
        yield from _wrong_map(case, x, sizes[1])
    wanted = math.prod(n for n in sizes[1:] if n != -1)
    if len(sizes) > 2 and wanted != sample:
        yield _map_view(case, call, x, sizes)


def _reshaping(
    case: Case,
    call: ModuleCall,
    function: Callable[[Tensor, tuple[Any, ...]], Any],
    code: str,
    respell: str = "",
) -> Rewrite:
    return Rewrite(
        title=f"use {code.format(x='x')} instead of {operation(call)} at {short(call.source)}",
        code=code,
        module=case.owner,
        kind=call.kind,
        source=call.source,
        function=lambda _func, args, _kwargs: function(args[0], args[1:]),
        respell=respell,
    )


def _not_contiguous(
    case: Case, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]
) -> Suspicion:
    shown = ", ".join(map(str, sizes))
    reshape = _reshaping(
        case,
        call,
        lambda t, rest: t.reshape(*rest),
        f"{{x}}.reshape({shown})",
        "{x}.reshape({rest})",
    )
    contiguous = _reshaping(
        case,
        call,
        lambda t, rest: t.contiguous().view(*rest),
        f"{{x}}.contiguous().view({shown})",
        "{x}.contiguous().view({rest})",
    )
    return Suspicion(
        diagnosis="noncontiguous-view",
        module=case.owner,
        message=f"view in {named(case, case.owner)} needs the elements of {x.shape} one after the other in memory, "
        f"and {case.origin(x)} has left them in another order",
        arithmetic=f"shape {x.shape}, strides {x.strides}; the sizes asked for are {sizes}",
        candidates=(candidate(reshape, weight=STRONG), candidate(contiguous, weight=USUAL)),
        weight=STRONG,
    )


def _batch_view(case: Case, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]) -> Suspicion:
    sample = size(x.shape[1:])
    asked = ", ".join(map(str, sizes))
    flat = _reshaping(
        case,
        call,
        lambda t, _rest: torch.flatten(t, 1),
        "torch.flatten({x}, 1)",
        "torch.flatten({x}, 1)",
    )
    features = sizes[1]
    layers = [
        fqn
        for fqn, m in case.modules.items()
        if isinstance(m, nn.Linear) and m.in_features == features
    ]
    candidates = [candidate(flat, weight=STRONG)]
    if features not in (-1, sample) and layers:
        candidates = [
            candidate(flat, configured(case, layers[0], in_features=sample), weight=STRONG)
        ]
        candidates += linear.resizings(case, features, x)
    fixed = sizes[0] not in (-1, x.shape[0])
    why = (
        f"it has the batch size {sizes[0]} hard-wired, and {x.shape[0]} arrive"
        if fixed
        else f"a sample has {sample} elements, not {features}"
    )
    return Suspicion(
        diagnosis="batch-merge-view",
        module=case.owner,
        message=f"{operation(call)}({asked}) in {named(case, case.owner)} does not keep one row for each sample: {why}",
        arithmetic=f"{x.shape} from {case.origin(x)}: {product(x.shape[1:])} elements a sample; {size(x.shape)} in all",
        candidates=tuple(candidates),
        weight=STRONG if fixed else USUAL,
    )


def _wrong_map(case: Case, x: TensorInfo, features: int) -> Iterator[Suspicion]:
    """The map itself has another size than the view and the Linear after it were written for."""
    layers = [
        fqn
        for fqn, m in case.modules.items()
        if isinstance(m, nn.Linear) and m.in_features == features
    ]
    if layers and len(x.shape) >= 3:
        found = linear.Product(x=x, wanted=features, module=layers[0], is_layer=True)
        yield from linear.other_windows(case, found, x)


def suspect_earlier_view(case: Case, x: TensorInfo, wanted: int) -> Iterator[Suspicion]:
    """A view that made rows of features into maps of too few or too many channels, and so gave another batch to a layer that wants `wanted`."""
    for _, call in case.lineage(x):
        if not call.outputs or not call.inputs or call.outputs[0].shape != x.shape:
            return
        given, rest = call.inputs[0].shape, x.shape[2:]
        if (
            operation(call) not in ("view", "reshape")
            or call.outputs[0].shape[0] == given[0]
            or given[0] != case.batch
        ):
            continue
        if len(x.shape) < 3 or wanted * size(rest) != size(given[1:]):
            return
        shape = (wanted, *rest)
        code = f"{{x}}.view(-1, {', '.join(map(str, shape))})"
        edit = replace(
            _reshaping(case, call, lambda t, _rest, shape=shape: t.reshape(-1, *shape), code, code),  # type: ignore[misc]
            module=case.module_above(call.parent),
        )
        yield Suspicion(
            diagnosis="batch-merge-view",
            module=edit.module,
            message=f"{case.name_of(call)} does not keep one row for each sample: {given} became {x.shape}",
            arithmetic=f"{product(shape)} elements a sample, where {x.shape[1:]} takes {size(x.shape[1:])}",
            candidates=(candidate(edit, weight=STRONG),),
            weight=STRONG,
            needs_proof=True,
        )
        return


def _map_view(case: Case, call: ModuleCall, x: TensorInfo, sizes: tuple[int, ...]) -> Suspicion:
    wanted = math.prod(n for n in sizes[1:] if n != -1)
    candidates: list[Candidate] = []
    for _, row in case.lineage(x):
        if row.fqn is not None and isinstance(case.modules.get(row.fqn), nn.Linear):
            candidates.append(candidate(configured(case, row.fqn, out_features=wanted)))
            break
        if (
            row.fqn is not None
            and isinstance(case.modules.get(row.fqn), nn.modules.conv._ConvNd)
            and len(row.outputs[0].shape) > 2
        ):
            places = size(row.outputs[0].shape[2:])
            if (
                sizes[-(len(row.outputs[0].shape) - 2) :] == row.outputs[0].shape[2:]
                and wanted % places == 0
            ):
                candidates.append(
                    candidate(configured(case, row.fqn, out_channels=wanted // places))
                )
            break
    fixed = sizes[0] not in (-1, x.shape[0]) and wanted == size(x.shape[1:])
    if sizes[0] != -1:
        rest = sizes[1:]
        edit = _reshaping(
            case,
            call,
            lambda t, _rest: t.reshape(-1, *rest),
            "{x}.view(-1, " + ", ".join(map(str, rest)) + ")",
        )
        candidates.append(candidate(edit, weight=STRONG if fixed else POSSIBLE))
    return Suspicion(
        diagnosis="batch-merge-view" if fixed else "shape-mismatch",
        module=case.owner,
        message=f"{operation(call)}{sizes} in {named(case, case.owner)} asks for {wanted} elements a sample, and {x.shape} has {size(x.shape[1:])}",
        arithmetic=f"{product(sizes[1:])}, arrived {x.shape} from {case.origin(x)}",
        candidates=tuple(candidates),
        weight=USUAL,
    )
