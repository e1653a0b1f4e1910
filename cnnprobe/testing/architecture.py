"""Assertions about what a model is: its modules, shapes, parameters, cost and memory."""

import difflib
from collections.abc import Mapping, Sequence

from torch import nn

from cnnprobe.errors import UsageError
from cnnprobe.recorder.inventory import class_of, named_modules, take_inventory
from cnnprobe.testing.failures import Inputs, fail, matching, observed
from cnnprobe.testing.symbols import Dimension, Symbols
from cnnprobe.totals import total
from cnnprobe.trace import ParameterInfo, Trace

_WRAPPERS = ("_orig_mod.", "module.")  # torch.compile's, and that of DataParallel and DistributedDataParallel
_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def assert_parameters(model: nn.Module, *, total: int | None = None, trainable: int | None = None, at_most: int | None = None) -> None:
    """Fail unless the model has this many parameters (elements; tied ones once), in total, trainable, or at most.

    Raises:
        AssertionError: with the modules that hold most of them.
        UsageError: nothing to compare with was given.

    >>> assert_parameters(nn.Linear(3, 2), total=8, trainable=8)
    """
    __tracebackhide__ = True
    if total is None and trainable is None and at_most is None:
        raise UsageError("nothing to compare with", where="assert_parameters(model)", fix="give total=, trainable= or at_most=")
    parameters = [p for p in take_inventory(named_modules(model))[1] if p.kind == "parameter"]
    count = sum(p.numel for p in parameters)
    free = sum(p.numel for p in parameters if p.trainable)
    problems = []
    if total is not None and count != total:
        problems.append(f"{count:,} parameters, expected {total:,} ({count - total:+,})")
    if trainable is not None and free != trainable:
        problems.append(f"{free:,} trainable parameters, expected {trainable:,} ({free - trainable:+,})")
    if at_most is not None and count > at_most:
        problems.append(f"{count:,} parameters, at most {at_most:,} allowed")
    if problems:
        fail(
            f"{class_of(model).__name__} has " + "; ".join(problems),
            where=f"most are in {_largest(parameters)}",
            fix="compare the layers' sizes with what you meant, or update the number",
        )


def _largest(parameters: Sequence[ParameterInfo]) -> str:
    ranked = sorted(parameters, key=lambda p: -p.numel)[:3]
    return (
        ", ".join(f"'{p.fqn}' {p.shape} = {p.numel:,}{'' if p.trainable else ' (frozen)'}" for p in ranked) or "no module: there are none"
    )


def assert_macs(model: nn.Module, inputs: Inputs, *, total: int | None = None, at_most: int | None = None) -> None:
    """Fail unless a forward pass takes this many multiply-accumulates (convolutions and matrix products; no biases, batch as given).

    >>> import torch
    >>> assert_macs(nn.Linear(3, 2), torch.ones(4, 3), total=24)
    """
    __tracebackhide__ = True
    if total is None and at_most is None:
        raise UsageError("nothing to compare with", where="assert_macs(model, inputs)", fix="give total= or at_most=")
    trace = observed(model, inputs).trace
    macs = sum(call.macs or 0 for call in trace.calls)
    wrong = (total is not None and macs != total) or (at_most is not None and macs > at_most)
    if wrong:
        ranked = sorted((call for call in trace.calls if call.macs), key=lambda call: -(call.macs or 0))[:3]
        most = ", ".join(f"'{call.fqn or call.kind}' {call.macs:,}" for call in ranked)
        bound = f"expected {total:,} ({macs - total:+,})" if total is not None else f"at most {at_most:,} allowed"
        fail(
            f"{trace.model} takes {macs:,} multiply-accumulates, {bound}",
            where=f"most are in {most or 'no layer'}",
            fix="compare channels, kernels and strides with what you meant",
        )


def assert_memory(model: nn.Module, inputs: Inputs, *, at_most: int | str) -> None:
    """Fail if parameters, buffers and the outputs of all operations of a forward pass take more bytes than `at_most`.

    Args:
        model: the model.
        inputs: what it is called with.
        at_most: bytes, or text such as "40 MiB".
    """
    __tracebackhide__ = True
    bound = _bytes(at_most)
    trace = observed(model, inputs).trace
    sums = total(trace)
    kept = sum(p.nbytes for p in trace.parameters)
    if kept + sums.activation_bytes > bound:
        fail(
            f"{trace.model} takes {kept + sums.activation_bytes:,} bytes, at most {bound:,} allowed",
            where=f"{kept:,} in parameters and buffers, {sums.activation_bytes:,} in the outputs of all operations",
            fix="use a smaller batch, fewer channels or an earlier pooling",
        )


def _bytes(amount: int | str) -> int:
    if isinstance(amount, int):
        return amount
    number, _, unit = amount.strip().partition(" ")
    try:
        return int(float(number) * _UNITS[unit.strip() or "B"])
    except (ValueError, KeyError) as error:
        raise UsageError(
            f"{amount!r} is no amount of memory", where="at_most", fix=f"give bytes, or a number and a unit: {', '.join(_UNITS)}"
        ) from error


def assert_shapes(model: nn.Module, inputs: Inputs, expected: Mapping[str, Sequence[Dimension] | str]) -> None:
    """Fail unless each named module puts out the shape that is expected of it.

    Args:
        model: the model; it is run once, neutrally.
        inputs: what it is called with.
        expected: from glob patterns of fqns ("" is the model itself) to shapes. A dimension is a number, a name that is bound at its
            first use ("N"), arithmetic of such names ("H/4"), or None for any. A shape may be one string: "N 64 H/4 W/4".

    Raises:
        AssertionError: all shapes that differ, with what the names are bound to.
        UsageError: a pattern matches no module that was called.

    >>> import torch
    >>> assert_shapes(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1)), torch.ones(2, 3, 8, 8), {"0": ("N", 8, "H/2", "H/2")})
    """
    __tracebackhide__ = True
    trace = observed(model, inputs).trace
    symbols = Symbols()
    _bind_inputs(trace, expected, symbols)
    called = list(dict.fromkeys(call.fqn for call in trace.calls if call.fqn is not None))
    problems = []
    for pattern, shape in expected.items():
        wanted = tuple(shape.split()) if isinstance(shape, str) else tuple(shape)
        for name in [fqn for fqn in called if fqn in matching(called, [pattern], what="called module")]:
            for call in trace.calls_of(name):
                actual = call.outputs[0].shape if call.outputs else ()
                reason = symbols.mismatch(wanted, actual)
                if reason:
                    problems.append(f"'{name}' ({call.kind}) gives {actual}, expected {_spell(wanted)} by {pattern!r}: {reason}")
    if problems:
        fail(
            f"{len(problems)} shape{'s differ' if len(problems) > 1 else ' differs'}",
            details=problems,
            where=f"{trace.model}, {symbols.bindings() or 'no names bound'}",
            fix="correct the first one first: later layers only follow",
        )


def _bind_inputs(trace: Trace, expected: Mapping[str, Sequence[Dimension] | str], symbols: Symbols) -> None:
    """N, C, H, W (or N, C, L; N, C, D, H, W) mean the input's axes, where the caller uses these names."""
    names = {3: "N C L", 4: "N C H W", 5: "N C D H W"}
    shape = trace.calls[0].inputs[0].shape if trace.calls and trace.calls[0].inputs else ()
    used = " ".join(str(d) for dims in expected.values() for d in (dims.split() if isinstance(dims, str) else dims))
    for name, size in zip(names.get(len(shape), "N").split(), shape, strict=False):
        if name in used:
            symbols.bind(name, size)


def _spell(shape: Sequence[Dimension]) -> str:
    return "(" + ", ".join("any" if d is None else str(d) for d in shape) + ("," if len(shape) == 1 else "") + ")"


def architecture_text(model: nn.Module, inputs: Inputs | None = None) -> str:
    """One layer a line: name, kind and configuration, own parameters, and with `inputs` the shapes that it puts out.

    Meant to be kept beside the tests: a change of it in review reads as a change of the architecture.

    >>> print(architecture_text(nn.Sequential(nn.Linear(3, 2), nn.ReLU())), end="")
    (model)  Sequential()  0
    0  Linear(in_features=3, out_features=2, bias=True)  8
    1  ReLU()  0
    """
    shapes: dict[str, str] = {}
    if inputs is not None:
        for call in observed(model, inputs).trace.calls:
            if call.fqn is not None and call.index == 0:
                shapes[call.fqn] = "  -> " + (", ".join(str(t.shape) for t in call.outputs) or call.returned)
    own = {p.fqn: p for p in take_inventory(named_modules(model))[1]}
    lines = []
    for fqn, module, first in named_modules(model):
        name = _stripped(fqn) or "(model)"
        if not first:
            lines.append(f"{name}  shared")
            continue
        prefix = fqn + "." if fqn else ""
        count = sum(own[prefix + n].numel for n, t in module._parameters.items() if t is not None and prefix + n in own)
        lines.append(
            f"{name}  {class_of(module).__name__}({_configuration(module)})  {count}{'' if _is_free(module) else ' frozen'}{shapes.get(fqn, '')}"
        )
    return "\n".join(lines) + "\n"


def _configuration(module: nn.Module) -> str:
    """Torch's own description of a layer, on one line."""
    try:
        return " ".join(module.extra_repr().split())
    except Exception:  # a user's extra_repr may fail before the first forward
        return "?"


def _is_free(module: nn.Module) -> bool:
    parameters = [p for p in module._parameters.values() if p is not None]
    return not parameters or any(p.requires_grad for p in parameters)


def _stripped(fqn: str) -> str:
    for wrapper in _WRAPPERS:
        fqn = fqn.removeprefix(wrapper)
    return "" if fqn in ("module", "_orig_mod") else fqn


def assert_same_architecture(
    actual: nn.Module, expected: nn.Module, *, ignore: Sequence[str] = (), rename: Mapping[str, str] | None = None
) -> None:
    """Fail unless both models have the same modules in the same order: names, kinds, configuration, parameters, sharing. Values may differ.

    Args:
        actual: a model; wrappers of torch.compile and data parallelism are seen through.
        expected: the model that it should be like.
        ignore: glob patterns of fqns to leave out, in both.
        rename: from prefixes of names in `actual` to those in `expected`.
    """
    __tracebackhide__ = True
    ours, theirs = _lines(actual, ignore, rename or {}), _lines(expected, ignore, {})
    if ours == theirs:
        return
    details = [line for line in difflib.unified_diff(theirs, ours, "expected", "actual", n=1, lineterm="") if not line.startswith("@@")]
    differing = sum(line[0] in "+-" and line[:3] not in ("+++", "---") for line in details)
    fail(
        f"the architectures differ in {differing} lines (- expected, + actual)",
        details=details,
        where=f"{class_of(actual).__name__} against {class_of(expected).__name__}",
        fix="correct the layer of the first difference, or name it in ignore= or rename=",
    )


def _lines(model: nn.Module, ignore: Sequence[str], rename: Mapping[str, str]) -> list[str]:
    lines = architecture_text(model).splitlines()
    if lines and len(lines) > 1 and _is_wrapper(model):
        lines = lines[1:]
    lines[0] = "(model)  " + lines[0].split("  ", 1)[1]
    names = [line.split("  ", 1)[0] for line in lines]
    left_out = matching(names, ignore, what="module") if ignore else set()
    renamed = [_renamed(line, rename) for line, name in zip(lines, names, strict=True) if name not in left_out]
    return [line if not line.startswith("(model)") else "(model)" + line[line.rindex("  ") :] for line in renamed]


def _is_wrapper(model: nn.Module) -> bool:
    return list(model._modules) in (["_orig_mod"], ["module"])


def _renamed(line: str, rename: Mapping[str, str]) -> str:
    for old, new in rename.items():
        if line.startswith((f"{old}.", f"{old}  ")):
            return new + line[len(old) :]
    return line
