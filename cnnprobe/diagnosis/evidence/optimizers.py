"""An optimizer as data: what its groups of parameters hold and how it steps them."""

from collections.abc import Container, Mapping
from typing import Any

from cnnprobe.diagnosis.evidence.evidence import OptimizerInfo


def describe_optimizer(
    optimizer: Any, *, name: str, names: Mapping[int, str], known: Container[int]
) -> OptimizerInfo:
    """An optimizer against the model's registry.

    Args:
        optimizer: one of `torch.optim`, or what has its `param_groups`.
        name: the user's variable.
        names: the parameters of the model, by id.
        known: ids of the parameters that belong to any known model.
    """
    groups = optimizer.param_groups
    kind = type(optimizer).__name__
    listed = [p for group in groups for p in group["params"]]
    return OptimizerInfo(
        name=name,
        kind=kind,
        rates=tuple(float(group.get("lr", 0.0)) for group in groups),
        parameters=frozenset(names[id(p)] for p in listed if id(p) in names),
        foreign=tuple(tuple(p.shape) for p in listed if id(p) not in known),
        scheduled=any(group.get("initial_lr") for group in groups),
        maximize=any(bool(group.get("maximize")) for group in groups),
        weight_decay=max((float(group.get("weight_decay") or 0) for group in groups), default=0.0),
        decoupled=kind.endswith("W") or any(g.get("decoupled_weight_decay") for g in groups),
        settings=tuple(_read_numbers(group) for group in groups),
        resting=frozenset(names[id(p)] for p in _list_resting(groups) if id(p) in names),
        searches=any(group.get("line_search_fn") for group in groups),
    )


def _read_numbers(group: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among the options of a group, those in a pair each for itself."""
    found = {}
    for option, value in group.items():
        parts = enumerate(value) if isinstance(value, tuple) else ()
        each = {f"{option}[{i}]": part for i, part in parts} or {option: value}
        for name, number in each.items():
            is_tensor = hasattr(number, "numel") and number.numel() == 1
            if is_tensor or isinstance(number, float | int):
                found[name] = float(number)
    return found


def _list_resting(groups: list[dict[str, Any]]) -> list[Any]:
    """The parameters of groups with a rate of 0, where another group has a higher one."""
    if not any(group.get("lr") for group in groups):
        return []
    return [p for group in groups if group.get("lr") == 0 for p in group["params"]]
