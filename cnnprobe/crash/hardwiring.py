"""A tensor that was made for a batch of another size: `torch.zeros(1, 32, 20)`, `token.expand(32, -1, -1)`."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.words import operation, shorten
from cnnprobe.trace import ModuleCall, TensorInfo

_MAKING = frozenset(
    {
        "zeros",
        "ones",
        "randn",
        "rand",
        "full",
        "empty",
        "expand",
        "repeat",
        "tile",
        "broadcast_to",
        "new_zeros",
        "new_ones",
    }
)


def makers(crash: Crash, info: TensorInfo, wrong: int) -> Iterator[ModuleCall]:
    """The call on a tensor's way that was told the wrong batch as a plain number."""
    for _, call in crash.walk_back(info):
        if call.fqn is not None:
            return
        if operation(call) in _MAKING and wrong in call.arguments.values():
            yield call
            return


def corrected(
    crash: Crash, tensors: Iterable[TensorInfo], wrong: int, right: int
) -> tuple[Edit, ...]:
    """The edits that make these tensors for the batch that arrives; none where it is not known who made one of them."""
    edits: list[Edit] = []
    for info in tensors:
        call = next(makers(crash, info, wrong), None)
        if call is None:
            return ()
        if not any(
            isinstance(e, Rewrite) and (e.kind, e.source) == (call.kind, call.source) for e in edits
        ):
            edits.append(_for_batch(crash, call, wrong, right))
    return tuple(edits)


def _for_batch(crash: Crash, call: ModuleCall, wrong: int, right: int) -> Rewrite:
    def corrected_size(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(right if v == wrong else v for v in value)
        return right if type(value) is int and value == wrong else value

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(
            *map(corrected_size, args),
            **{name: corrected_size(value) for name, value in kwargs.items()},
        )

    return Rewrite(
        title=f"use x.size(0) instead of {wrong} at {shorten(call.source)}",
        code="x.size(0)",
        module=crash.find_module_above(call.parent),
        kind=call.kind,
        source=call.source,
        function=rewritten,
    )
