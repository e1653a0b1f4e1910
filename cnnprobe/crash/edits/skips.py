"""Skips that are handed to a decoder."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import check_names, find_call
from cnnprobe.crash.facts.channels import EXPECTING
from cnnprobe.crash.facts.skips import find_variable
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder.values import argument_leaves
from cnnprobe.records.trace import ModuleCall, TensorInfo


@dataclass(frozen=True, kw_only=True)
class TakeSkips(Edit):
    """Keep some outputs, and concatenate them where a layer lacks just their channels.

    Or, where `cats` names a function, put them in the place of other skips that do not fit there.
    """

    skips: tuple[tuple[TensorInfo, ModuleCall | None], ...]  # with their calls; None: an input
    layers: tuple[str, ...] = ()
    cats: str = ""

    def apply(self, twin: ModelCopy) -> None:
        kept: list[Tensor] = []
        for info, call in self.skips:
            _keep(twin, info, call, kept)
        for fqn in self.layers:
            join = _join_with(kept)
            twin.undo.append(twin.module(fqn).register_forward_pre_hook(join, prepend=True).remove)
        if self.cats:
            twin.rewrite(self.cats, "", _exchange_with(kept))


def _keep(twin: ModelCopy, info: TensorInfo, call: ModuleCall | None, kept: list[Tensor]) -> None:
    """Keep the first output of a call that has the shape of `info`."""

    def keep(output: Any) -> Any:
        is_known = info.shape in [tuple(t.shape) for t in kept]
        if isinstance(output, Tensor) and tuple(output.shape) == info.shape and not is_known:
            kept.append(output)
        return output

    if call is None:
        given: dict[str, Any] = dict(argument_leaves(twin.args, twin.kwargs))
        kept.append(given[info.path])
    elif call.fqn is not None:
        module = twin.module(call.fqn)
        twin.undo.append(module.register_forward_hook(lambda _m, _a, output: keep(output)).remove)
    else:
        twin.rewrite(call.kind, call.source, lambda f, args, kwargs: keep(f(*args, **kwargs)))


def _join_with(kept: list[Tensor]) -> Callable[..., Any]:
    def join(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        x: Any = args[0] if args else None
        expected = next((n for s in EXPECTING if (n := getattr(module, s, None))), 0)
        for skip in kept if isinstance(x, Tensor) and x.dim() > 1 else ():
            shape = (x.shape[0], expected - x.shape[1], *x.shape[2:])
            if tuple(skip.shape) == shape:
                return torch.cat([x, skip], dim=1), *args[1:]
        return None

    return join


def _exchange_with(kept: list[Tensor]) -> Callable[..., Any]:
    def exchange(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parts = list(args[0]) if args and isinstance(args[0], list | tuple) else []
        is_skip = [any(part is skip for skip in kept) for part in parts]
        sizes = [p.shape[2:] for p, is_it in zip(parts, is_skip, strict=True) if not is_it]
        fitting = [skip for skip in kept if skip.shape[2:] == sizes[0]] if sizes else []
        if not fitting or not any(is_skip):
            return func(*args, **kwargs)
        changed = [fitting[0] if is_it else p for p, is_it in zip(parts, is_skip, strict=True)]
        return func(changed, *args[1:], **kwargs)

    return exchange


def read_given(crash: Crash, place: str) -> str:
    """What stands as the first argument where a module is called; "x" where that is not known."""
    try:
        _, file, call = find_call(crash, place)
        return file.source(call.args[0])
    except (UnknownPlaceError, IndexError):
        return "x"


def write_concatenation(
    crash: Crash, place: str, skip: TensorInfo
) -> Callable[[], list[TextChange]]:
    """torch.cat with a skip in the call of a module, where the skip has a name there."""

    def write() -> list[TextChange]:
        owner, file, call = find_call(crash, place)
        name = find_variable(crash, skip, f"{file.path}:{call.lineno}")
        if not name:
            raise UnknownPlaceError
        check_names(crash, owner, "torch.cat")
        given = call.args[0]
        return [file.replace(given, f"torch.cat([{file.source(given)}, {name}], dim=1)")]

    return write
