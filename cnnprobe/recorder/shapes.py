"""A forward pass of shapes alone: the user's own model, its weights neither read, moved nor copied,
and nothing computed.

Parameters, buffers and inputs stand in their places without their values meanwhile, on torch's meta
device.
"""

import contextlib
import functools
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.nn.parameter import is_lazy as is_uninitialised
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from cnnprobe.errors import TargetError
from cnnprobe.recorder import Observation, observe, run_eagerly
from cnnprobe.recorder.assembly import no_collection
from cnnprobe.recorder.copying import copy_lazy, copy_uninitialised
from cnnprobe.recorder.functions import operation_of
from cnnprobe.recorder.inventory import check_model, named_modules
from cnnprobe.recorder.preservation import has_shards, own_cache, preserved_generators
from cnnprobe.recorder.recalled import Recalled
from cnnprobe.recorder.values import EXACT, argument_leaves

_GETTER = type(Tensor.shape.__get__)  # type: ignore[attr-defined]
_QUESTIONS = frozenset({Tensor.stride, Tensor.numel, Tensor.dim, Tensor.size, Tensor._is_view})
# what most attributes are: to ask it by the class is three times as fast
_NO_TENSORS = frozenset({bool, int, float, str, tuple, list, dict, set, OrderedDict, type(None)})
_META = torch.device("meta")
_NOTE = "shapes only: no weight was read, and nothing was computed"


def observe_shapes(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Observation:
    """What `observe` gives, without values; the model is afterwards as it was.

    Raises:
        TargetError: it is no model, or a part of it is scripted or sharded and cannot run without
            its weights.
    """
    where = f"probe({type(model).__name__}, shapes_only=True)"
    check_shapes_only(model, where)
    if find_nested(args, kwargs) is torch.strided:  # torch has no such tensor without values
        raise_nested(where)
    with no_collection(), without_values(model):
        return run_without_values(model, args, kwargs)


def run_without_values(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Observation:
    """One forward pass of shapes, inside of `without_values(model)`."""
    args, kwargs, fallback = move_to_meta(args), move_to_meta(kwargs), _OnZeros()
    within = (torch.device("meta"), fallback)
    observation = observe(model, args, kwargs, statistics=False, within=within)
    notes = (*observation.trace.notes, _NOTE, *fallback.notes)
    return replace(observation, trace=replace(observation.trace, notes=notes))


def shape_lazy(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> nn.Module:
    """A copy of a lazy model on the meta device after one forward, which shaped its parameters.

    The model stays lazy. What the forward raises is not caught.
    """
    args, kwargs = move_to_meta(args), move_to_meta(kwargs)
    tree = named_modules(model)
    with preserved_generators(), run_eagerly(tree), without_values(model), torch.no_grad():
        copied = copy_lazy(model)
        with torch.device("meta"), _OnZeros():
            copied(*args, **kwargs)
    return copied


def check_shapes_only(model: nn.Module, where: str) -> None:
    """Refuse what cannot run without its weights.

    Raises:
        TargetError: it is no model, or a part of it is scripted, sharded or quantized.
    """
    check_model(model, "the model to probe")
    for fqn, module, _ in named_modules(model):
        kind: type = type(module)
        if how := _describe_bound(kind):
            raise TargetError(
                f"{f'{fqn!r}' if fqn else 'the model'} is {how} and cannot run without its weights",
                where=where,
                fix="give the model as it was before",
            )


@functools.lru_cache(maxsize=4096)
def _describe_bound(kind: type) -> str:
    """What a class of modules is that cannot run without its weights; "" for all others."""
    if has_shards(kind):
        return "sharded"
    if issubclass(kind, torch.jit.ScriptModule):
        return "scripted"
    return "quantized" if _is_quantized(kind) else ""


def _is_quantized(kind: type) -> bool:
    """Whether its weights are packed for kernels that have no meta ones."""
    room = kind.__module__
    return room.startswith("torch.ao.nn.") and ".quantized." in room and ".reference" not in room


def find_nested(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.layout | None:
    """The layout of the first nested tensor among the arguments; None where there is none."""
    tensors = (leaf for _, leaf in argument_leaves(args, kwargs) if isinstance(leaf, Tensor))
    return next((tensor.layout for tensor in tensors if tensor.is_nested), None)


def raise_nested(where: str) -> NoReturn:
    """Refuse a nested tensor, which no size stands for.

    Raises:
        TargetError: always.
    """
    raise TargetError(
        "an input is a nested tensor, which has no single size",
        where=where,
        fix="give a padded one: x.to_padded_tensor(0.0)",
    )


@contextlib.contextmanager
def without_values(model: nn.Module, device: torch.device | str = "meta") -> Iterator[None]:
    """Every parameter, buffer and tensor attribute of a model stands in its place without its
    values meanwhile.

    Args:
        model: any model.
        device: where the stand-ins are; another one than meta is for torch's FakeTensorMode.
    """
    places: list[tuple[MutableMapping[str, Any], str, Tensor]] = []
    for _, module, first in named_modules(model):
        registries: tuple[Any, ...] = (module._parameters, module._buffers, module.__dict__)
        for registry in registries if first else ():
            for name, value in registry.items() if registry else ():
                if type(value) not in _NO_TENSORS and isinstance(value, Tensor):
                    places.append((registry, name, value))
    tensors = {id(tensor): tensor for _, _, tensor in places}
    twins = dict(zip(tensors, _make_twins(tensors.values(), torch.device(device)), strict=True))
    try:
        for registry, name, tensor in places:
            registry[name] = twins[id(tensor)]
        with own_cache():
            yield
    finally:
        for registry, name, tensor in places:
            registry[name] = tensor


def _make_twins(tensors: Iterable[Tensor], device: torch.device) -> list[Tensor]:
    with torch.utils._python_dispatch._disable_current_modes():
        likes = [_place_on_meta(tensor) for tensor in tensors]
    return [_twin(tensor, like, device) for tensor, like in zip(tensors, likes, strict=True)]


def _place_on_meta(tensor: Tensor) -> Tensor | None:
    if is_uninitialised(tensor):
        return None
    if type(tensor) in EXACT and tensor.layout is torch.strided and tensor.is_contiguous():
        # in a twentieth of the time that empty_like takes
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)
    return torch.empty_like(tensor, device=_META, requires_grad=False)


def _twin(tensor: Tensor, empty: Tensor | None, device: torch.device) -> Tensor:
    if empty is None:
        return copy_uninitialised(tensor, str(device))
    if device.type != "meta":
        empty = torch.empty_strided(empty.shape, empty.stride(), dtype=empty.dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty.requires_grad_() if tensor.requires_grad else empty


def move_to_meta(value: Any) -> Any:
    """A nested value with its tensors on the meta device."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, PackedSequence):
            # its batch_sizes have to stay on the CPU
            return leaf.to(_META)  # type: ignore[arg-type]
        if isinstance(leaf, Tensor):
            return leaf.detach().to("meta").requires_grad_(leaf.requires_grad)
        return leaf

    return torch.utils._pytree.tree_map(move, value, is_leaf=_is_packed)


def _is_packed(value: Any) -> bool:
    return isinstance(value, PackedSequence)


def refuse_packed(args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> None:
    """Refuse a packed sequence, whose sizes cannot be varied.

    Raises:
        TargetError: there is one among the arguments.
    """
    if any(map(_is_packed, torch.utils._pytree.tree_leaves((args, kwargs), is_leaf=_is_packed))):
        raise TargetError(
            "an input is a PackedSequence, whose sizes follow from its values",
            where=where,
            fix="give a padded tensor to a module that packs it in its forward",
        )


class _OnZeros(TorchFunctionMode):
    """Runs on zeros what cannot run on shapes alone, and says so: an operation without a meta
    kernel, or a question for a value.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}
        self.recalled = Recalled()

    @property
    def notes(self) -> tuple[str, ...]:
        """What was run on zeros, in a sentence."""
        names = ", ".join(
            f"{kind} (x{count})" if count > 1 else kind for kind, count in self.found.items()
        )
        return (
            (
                (
                    f"{names} cannot run on shapes alone and was given zeros: what follows may be "
                    "of "
                    "other shapes with your data"
                ),
            )
            if names
            else ()
        )

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The function as it is, or on zeros."""
        if is_dynamo_compiling():  # for torch.cond, which traces modes too
            return func(*args, **(kwargs or {}))
        is_question = type(func) is _GETTER or func in _QUESTIONS
        if is_question and type(args[0]) in EXACT:  # asked by the thousand, most by ourselves
            with torch._C.DisableTorchFunction():
                return func(*args, **(kwargs or {}))
        kwargs = kwargs or {}
        try:
            return self.recalled.call(func, args, kwargs)
        except (NotImplementedError, RuntimeError) as error:
            if func is Tensor.untyped_storage:  # asked by ourselves, of a sparse tensor
                raise
            try:
                output = self._run(func, args, kwargs)
            except Exception:  # the user's own mistake: zeros raise, too
                raise error from None
        kind = operation_of(func).kind
        self.found[kind] = self.found.get(kind, 0) + 1
        return output

    @staticmethod
    def _run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        with torch.utils._python_dispatch._disable_current_modes(), torch.device("cpu"):
            given, named = _on_cpu((args, kwargs))
            return move_to_meta(func(*given, **named))


def _on_cpu(value: Any) -> Any:
    def place(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.is_meta:
            zeros = torch.zeros(leaf.shape, dtype=leaf.dtype, device="cpu")
            return zeros.requires_grad_(leaf.requires_grad and zeros.is_floating_point())
        return torch.device("cpu") if leaf == torch.device("meta") else leaf

    return torch.utils._pytree.tree_map(place, value)
