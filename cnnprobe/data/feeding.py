"""From a loader to what a model and its loss take: the first batch, and which of its parts goes
where.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from cnnprobe.data.columns import name_items
from cnnprobe.errors import UsageError

BATCH = 32  # samples, where a data set is given without a loader


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What goes into the model and into the loss, and how it was found."""

    inputs: Any
    targets: Any = None
    said: str = ""
    # the keys or places in the batch of the inputs and of the targets
    places: tuple[tuple[Any, ...], tuple[Any, ...]] = ((), ())


def is_loader(given: Any) -> bool:
    """Whether it gives batches, and is none itself: a DataLoader, a Dataset, an iterable that is no
    container.
    """
    if isinstance(given, DataLoader | Dataset):
        return True
    if isinstance(given, Tensor | str | bytes | Mapping | Sequence | nn.Module):
        return False
    return hasattr(given, "__iter__") and not list(name_items(given))


def is_batches(given: Any) -> bool:
    """Whether a list holds batches, as list(loader) does, and not the arguments of a forward: pairs
    or longer tuples or lists, all of one length, that begin with a tensor.

    >>> is_batches([(torch.ones(2, 3), torch.ones(2))]), is_batches([torch.ones(2, 3)])
    (True, False)
    """
    if type(given) is not list or not all(isinstance(each, tuple | list) for each in given):
        return False
    lengths = {len(each) for each in given}
    return (
        len(lengths) == 1 and min(lengths) > 1 and all(torch.is_tensor(each[0]) for each in given)
    )


def wrap_dataset(given: Any) -> Any:
    """A data set in a loader that takes samples from all of it; anything else as it is."""
    if not isinstance(given, Dataset) or isinstance(given, DataLoader):
        return given
    from torch import Generator
    from torch.utils.data import IterableDataset

    if isinstance(given, IterableDataset):
        return DataLoader(given, batch_size=BATCH)
    generator = Generator().manual_seed(0)
    return DataLoader(given, batch_size=BATCH, shuffle=True, generator=generator)


def feed(batch: Any, model: nn.Module, *, learns: bool) -> Feed:
    """The inputs and the targets in a batch, by the forward's parameters; `learns` where there is a
    loss or a step, which take the rest.

    Raises:
        UsageError: it cannot be told which part is the input.
    """
    items = dict(name_items(batch))
    if isinstance(batch, Tensor) or not items:
        return Feed(inputs=batch, said="the batch goes into the model")
    names, required = _read_parameters(model)
    if isinstance(batch, Mapping):
        return _feed_mapping(batch, names)
    parts = list(items.items())
    wanted = max(1, min(required, len(parts) - learns))
    inputs = [value for _, value in parts[:wanted]]
    rest = dict(enumerate([value for _, value in parts])) if learns else {}
    targets = {place: value for place, value in rest.items() if place >= wanted}
    said = f"{_list([key for key, _ in parts[:wanted]])} of the batch goes into the model"
    if targets:
        said += f", {_list([key for key, _ in parts[wanted:]])} into the loss"
    given = inputs[0] if len(inputs) == 1 and isinstance(inputs[0], Tensor) else tuple(inputs)
    kept = _choose_targets(targets)
    return Feed(
        inputs=given, targets=_unpack(kept), said=said, places=(tuple(range(wanted)), tuple(kept))
    )


def assemble(batch: Any, found: Feed, inputs: Any, targets: Any) -> Any:
    """A batch as the loader gives it, with other inputs and targets in their places."""
    values = {
        place: value
        for places, given in zip(found.places, (inputs, targets), strict=True)
        for place, value in zip(places, _spread(given, places), strict=True)
    }
    if isinstance(batch, Mapping):
        return {key: values.get(key, value) for key, value in batch.items()}
    if not values:
        return inputs
    if dataclasses.is_dataclass(batch):
        names = [field.name for field in dataclasses.fields(batch)]
        changed = {names[place]: value for place, value in values.items()}
        return dataclasses.replace(batch, **changed)  # type: ignore[type-var]
    parts = [values.get(place, value) for place, value in enumerate(batch)]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def _spread(given: Any, places: tuple[Any, ...]) -> Sequence[Any]:
    """What goes to each of the places."""
    if isinstance(given, Mapping):
        return [given[place] for place in places]
    return given if isinstance(given, tuple) and len(given) == len(places) else [given]


def _read_parameters(model: nn.Module) -> tuple[list[str], int]:
    """The names of the forward's parameters, and how many it needs."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())
    except (TypeError, ValueError):
        return [], 1
    needed = [p for p in parameters if p.kind in kinds and p.default is p.empty]
    return [p.name for p in parameters], len(needed)


def _feed_mapping(batch: Mapping[Any, Any], names: list[str]) -> Feed:
    """The keys that the forward has parameters for; else the first one."""
    own = {key: value for key, value in batch.items() if key in names}
    rest = {key: value for key, value in batch.items() if key not in own}
    if own:
        said = f"{_list([repr(k) for k in own])} of the batch goes into the model"
        kept = _choose_targets(rest)
        return Feed(inputs=own, targets=_unpack(kept), said=said, places=(tuple(own), tuple(kept)))
    tensors = [key for key, value in batch.items() if isinstance(value, Tensor)]
    if not tensors:
        raise UsageError(
            f"none of the keys {_list(list(map(repr, batch)))} is a parameter of the forward",
            where="the batch of the loader",
            fix="give the batch by itself: diagnose(model, inputs, targets)",
        )
    pictures = [key for key in tensors if batch[key].dim() >= 4]
    first = (pictures or tensors)[0]
    rest = {key: value for key, value in batch.items() if key != first}
    kept = _choose_targets(rest)
    return Feed(
        inputs=batch[first],
        targets=_unpack(kept),
        places=((first,), tuple(kept)),
        said=(
            f"{first!r} of the batch goes into the model, {_list([repr(k) for k in rest])} into "
            "the loss"
        ),
    )


def _choose_targets(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """The only tensor of what is left, else all of it."""
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    return tensors if len(tensors) == 1 else dict(values)


def _unpack(values: Mapping[Any, Any]) -> Any:
    kept = list(values.values())
    return None if not kept else kept[0] if len(kept) == 1 else tuple(kept)


def _list(names: list[str]) -> str:
    return ", ".join(names)
