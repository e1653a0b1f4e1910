"""An axis or an index that a tensor does not have."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure, resize_input
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.facts.windows import LARGEST_INPUT, apply_windows, list_steps
from cnnprobe.crash.facts.words import get_argument, operation, shorten
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import ModuleCall, TensorInfo

# Functions whose second argument is an axis.
_BY_AXIS = frozenset({
    "softmax", "log_softmax", "mean", "sum", "max", "min", "argmax", "argmin", "squeeze", "unsqueeze", "select", "cumsum", "std", "var", "norm",
    "chunk", "split", "unbind", "softmin", "logsumexp", "amax", "amin", "prod", "flatten", "glu", "normalize",
})  # fmt: skip


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where an axis or an index is out of range."""
    call = crash.call
    if call is None or not call.inputs:
        return
    if operation(call) == "__getitem__":
        yield from _index(crash, call)
    elif operation(call) == "permute":
        yield from _unsqueezed(crash, call)
    else:
        yield from _axis(crash, call)


def _axis(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    x = call.inputs[0]
    dim = getattr(crash.leaf, "dim", None) if crash.leaf is not None else _given_axis(call)
    room = len(x.shape) + (operation(call) == "unsqueeze")
    if not isinstance(dim, int) or isinstance(dim, bool) or -room <= dim < room:
        return
    blamed = call.fqn if call.fqn is not None else crash.owner
    edit = configure(crash, call.fqn, dim=-1) if call.fqn is not None else _last_axis(crash, call)
    yield Suspect(
        diagnosis="shape-mismatch",
        module=blamed,
        message=f"{crash.describe_call(call)} works on axis {dim}, which {x.shape} does not have",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)} has the axes 0 to {len(x.shape) - 1}",
        candidates=(propose(edit, weight=USUAL),),
        weight=USUAL,
    )


def _unsqueezed(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    """permute() of one axis too few, because a squeeze before it found no axis of one element: the height of a text line, say."""
    x = call.inputs[0]
    given = [v for path, v in call.arguments.items() if path != "[0]"]
    named_axes = sum(
        len(v) if isinstance(v, tuple) else 1 for v in given if isinstance(v, int | tuple)
    )
    squeeze = next(
        (
            c
            for _, c in crash.walk_back(x)
            if operation(c) == "squeeze" and c.outputs and c.outputs[0].shape == x.shape
        ),
        None,
    )
    axis = get_argument(squeeze, 1, "dim") if squeeze is not None else None
    if (
        squeeze is None
        or not isinstance(axis, int)
        or named_axes != len(x.shape) - 1
        or not -len(x.shape) <= axis < len(x.shape)
    ):
        return
    axis %= len(x.shape)
    code = f"{{x}}.mean({axis})"
    owner = crash.find_module_above(squeeze.parent)
    mean = Rewrite(
        title=f"use {code.format(x='x')} instead of squeeze at {shorten(squeeze.source)}",
        code=code,
        module=owner,
        kind=squeeze.kind,
        source=squeeze.source,
        function=lambda _func, args, _kwargs: args[0].mean(axis),
        respell=code,
    )
    yield Suspect(
        diagnosis="shape-mismatch",
        module=owner,
        message=f"squeeze({axis}) at {shorten(squeeze.source)} drops nothing, as axis {axis} of {x.shape} has {x.shape[axis]} elements and not one; "
        f"the permute after it is for {named_axes} axes",
        arithmetic=f"{x.shape} from {crash.describe_origin(squeeze.inputs[0])}",
        candidates=(*_flat_along(crash, squeeze.inputs[0], axis), propose(mean, weight=USUAL)),
        weight=STRONG,
    )


def _flat_along(crash: Crash, x: TensorInfo, axis: int) -> Iterator[Candidate]:
    """The input for which the map has one element on an axis: of the sizes that do, the one that halves most often."""
    steps = [s for s in list_steps(crash, x) if s.window is not None]
    if (
        axis < 2
        or not steps
        or not crash.root_inputs
        or steps[0].before != crash.root_inputs[0].shape[2:]
    ):
        return
    before = steps[0].before
    fitting = [
        n
        for n in range(1, LARGEST_INPUT)
        if apply_windows([s.window for s in steps], _with(before, axis - 2, n))[axis - 2] == 1
    ]
    if fitting:
        best = max(fitting, key=lambda n: (n & -n, -n))
        yield propose(resize_input(_with(before, axis - 2, best), exact=True), weight=STRONG)


def _with(sizes: tuple[int, ...], position: int, value: int) -> tuple[int, ...]:
    return (*sizes[:position], value, *sizes[position + 1 :])


def _given_axis(call: ModuleCall) -> object:
    if "dim" in call.arguments:
        return call.arguments["dim"]
    return get_argument(call, 1, "dim") if operation(call) in _BY_AXIS else None


def _last_axis(crash: Crash, call: ModuleCall) -> Rewrite:
    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "dim" in kwargs:
            return func(*args, **{**kwargs, "dim": -1})
        return func(args[0], -1, *args[2:], **kwargs)

    title = f"use the last axis at {shorten(call.source)}: dim=-1"
    where: dict[str, Any] = {"module": crash.owner, "kind": call.kind, "source": call.source}
    return Rewrite(title=title, code="dim=-1", function=rewritten, keyword=("dim", -1, 1), **where)


def _index(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    x = call.inputs[0]
    for axis, index in _indices(call):
        if axis < len(x.shape) and not -x.shape[axis] <= index < x.shape[axis]:
            yield _out_of_range(crash, call, x, axis=axis, index=index)
            return


def _indices(call: ModuleCall) -> Iterator[tuple[int, int]]:
    """The plain whole numbers of an index, with their axes; nothing where `...`, None or a tensor shifts the axes."""
    value = get_argument(call, 1, "index")
    if isinstance(value, int) and not isinstance(value, bool):
        yield 0, value
    elif (
        isinstance(value, tuple)
        and len(call.inputs) == 1
        and not any(part is None or part == "Ellipsis" for part in value)
    ):
        yield from (
            (axis, part)
            for axis, part in enumerate(value)
            if isinstance(part, int) and not isinstance(part, bool)
        )


def _out_of_range(
    crash: Crash, call: ModuleCall, x: TensorInfo, *, axis: int, index: int
) -> Suspect:
    return Suspect(
        diagnosis="index-range",
        module=crash.owner,
        message=f"index {index} on axis {axis} of {x.shape} in {describe_module(crash, crash.owner)}: it has {x.shape[axis]}, so that 0 to {x.shape[axis] - 1} are legal",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}, at {shorten(call.source)}",
        weight=STRONG,
    )
