"""Assertions about what a model is: its modules, shapes, parameters, cost and memory."""

import difflib
from collections.abc import Mapping, Sequence

from torch import nn

from cnnprobe.errors import UsageError, suggest
from cnnprobe.recorder.inventory import class_of, named_modules, take_inventory
from cnnprobe.records.totals import add_up
from cnnprobe.records.trace import ParameterInfo, Trace
from cnnprobe.records.words import format_counted
from cnnprobe.testing.failures import Inputs, fail, match_names, observe_model
from cnnprobe.testing.listing import ROOT, ListedLayer, list_layers, unwrap
from cnnprobe.testing.symbols import Shape, Symbols, list_names, parse_shape, spell

_AXES = {
    2: "N C",
    3: "N C L",
    4: "N C H W",
    5: "N C D H W",
}  # what the axes of an input are called, by their number
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def assert_parameters(
    model: nn.Module,
    *,
    total: int | None = None,
    trainable: int | None = None,
    at_most: int | None = None,
) -> None:
    """Fail unless the model has this many parameters (elements; tied ones once), in total,
    trainable, or at most.

    Raises:
        AssertionError: with the modules that hold most of them.
        UsageError: nothing to compare with was given.

    >>> assert_parameters(nn.Linear(3, 2), total=8, trainable=8)
    """
    __tracebackhide__ = True
    if total is None and trainable is None and at_most is None:
        raise UsageError(
            "nothing to compare with",
            where="assert_parameters(model)",
            fix="give total=, trainable= or at_most=",
        )
    parameters = [p for p in take_inventory(named_modules(model))[1] if p.kind == "parameter"]
    count = sum(p.numel for p in parameters)
    free = sum(p.numel for p in parameters if p.trainable)
    problems = []
    if total is not None and count != total:
        problems.append(f"{count:,} parameters, expected {total:,} ({count - total:+,})")
    if trainable is not None and free != trainable:
        problems.append(
            f"{free:,} trainable parameters, expected {trainable:,} ({free - trainable:+,})"
        )
    if at_most is not None and count > at_most:
        problems.append(f"{count:,} parameters, at most {at_most:,} allowed")
    if problems:
        fail(
            f"{class_of(model).__name__} has " + "; ".join(problems),
            where=f"most are in {_list_largest(parameters)}",
            fix="compare the layers' sizes with what you meant, or update the number",
        )


def _list_largest(parameters: Sequence[ParameterInfo]) -> str:
    ranked = sorted(parameters, key=lambda p: -p.numel)[:3]
    return (
        ", ".join(
            f"'{p.fqn}' {p.shape} = {p.numel:,}{'' if p.trainable else ' (frozen)'}" for p in ranked
        )
        or "no module: there are none"
    )


def assert_macs(
    model: nn.Module, inputs: Inputs, *, total: int | None = None, at_most: int | None = None
) -> None:
    """Fail unless a forward pass takes this many multiply-accumulates (convolutions and matrix
    products; no biases, batch as given).

    >>> import torch
    >>> assert_macs(nn.Linear(3, 2), torch.ones(4, 3), total=24)
    """
    __tracebackhide__ = True
    if total is None and at_most is None:
        raise UsageError(
            "nothing to compare with",
            where="assert_macs(model, inputs)",
            fix="give total= or at_most=",
        )
    trace = observe_model(model, inputs).trace
    macs = sum(call.macs or 0 for call in trace.calls)
    problems = []
    if total is not None and macs != total:
        problems.append(f"expected {total:,} ({macs - total:+,})")
    if at_most is not None and macs > at_most:
        problems.append(f"at most {at_most:,} allowed")
    if problems:
        ranked = sorted(
            (call for call in trace.calls if call.macs), key=lambda call: -(call.macs or 0)
        )[:3]
        most = ", ".join(f"'{call.fqn or call.kind}' {call.macs:,}" for call in ranked)
        fail(
            f"{trace.model} takes {macs:,} multiply-accumulates, {'; '.join(problems)}",
            where=f"most are in {most or 'no layer'}",
            fix="compare channels, kernels and strides with what you meant",
        )


def assert_memory(model: nn.Module, inputs: Inputs, *, at_most: int | str) -> None:
    """Fail if parameters, buffers and the outputs of all operations of a forward pass take more
    bytes than `at_most`.

    Args:
        model: the model.
        inputs: what it is called with.
        at_most: bytes, or text such as "40 MiB".
    """
    __tracebackhide__ = True
    bound = _parse_bytes(at_most)
    trace = observe_model(model, inputs).trace
    sums = add_up(trace)
    kept = sum(p.nbytes for p in trace.parameters)
    if kept + sums.activation_bytes > bound:
        fail(
            (
                f"{trace.model} takes {kept + sums.activation_bytes:,} bytes, at most {bound:,} "
                "allowed"
            ),
            where=(
                f"{kept:,} in parameters and buffers, {sums.activation_bytes:,} in the outputs of "
                "all operations"
            ),
            fix="use a smaller batch, fewer channels or an earlier pooling",
        )


def _parse_bytes(amount: int | str) -> int:
    if isinstance(amount, int):
        return amount
    number, _, unit = amount.strip().partition(" ")
    try:
        return int(float(number) * _UNITS[unit.strip() or "B"])
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{amount!r} is not an amount of memory",
            where="at_most",
            fix=f"give bytes, or a number and a unit: {', '.join(_UNITS)}",
        ) from error


def assert_shapes(model: nn.Module, inputs: Inputs, expected: Mapping[str, Shape]) -> None:
    """Fail unless each named module puts out the shape that is expected of it, in each of its
    calls.

    Args:
        model: the model; it is run once, neutrally.
        inputs: what it is called with.
        expected: from glob patterns of fqns ("" is the model itself) to shapes. A dimension is a
            number, a name, arithmetic of names ("H/4", rounded down), or None for any; "..." stands
            for any number of dimensions, `"*rest"` for so many under one name. N (or B), C, H, W
            are the axes of the first input (N, C, L of three axes, N, C, D, H, W of five); any
            other name is bound where it is met first. A shape may be one string, as jaxtyping
            writes it: "N 64 H/4 W/4". A list of shapes is for a module with several outputs.

    Raises:
        AssertionError: all shapes that differ, with what the names are bound to.
        UsageError: a pattern matches no module that was called, or a dimension cannot be read.

    >>> import torch
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Flatten())
    >>> assert_shapes(net, torch.ones(2, 3, 8, 8), {"0": ("N", 8, "H/2", "W/2"), "": "N 8*(H/2)*(W/2)"})
    """  # noqa: E501
    __tracebackhide__ = True
    trace = observe_model(model, inputs).trace
    shapes = {pattern: parse_shape(shape) for pattern, shape in expected.items()}
    symbols = Symbols()
    _bind_inputs(trace, list_names(shapes.values()), symbols)
    called = list(dict.fromkeys(call.fqn for call in trace.calls if call.fqn is not None))
    problems = []
    for pattern, wanted in shapes.items():
        hits = match_names(called, [pattern], what="called module")
        for name in (fqn for fqn in called if fqn in hits):
            for call in trace.calls_of(name):
                outputs = [out.shape for out in call.outputs]
                reason = symbols.mismatches(wanted, outputs)
                if reason:
                    given = ", ".join(map(str, outputs)) or f"no tensor but {call.returned}"
                    place = f"'{name}'" if name else "the model"
                    problems.append(
                        f"{place} ({call.kind}) gives {given}, expected {spell(wanted)} by "
                        f"{pattern!r}: {reason}"
                    )
    if problems:
        fail(
            (
                f"{format_counted(len(problems), 'shape')} "
                f"{'differ' if len(problems) > 1 else 'differs'}"
            ),
            details=problems,
            where=f"{trace.model}, {symbols.bindings() or 'no names bound'}",
            fix="fix the first one first: differences in later layers often follow from it",
        )


def _bind_inputs(trace: Trace, used: set[str], symbols: Symbols) -> None:
    """The axes of the first input, under the names that the caller uses for them."""
    shape = trace.calls[0].inputs[0].shape if trace.calls and trace.calls[0].inputs else ()
    for name, size in zip(_AXES.get(len(shape), "N").split(), shape, strict=False):
        for spelling in (name, "B") if name == "N" else (name,):
            if spelling in used:
                symbols.bind(spelling, size)


def assert_same_architecture(
    actual: nn.Module,
    expected: nn.Module,
    *,
    ignore: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> None:
    """Fail unless both models have the same layers in the same order: names, kinds, configuration,
    parameters, sharing. Values may differ.

    The class of the model itself and its plain attributes may differ too. Wrappers of torch.compile
    and data parallelism are seen through.

    Args:
        actual: a model.
        expected: the model that it should be like.
        ignore: glob patterns of fqns to leave out, in both.
        rename: from names, or their first parts, in `actual` to those in `expected`.

    Raises:
        AssertionError: with every line that differs.
        UsageError: a pattern or a name to rename is in no model.

    >>> assert_same_architecture(nn.Sequential(nn.Linear(3, 2)), nn.ModuleDict({"fc": nn.Linear(3, 2)}), rename={"0": "fc"})
    """  # noqa: E501
    __tracebackhide__ = True
    names = rename or {}
    ours, theirs = (
        list_layers(actual, naming=lambda name: _rename(name, names)),
        list_layers(expected),
    )
    _check_renaming(actual, names)
    left_out = (
        match_names([layer.name for layer in (*ours, *theirs)], ignore, what="module")
        if ignore
        else set()
    )
    ours_text, theirs_text = (
        [_write_line(layer) for layer in layers if layer.name not in left_out]
        for layers in (ours, theirs)
    )
    details = [
        line
        for line in difflib.unified_diff(theirs_text, ours_text, n=1, lineterm="")
        if line[:3] not in ("---", "+++", "@@ ")
    ]
    if not details:
        return
    differing = sum(line[0] in "+-" for line in details)
    fail(
        f"the architectures differ in {format_counted(differing, 'line')} (- expected, + actual)",
        details=details,
        where=f"{class_of(unwrap(actual)).__name__} against {class_of(unwrap(expected)).__name__}",
        fix="correct the layer of the first difference, or name it in ignore= or rename=",
    )


def _write_line(layer: ListedLayer) -> str:
    return f"{ROOT}  {layer.weights}" if layer.name == ROOT else str(layer)


def _rename(name: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def _check_renaming(model: nn.Module, rename: Mapping[str, str]) -> None:
    names = [layer.name for layer in list_layers(model)]
    for old in rename:
        if not any(_rename(name, {old: ""}) != name for name in names):
            raise UsageError(
                f"no module named {old!r} to rename",
                where=class_of(model).__name__,
                fix=suggest(old, names),
            )
