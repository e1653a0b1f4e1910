"""A state_dict that was loaded: what fits, under which names, and whether a change mends it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.model_copy import copy_model
from cnnprobe.recorder.inventory import named_modules

_CHANNELS = ("out_channels", "in_channels")
# The arguments that the sizes of a layer's weight stand for. Source: the pages of torch.nn.
_SETTINGS: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CHANNELS),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), ("num_features",)),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}


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
            n.removeprefix(self.prefix): v for n, v in state.items() if n.startswith(self.prefix)
        }

    def write(self, state: Mapping[str, Any]) -> str:
        """The code that changes the names of a state."""
        if self.adds:
            return f"{{{self.prefix!r} + n: v for n, v in state.items()}}"
        others = any(not name.startswith(self.prefix) for name in state)
        only = f" if n.startswith({self.prefix!r})" if others else ""
        return f"{{n.removeprefix({self.prefix!r}): v for n, v in state.items(){only}}}"


@dataclass(frozen=True)
class StateLoading:
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

    def rename(self) -> "StateLoading":
        """The same under the names that fit best."""
        renaming = self.renaming
        return self if renaming is None else StateLoading(self.model, renaming.apply(self.state))

    def loads(self, *edits: Edit, strict: bool = True) -> bool:
        """Whether a copy of the model with some edits takes the state."""
        if (copy := copy_model(self.model, (), {}, meta=True)) is None:
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


def unwrap_state(
    given: Any, model: nn.Module
) -> tuple[Mapping[str, Any] | None, list[str], list[str]]:
    """The state in what was loaded, why it was not found there, and the steps to it."""
    if isinstance(given, nn.Module):
        return given.state_dict(), ["a module was given"], ["load its state_dict()"]
    if not isinstance(given, Mapping):
        return None, [], []
    if set(given) & set(model.state_dict()):
        return given, [], []
    inner = {key: value for key, value in given.items() if is_state(value)}
    if inner:
        key = max(inner, key=lambda name: len(inner[name]))
        step = f"load what stands under {key!r}: state[{key!r}]"
        return inner[key], [f"it stands under {key!r} in what was given"], [step]
    return (given if is_state(given) else None), [], []


def is_state(value: Any) -> bool:
    """Whether something holds tensors by their names."""
    is_named = isinstance(value, Mapping) and bool(value) and all(isinstance(k, str) for k in value)
    return is_named and any(isinstance(each, Tensor) for each in value.values())


def resize_layers(loading: StateLoading) -> list[Edit]:
    """The layers in the sizes of the state; none where a shape is no setting of its layer."""
    kinds: dict[str, Any] = {fqn: type(module) for fqn, module, _ in named_modules(loading.model)}
    edits: dict[str, Edit] = {}
    for name in loading.resized:
        fqn, _, kind = name.rpartition(".")
        here, there = loading.own[name].shape, loading.state[name].shape
        if (names := _SETTINGS.get(kinds.get(fqn, nn.Module))) is None or len(here) != len(there):
            return []
        if kind == "weight":
            changes = {what: there[i] for i, what in enumerate(names) if here[i] != there[i]}
            text = ", ".join(f"{what}={size}" for what, size in changes.items())
            title = f"{text} in {quote(fqn)}"
            edits[fqn] = Reconfigure(title=title, code=text, module=fqn, changes=changes)
    return list(edits.values())
