"""Which operation a name, a layer or a row of a trace stands for, and which have a property."""

from collections.abc import Iterator
from functools import lru_cache

from cnnprobe.operations import arranging, layers, pointwise, reducing
from cnnprobe.operations.info import Effect, Family, OperationInfo, Signature, Trait
from cnnprobe.records.trace import ModuleCall

ALL = (
    *pointwise.list_operations(),
    *layers.list_operations(),
    *arranging.list_operations(),
    *reducing.list_operations(),
)
_BY_NAME = {info.name: info for info in ALL}
_BY_LAYER = {layer: info for info in ALL for layer in info.layers}
_BY_SPELLING = {spelling: info for info in ALL for spelling in (*info.functions, info.name)}
# Public places of torch's functions, and what stands for them in the names of the catalogue.
_PLACES = {
    "": "", "torch": "", "torch.functional": "", "torch._VF": "", "torch._C": "",
    "torch.ops.aten": "", "torch.Tensor": "Tensor.", "torch.nn.functional": "functional.",
    "torch.special": "special.", "torch.linalg": "linalg.", "torch.fft": "fft.",
}  # fmt: skip
_CLOSED = ("linalg.", "fft.")  # a name in there may be another operation than without it
_WRITING_DUNDERS = frozenset(
    name for info in ALL for name in info.functions
    if name.startswith("__i") and f"__{name[3:]}" in info.functions
)  # fmt: skip


@lru_cache(maxsize=4096)
def read_name(kind: str) -> str:
    """The last part of a function's public name, without the overload of torch.ops.

    >>> read_name("torch.Tensor.relu_"), read_name("torch.ops.aten.add.Tensor")
    ('relu_', 'add')
    """
    parts = kind.split(".")
    return parts[3] if kind.startswith("torch.ops.") and len(parts) > 3 else parts[-1]


@lru_cache(maxsize=4096)
def find_function(kind: str) -> OperationInfo | None:
    """The operation of a function by its public name or the last part of that; None: unknown.

    >>> kinds = ("torch.Tensor.__iadd__", "torch.special.expit", "clip_")
    >>> [resolve_name(kind) for kind in kinds]
    ['add', 'sigmoid', 'clamp']
    """
    name = read_name(kind)
    place = _PLACES.get(kind.rpartition(f".{name}")[0])
    if place is None:
        return None
    names = [name] if name.endswith("__") else [name, name.removesuffix("_")]
    for each in names:
        found = _BY_SPELLING.get(place + each)
        if found is None and place not in _CLOSED:
            found = _BY_SPELLING.get(each)
        if found is not None:
            return found
    return None


def find_name(name: str) -> OperationInfo | None:
    """The operation of a canonical name; None where there is none."""
    return _BY_NAME.get(name)


def find_layer(class_name: str) -> OperationInfo | None:
    """The operation of a class of torch.nn; None where it is none."""
    return _BY_LAYER.get(class_name)


def find(call: ModuleCall) -> OperationInfo | None:
    """The operation of a row of a trace; torch.max of two tensors is maximum."""
    if call.fqn is not None:
        return _BY_LAYER.get(call.kind)
    info = find_function(call.kind)
    if info is not None and info.pairwise and len(call.inputs) > 1:
        return _BY_NAME[info.pairwise]
    return info


def resolve_name(kind: str) -> str:
    """The canonical name of a function; of an unknown one the last part, without a final "_"."""
    info = find_function(kind)
    if info is not None:
        return info.name
    name = read_name(kind)
    return name if name.endswith("__") else name.removesuffix("_")


@lru_cache(maxsize=4096)
def find_signature(kind: str) -> Signature | None:
    """The arguments of this very spelling: torch.batch_norm and F.batch_norm differ in order."""
    info = find_function(kind)
    if info is None:
        return None
    if not kind.endswith("__"):
        kind = kind.removesuffix("_")
    return info.variants.get(kind) or info.variants.get(read_name(kind)) or info.signature


@lru_cache(maxsize=4096)
def is_writing(kind: str) -> bool:
    """Whether a function writes to its first argument: relu_, __iadd__, __setitem__.

    >>> [is_writing(f"torch.Tensor.{name}") for name in ("add_", "__iadd__", "__invert__")]
    [True, True, False]
    """
    name = read_name(kind)
    if name.endswith("__"):
        return name in _WRITING_DUNDERS or name in ("__setitem__", "__delitem__")
    return name.endswith("_")


@lru_cache(maxsize=256)
def select(
    *,
    family: Family | None = None,
    effect: Effect | None = None,
    trait: Trait | None = None,
    argument: str | None = None,
) -> frozenset[str]:
    """The canonical names of all operations with these properties.

    >>> sorted(select(effect="joins", trait="sequence"))[:3]
    ['block_diag', 'cartesian_prod', 'cat']
    """
    return frozenset(info.name for info in _matching(family, effect, trait, argument))


@lru_cache(maxsize=256)
def select_groups(
    *,
    family: Family | None = None,
    effect: Effect | None = None,
    trait: Trait | None = None,
    argument: str | None = None,
) -> frozenset[str]:
    """The same by the names of the diagnosis rules: "conv" for conv1d, conv2d and conv3d."""
    return frozenset(info.group for info in _matching(family, effect, trait, argument))


def _matching(
    family: Family | None, effect: Effect | None, trait: Trait | None, argument: str | None
) -> Iterator[OperationInfo]:
    return (
        info
        for info in ALL
        if (family is None or info.family == family)
        and (effect is None or info.effect == effect)
        and (trait is None or trait in info.traits)
        and (argument is None or argument in info.signature.names)
    )
