"""Tensors that were made for a batch of another size: `torch.zeros(1, 32, 20)`."""

from collections.abc import Callable, Iterable
from typing import Any

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.calls import RewriteCall, rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo


def find_maker(crash: Crash, info: TensorInfo, wrong: int) -> ModuleCall | None:
    """The call on a tensor's way that was told the wrong batch size, which is kept since."""
    for _, call in crash.walk_back(info):
        if not call.outputs or wrong not in call.outputs[0].shape:
            return None
        operation = find(call)
        is_maker = operation is not None and operation.effect in ("makes", "expands")
        if is_maker and any(type(n) is int and n == wrong for n in call.arguments.values()):
            return call
    return None


def correct_batches(
    crash: Crash, tensors: Iterable[TensorInfo], wrong: int, right: int
) -> tuple[Edit, ...]:
    """The edits that make these tensors for the batch that arrives.

    There are none where it is not known who made one of them.
    """
    found = [find_maker(crash, info, wrong) for info in tensors]
    makers = {(call.kind, call.source): call for call in found if call is not None}
    if None in found:
        return ()
    return tuple(_correct_batch(crash, call, wrong, right) for call in makers.values())


def _correct_batch(crash: Crash, call: ModuleCall, wrong: int, right: int) -> RewriteCall:
    def correct(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(map(correct, value))
        return right if type(value) is int and value == wrong else value

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*map(correct, args), **{name: correct(value) for name, value in kwargs.items()})

    title = f"use x.size(0) instead of {wrong} at {{place}}"
    return rewrite_call(crash, call, rewrite, title=title, code="x.size(0)")
