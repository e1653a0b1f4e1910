"""What a model consists of, called or not: its modules and parameters as data. Reads attributes
only, never properties.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy as is_uninitialised

from cnnprobe.errors import TargetError
from cnnprobe.recorder import cost, twins
from cnnprobe.recorder.values import (
    EXACT,
    PLAIN,
    Form,
    device_name,
    dtype_name,
    plain,
    read_form,
    read_nbytes,
    read_shape,
)
from cnnprobe.records.trace import ModuleInfo, ParameterInfo

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# Their forward is a fused function; what they do inside is one operation to their user.
WHOLE = (nn.MultiheadAttention,)
# In eval without gradients their whole inside is one kernel, unless somebody has hooked it.
FUSED = (nn.TransformerEncoder, nn.TransformerEncoderLayer, *WHOLE)
_EXACTLY_PLAIN = frozenset(PLAIN)
_BECOMING_PLAIN = frozenset({tuple, list, torch.dtype, torch.device})
T = TypeVar("T")
_Facts = tuple[Form, tuple[int, ...], int, int, str, str, bool]
"""Of a parameter or buffer its form, shape, elements, bytes, dtype, device and requires_grad."""
Entry = tuple[str, nn.Module, bool]
"""One of `named_modules`."""
_INTERNAL = frozenset({"training", "call_super_init", "dump_patches"})


def _describe_stranger(model: object, where: str) -> TargetError:
    """What was given in the place of a model."""
    what, fix = f"{type(model).__name__} is not a torch.nn.Module", "pass a model"
    if isinstance(model, type):
        what = f"{model.__name__} is a class, not a model"
        fix = f"pass an instance: {model.__name__}()"
    elif isinstance(model, Mapping) and any(isinstance(v, Tensor) for v in model.values()):
        what = f"a state_dict of {len(model)} tensors is not a model"
        fix = "build the model, and load it: model.load_state_dict(state_dict)"
    return TargetError(what, where=where, fix=fix)


def check_model(model: object, where: str) -> nn.Module:
    """The model, once it is sure that it is one, and that all its modules are initialised.

    Raises:
        TargetError: it is not an nn.Module, or one of its modules has not run nn.Module.__init__.
    """
    if not isinstance(model, nn.Module):
        raise _describe_stranger(model, where)
    unfinished = find_unfinished(model)
    if unfinished is not None:
        kind = type(unfinished).__name__
        raise TargetError(
            f"{kind}.__init__ does not call super().__init__(), which makes the place for layers",
            where=where,
            fix=f"call super().__init__() first in the __init__ of {kind}",
        )
    return model


def check_hashable(model: nn.Module, where: str) -> None:
    """Refuse a model of which torch cannot list the parameters.

    Raises:
        TargetError: one of its modules has no hash, as a dataclass has none that compares by value.
    """
    for fqn, module, _ in named_modules(model):
        kind: type = type(module)
        if getattr(kind, "__hash__", None) is None:
            name = f"{fqn!r} ({kind.__name__})" if fqn else f"the model ({kind.__name__})"
            raise TargetError(
                f"{name} has no hash, so torch cannot list the parameters",
                where=where,
                fix=f"decorate {kind.__name__} with @dataclass(eq=False), or define __hash__",
            )


def find_unfinished(model: nn.Module) -> nn.Module | None:
    """The first module of a model that has not run nn.Module.__init__."""
    seen: set[int] = set()
    stack: list[nn.Module | None] = [model]
    while stack:
        module = stack.pop()
        if module is None or id(module) in seen or isinstance(module, torch.jit.ScriptModule):
            continue
        seen.add(id(module))
        children = module.__dict__.get("_modules")
        if children is None or "_parameters" not in module.__dict__:
            return module
        stack.extend(children.values())
    return None


def named_modules(model: nn.Module) -> Iterator[Entry]:
    """Every (fqn, module, is_first) in registration order; a shared module comes again under each
    further name.

    Iterative, unlike `nn.Module.named_modules`, and does not go twice into a shared module: paths
    through nested sharing are exponentially many.
    """
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        fqn, module = stack.pop()
        first = id(module) not in seen
        yield fqn, module, first
        if not first:
            continue
        seen.add(id(module))
        children = module.__dict__.get("_modules")
        if children is None:  # what torch.jit.trace gives keeps them elsewhere
            children = module._modules
        if children:
            prefix = fqn + "." if fqn else ""
            stack += [
                (prefix + name, child)
                for name, child in reversed(children.items())
                if child is not None
            ]


def class_of(module: nn.Module) -> type:
    """The class as the user wrote it, where torch has replaced it: ParametrizedConv2d is a Conv2d,
    FSDPLinear a Linear.
    """
    kind: type = getattr(type(module), "_cnnprobe_class", type(module))
    if not kind.__name__.startswith(("Parametrized", "FSDP")):
        return kind
    while len(kind.__mro__) > 1 and (
        (
            kind.__name__.startswith("Parametrized")
            and "parametrizations" in module.__dict__.get("_modules", {})
        )
        or (
            kind.__name__.startswith("FSDP")
            and any(base.__name__ == "FSDPModule" for base in kind.__bases__)
        )
    ):
        kind = next(
            base
            for base in kind.__bases__
            if issubclass(base, nn.Module) and base.__name__ != "FSDPModule"
        )
    return kind


def is_stock(module: nn.Module) -> bool:
    """Whether the class is torch's own."""
    return _is_torchs(class_of(module))


@functools.lru_cache(maxsize=4096)
def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith(("torch.nn.", "torch.ao."))


def is_leaf(module: nn.Module) -> bool:
    """Whether it is a stock layer whose inside is torch's business: its functions are no rows."""
    return (
        is_stock(module)
        and (not module._modules or isinstance(module, WHOLE))
        and type(module) not in CONTAINERS
    )


def configuration(module: nn.Module, kind: "Kind | None" = None) -> dict[str, object]:
    """The constructor-like attributes: public, plain, own. `bias` is whether there is one."""
    kind = kind or Kind(module)
    config: dict[str, object] = {}
    attributes = module.__dict__
    for name in kind.public_names(module):
        value = attributes.get(name, Ellipsis)
        of = type(value)
        if of in _EXACTLY_PLAIN:
            config[name] = value
        elif of in _BECOMING_PLAIN:
            config[name] = plain(value)
    if kind.is_stock and ("bias" in module._parameters or "parametrizations" in module._modules):
        config["bias"] = _has_bias(module)
    return config


def _has_bias(module: nn.Module) -> bool:
    if module._parameters.get("bias") is not None:
        return True
    parametrizations = module._modules.get("parametrizations")
    return isinstance(parametrizations, nn.ModuleDict) and "bias" in parametrizations


class Kind:
    """What a module's class says of it."""

    __slots__ = (
        "formula",
        "is_chain",
        "is_container",
        "is_fused",
        "is_lazy",
        "is_leaf",
        "is_plain",
        "is_scripted",
        "is_stock",
        "macs",
        "name",
        "public",
    )

    def __init__(self, module: nn.Module) -> None:
        kind = class_of(module)
        self.name = kind.__name__
        self.is_stock = _is_torchs(kind)
        self.is_container = isinstance(module, CONTAINERS) and not _overrides_forward(module)
        self.is_leaf = is_leaf(module)
        self.is_plain = self.is_leaf and cost.is_plain(
            module
        )  # its cost is known without looking into it
        self.formula = cost.formula(module) if self.is_leaf else None
        # where there is no formula
        self.macs = 0 if not self.is_leaf or cost.is_moving(module) else None
        # its forward calls its children and nothing else
        self.is_chain = isinstance(module, nn.Sequential) and not _overrides_forward(module)
        self.is_scripted = isinstance(module, torch.jit.ScriptModule)
        self.is_fused = isinstance(module, FUSED)
        self.is_lazy = isinstance(module, LazyModuleMixin)
        self.public: dict[
            tuple[int, str], tuple[str, ...]
        ] = {}  # number of attributes and the last one -> the public ones

    def public_names(self, module: nn.Module) -> tuple[str, ...]:
        """The names of the attributes of `module` that may be configuration."""
        attributes = module.__dict__
        # The same constructor of torch's made as many, and what a user added comes last; a user's
        # own constructor may do as it likes.
        key = len(attributes), next(reversed(attributes))
        names = self.public.get(key)
        if names is None:
            names = tuple([name for name in attributes if name[0] != "_" and name not in _INTERNAL])
            if self.is_stock:
                self.public[key] = names
        return names


class Kinds:
    """The Kind of modules, found once a class; not for longer than one recording, as it keeps the
    classes alive.
    """

    def __init__(self) -> None:
        self._childless: dict[type, Kind] = {}
        self._parents: dict[type, Kind] = {}

    def of(self, module: nn.Module) -> Kind:
        """The Kind of `module`."""
        known = self._parents if module._modules else self._childless
        kind = known.get(type(module))
        if kind is None:
            kind = known[type(module)] = Kind(module)
        return kind


def _overrides_forward(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is not nn.Sequential.forward


def take_inventory(
    tree: Iterable[Entry], kinds: Kinds | None = None
) -> tuple[tuple[ModuleInfo, ...], tuple[ParameterInfo, ...]]:
    """All modules and all distinct parameters and buffers of `named_modules(model)`, each once,
    with aliases.
    """
    modules: dict[int, Any] = {}
    tensors: dict[int, Any] = {}
    forms: dict[int, _Facts] = {}
    kinds = kinds or Kinds()
    for fqn, module, first in tree:
        has_own = module._parameters or module._buffers
        own = _own_tensors(module, fqn, tensors, forms) if has_own else ()
        if not first:
            modules[id(module)].aliases += (fqn,)
            continue
        draft = modules[id(module)] = twins.ModuleInfo()
        kind = kinds.of(module)
        draft.fqn, draft.kind, draft.aliases = fqn, kind.name, ()
        draft.config = configuration(module, kind)
        draft.training = getattr(module, "training", False)  # a frozen script has no mode
        draft.parameters = own
        draft.is_stock, draft.is_container = kind.is_stock, kind.is_container
    return _frozen(modules, ModuleInfo), _frozen(tensors, ParameterInfo)


def _frozen(drafts: dict[int, Any], kind: type[T]) -> tuple[T, ...]:
    for draft in drafts.values():
        draft.__class__ = kind
    return tuple(drafts.values())


def _own_tensors(
    module: nn.Module, fqn: str, tensors: dict[int, Any], known_forms: dict[int, _Facts]
) -> tuple[str, ...]:
    prefix = fqn + "." if fqn else ""
    own: list[str] = []
    for kind, registry in (("parameter", module._parameters), ("buffer", module._buffers)):
        for name, tensor in registry.items() if registry else ():
            if tensor is None:
                continue
            full, known = prefix + name, tensors.get(id(tensor))
            if known is None:
                tensors[id(tensor)] = _draft(full, tensor, kind, known_forms)
                own.append(full)
            elif known.fqn != full:
                known.aliases += (full,)
                own.append(known.fqn)
    return tuple(own)


def _draft(fqn: str, tensor: Tensor, kind: str, known_forms: dict[int, _Facts]) -> Any:
    draft = twins.ParameterInfo()
    draft.fqn, draft.kind, draft.aliases = fqn, kind, ()
    form = read_form(tensor)
    facts = known_forms.get(id(form))  # of most that are equal there is one object
    if facts is None:
        facts = known_forms[id(form)] = _state_facts(tensor, form)
    _, draft.shape, draft.numel, draft.nbytes, draft.dtype, draft.device, requires_grad = facts
    draft.trainable = requires_grad and kind == "parameter"
    return draft


def _state_facts(tensor: Tensor, form: Form) -> _Facts:
    sizes = _measure(tensor)
    return form, *sizes, dtype_name(tensor.dtype), device_name(tensor.device), tensor.requires_grad


def _measure(tensor: Tensor) -> tuple[tuple[int, ...], int, int]:
    """Shape, number of elements and bytes of a tensor of any kind."""
    if is_uninitialised(tensor):
        return (), 0, 0
    return read_shape(tensor), tensor.numel(), read_nbytes(tensor)


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor has values: none on meta, none of a fake one, and none before its shape is
    known.
    """
    return (
        not is_uninitialised(tensor) and not tensor.is_meta and not isinstance(tensor, FakeTensor)
    )


def refuse_offloaded(model: nn.Module, where: str) -> None:
    """Refuse a model whose weights have values only while a module is called.

    Raises:
        TargetError: accelerate has offloaded the parameters of a module.
    """
    for fqn, module, _ in named_modules(model):
        if "_hf_hook" in module.__dict__ and not all(map(has_values, list_own_tensors(module))):
            raise TargetError(
                f"the weights of {fqn!r} are offloaded: accelerate brings them for each call",
                where=where,
                fix="take its hooks off: accelerate.hooks.remove_hook_from_submodules(model)",
            )


def list_own_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Its own parameters and buffers."""
    for registry in (module._parameters, module._buffers):
        yield from (t for t in registry.values() if t is not None)


def is_lazy(model: nn.Module) -> bool:
    """Whether it has parameters that the first forward pass will shape."""
    return has_lazy(named_modules(model))


def has_lazy(tree: Iterable[Entry]) -> bool:
    """Whether one of these modules has such parameters."""
    return any(
        type(tensor) not in EXACT and is_uninitialised(tensor)
        for _, module, first in tree
        if first
        for tensor in list_own_tensors(module)
    )
