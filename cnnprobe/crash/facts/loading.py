"""A state_dict that was loaded: what fits, under which names, and whether it loads with a change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.model_copy import copy_model


@dataclass(frozen=True)
class Renaming:
    """How the names of a state are to be changed: a prefix to take away, or to add."""

    prefix: str = ""
    adds: bool = False

    def apply(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state under the other names; what does not have the prefix is left out."""
        if self.adds:
            return {self.prefix + name: value for name, value in state.items()}
        return {
            name.removeprefix(self.prefix): value
            for name, value in state.items()
            if name.startswith(self.prefix)
        }

    @property
    def code(self) -> str:
        """As a key of a comprehension over `n`."""
        return f"{self.prefix!r} + n" if self.adds else f"n.removeprefix({self.prefix!r})"


@dataclass(frozen=True)
class Loading:
    """A state and the model that it was loaded into."""

    model: nn.Module
    state: Mapping[str, Any]

    @cached_property
    def own(self) -> Mapping[str, Any]:
        """The state that the model has."""
        return self.model.state_dict()

    @cached_property
    def resized(self) -> list[str]:
        """Names that both have, of tensors of another shape."""
        both = ((name, value) for name, value in self.state.items() if name in self.own)
        return [n for n, v in both if isinstance(v, Tensor) and v.shape != self.own[n].shape]

    @cached_property
    def missing(self) -> list[str]:
        """Names of the model that the state lacks."""
        return [name for name in self.own if name not in self.state]

    @cached_property
    def surplus(self) -> list[str]:
        """Names of the state that the model does not have."""
        return [name for name in self.state if name not in self.own]

    @cached_property
    def fitting(self) -> dict[str, Any]:
        """What both have, in one shape."""
        names = set(self.own) - set(self.resized)
        return {name: value for name, value in self.state.items() if name in names}

    @cached_property
    def renaming(self) -> Renaming | None:
        """The change of names after which more of them are the model's."""
        found = max(self._list_renamings(), key=self._count_known, default=None)
        if found is None or self._count_known(found) <= len(self.state) - len(self.surplus):
            return None
        return found

    def _list_renamings(self) -> Iterator[Renaming]:
        for prefix in dict.fromkeys(_list_prefixes(self.state)):
            yield Renaming(prefix)
        for prefix in dict.fromkeys(_list_prefixes(self.own)):
            yield Renaming(prefix, adds=True)

    def _count_known(self, renaming: Renaming) -> int:
        return len(set(renaming.apply(self.state)) & set(self.own))

    def rename(self) -> "Loading":
        """The same under the names that fit best."""
        renaming = self.renaming
        return self if renaming is None else Loading(self.model, renaming.apply(self.state))

    def loads(self, *edits: Edit, strict: bool = True) -> bool:
        """Whether a copy of the model with some edits takes the state."""
        copy = copy_model(self.model, (), {}, meta=True)
        if copy is None:
            return False
        copy.apply(edits)
        tensors = {n: v.to("meta") if isinstance(v, Tensor) else v for n, v in self.state.items()}
        copy.model.load_state_dict(tensors, strict=strict)
        return True


def _list_prefixes(names: Sequence[str] | Mapping[str, Any]) -> Iterator[str]:
    """What names begin with, one and two parts long: "module.", "module.backbone."."""
    for name in names:
        first, dot, rest = name.partition(".")
        second, more, _ = rest.partition(".")
        if dot:
            yield f"{first}."
        if more:
            yield f"{first}.{second}."


def read_loading(error: BaseException) -> tuple[nn.Module, Any] | None:
    """The model whose load_state_dict raised, and what was loaded."""
    found = read_frame(error, "torch/nn/modules/module.py", "load_state_dict") or {}
    model = found.get("self")
    return (model, found.get("state_dict")) if isinstance(model, nn.Module) else None
