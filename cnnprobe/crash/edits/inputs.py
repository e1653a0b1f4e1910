"""Other arguments of the model."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map, tree_map_only

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder.values import argument_leaves


@dataclass(frozen=True, kw_only=True)
class ChangeInput(Edit):
    """Pass the tensors that the model is given through a function (`only_first`: the first one)."""

    function: Callable[[Any], Any]
    only_first: bool = True

    def apply(self, twin: ModelCopy) -> None:
        args, kwargs = twin.args, twin.kwargs
        twin.undo.append(lambda: _set_arguments(twin, args, kwargs))
        if not self.only_first:
            twin.args, twin.kwargs = tree_map_only(Tensor, self.function, (args, kwargs))
        elif args:
            twin.args = (self.function(args[0]), *args[1:])
        elif kwargs:
            first = next(iter(kwargs))
            twin.kwargs = {**kwargs, first: self.function(kwargs[first])}


@dataclass(frozen=True, kw_only=True)
class ChangeTensor(Edit):
    """Pass the tensor at a path of the model's arguments ("[1]", "image") through a function."""

    path: str
    function: Callable[[Any], Any]

    def apply(self, twin: ModelCopy) -> None:
        args, kwargs = twin.args, twin.kwargs
        meant = next(value for path, value in argument_leaves(args, kwargs) if path == self.path)
        change = lambda value: self.function(value) if value is meant else value  # noqa: E731
        twin.undo.append(lambda: _set_arguments(twin, args, kwargs))
        twin.args, twin.kwargs = tree_map(change, args), tree_map(change, kwargs)


def _set_arguments(twin: ModelCopy, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    twin.args, twin.kwargs = args, kwargs


@dataclass(frozen=True, kw_only=True)
class ChangeArguments(Edit):
    """Call the model with other arguments altogether."""

    function: Callable[[tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]

    def apply(self, twin: ModelCopy) -> None:
        args, kwargs = twin.args, twin.kwargs
        twin.undo.append(lambda: _set_arguments(twin, args, kwargs))
        twin.args, twin.kwargs = self.function(args, kwargs)


@dataclass(frozen=True, kw_only=True)
class ChangeName(ChangeTensor):
    """Pass what a name of the loop's stands for through a function, in the line that made it."""

    name: str
