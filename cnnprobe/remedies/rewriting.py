"""Runs something else in the place of a function that the user's code calls on a known line."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from cnnprobe.recorder import sources
from cnnprobe.recorder.functions import operation_of

# Gets the function, its positional and its keyword arguments.
Rewriting = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


class Rewriter(TorchFunctionMode):
    """Hands chosen calls, by kind and line ("": any line), to what is to stand there instead."""

    def __init__(self, rewrites: Iterable[tuple[str, str, Rewriting]]) -> None:
        super().__init__()
        self._rewrites = tuple(rewrites)

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the call, or what is to stand in its place."""
        if is_dynamo_compiling():  # for torch.cond, which traces modes too
            return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        kind = operation_of(func).kind
        wanted = [(line, how) for name, line, how in self._rewrites if name == kind]
        if wanted:
            here = sources.of_function_call(sys._getframe(1), None)
            for line, how in wanted:
                if line in ("", here):
                    return how(func, args, kwargs)
        return func(*args, **kwargs)
