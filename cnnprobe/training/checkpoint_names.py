"""What makes the names of a checkpoint those of the model that it was loaded into."""

import ast
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from cnnprobe.diagnosis.evidence.texts import LoadStatement


def note_fit(load: LoadStatement, model: nn.Module, space: Mapping[str, Any]) -> LoadStatement:
    """The same statement with what makes the names fit, where the variable that it loads is known.

    Args:
        load: any statement; only one with strict=False is looked into.
        model: the one that is diagnosed.
        space: the user's variables.
    """
    if load.kind != "lenient":
        return load
    given = ast.parse(load.text, mode="eval").body
    arguments = given.args[:1] if isinstance(given, ast.Call) else []
    names = [each.id for each in arguments if isinstance(each, ast.Name)]
    checkpoint = space.get(names[0]) if names else None
    part = load.holder.partition(".")[2]
    try:
        wanted = model.get_submodule(part).state_dict().keys()
    except AttributeError:
        return load
    if not isinstance(checkpoint, Mapping):
        return load
    return replace(load, fit=find_fit(names[0], checkpoint, wanted, load.holder))


def find_fit(name: str, checkpoint: Mapping[Any, Any], wanted: Collection[str], holder: str) -> str:
    """What to do with the checkpoint in the variable `name` so that most of its names are among
    those wanted by `holder`; "" where nothing does that.

    >>> import torch
    >>> saved = {"fc.weight": torch.zeros(1)}
    >>> find_fit("saved", saved, ["net.fc.weight"], "model")
    "its names lack the prefix 'net.': load it into that part, model.net.load_state_dict(saved)"
    """
    for key, inner in checkpoint.items():
        if isinstance(inner, Mapping) and 2 * _count(inner, wanted) > len(inner) > 0:
            return f"load {name}[{key!r}], whose names are those of the model"
    own = [key for key, value in checkpoint.items() if isinstance(value, Tensor)]
    best, text = _count(own, wanted), ""
    for prefix in _list_prefixes(own):
        if (count := _count([k.removeprefix(prefix) for k in own], wanted)) > best:
            best, text = (
                count,
                (
                    f"strip the prefix {prefix!r} of its names: "
                    f"{{k.removeprefix({prefix!r}): v for k, v in {name}.items()}}"
                ),
            )
    for prefix in _list_prefixes(wanted):
        if (count := _count([prefix + k for k in own], wanted)) > best:
            part = prefix.removesuffix(".")
            is_numbered = any(each.isdigit() for each in part.split("."))
            place = f"{holder}.get_submodule({part!r})" if is_numbered else f"{holder}.{part}"
            best = count
            text = (
                f"its names lack the prefix {prefix!r}: load it into that part, "
                f"{place}.load_state_dict({name})"
            )
    return text if 2 * best > len(own) else ""


def _count(names: Collection[Any], wanted: Collection[str]) -> int:
    return len({*names} & {*wanted})


def _list_prefixes(names: Collection[Any]) -> Iterator[str]:
    """Every beginning of a name that ends in a dot, once, the short ones first."""
    found = {
        ".".join(parts[:i]) + "."
        for name in names
        for parts in [str(name).split(".")]
        for i in range(1, len(parts))
    }
    yield from sorted(found, key=lambda prefix: (prefix.count("."), prefix))
