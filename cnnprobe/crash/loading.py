"""A state_dict that does not fit its model: other shapes, other names, a prefix too many. Loads it into shadows of the model."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.model_copy import copy_model
from cnnprobe.crash.training import Crash, Verdict
from cnnprobe.explanation import Repair
from cnnprobe.recorder.inventory import class_of, named_modules

_MOST_NAMED = 4
_BY_CHANNELS = ("out_channels", "in_channels")
# The arguments that the sizes of a layer's weight stand for. Source: the pages of the layers in the documentation of torch.nn.
_SIZES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Linear: ("out_features", "in_features"),
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _BY_CHANNELS),
    **dict.fromkeys((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), ("num_features",)),
    nn.Embedding: ("num_embeddings", "embedding_dim"),
}
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, of torch.compile, of a wrapper


def explain_loading(crash: Crash) -> Verdict | None:
    """Why load_state_dict raised; None where it was something else that raised."""
    found = read_frame(crash.error, "torch/nn/modules/module.py", "load_state_dict")
    model, state = (found or {}).get("self"), (found or {}).get("state_dict")
    if not isinstance(model, nn.Module) or not isinstance(state, Mapping):
        return None
    own = model.state_dict()
    resized = [
        name
        for name, value in state.items()
        if name in own and isinstance(value, Tensor) and value.shape != own[name].shape
    ]
    missing, surplus = [n for n in own if n not in state], [n for n in state if n not in own]
    said = [
        f"{name} is {tuple(state[name].shape)} there and {tuple(own[name].shape)} here"
        for name in resized[:_MOST_NAMED]
    ]
    said += (
        [f"{len(missing)} names of the model are not in it ({_listed(missing)})"] if missing else []
    )
    said += (
        [f"{len(surplus)} of its names are not in the model ({_listed(surplus)})"]
        if surplus
        else []
    )
    return Verdict(
        diagnosis="state-mismatch",
        module=resized[0].rpartition(".")[0] if resized and model is crash.model else None,
        message=f"the state_dict does not fit {class_of(model).__name__}: {'; '.join(said) or 'the names and shapes agree'}",
        arithmetic=f"{len(own)} entries here, {len(state)} there, {len(resized)} of another shape",
        repairs=tuple(_repairs(model, own, state, resized)),
        raised_in="load_state_dict",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")


def _repairs(
    model: nn.Module, own: Mapping[str, Any], state: Mapping[str, Any], resized: list[str]
) -> list[Repair]:
    for prefix in _PREFIXES:
        shorter = {name.removeprefix(prefix) for name in state} == set(own) != set(state)
        longer = {prefix + name for name in state} == set(own)
        if shorter or longer:
            how = f"n.removeprefix({prefix!r})" if shorter else f"{prefix!r} + n"
            tried = "" if resized else "tried: every name then fits"
            return [
                Repair(
                    title=f"rename its entries: {{{how}: v for n, v in state.items()}}",
                    works=not resized,
                    plausible=not resized,
                    tried=tried,
                )
            ]
    if resized:
        return [*_as_it_was(model, own, state, resized), _without(model, own, state, resized)]
    return [
        Repair(
            title="pass strict=False, if what is missing is to keep its fresh values",
            code="strict=False",
        )
    ]


def _loads(
    model: nn.Module, state: Mapping[str, Any], edits: tuple[Edit, ...], *, strict: bool
) -> bool:
    """Whether a shadow of the model takes a state."""
    shadow = copy_model(model, (), {}, meta=True)
    if shadow is None:
        return False
    try:
        shadow.apply(edits)
        shadow.model.load_state_dict(
            {n: v.to("meta") if isinstance(v, Tensor) else v for n, v in state.items()},
            strict=strict,
        )
    except Exception:  # whatever it is: it does not load
        return False
    return True


def _without(
    model: nn.Module, own: Mapping[str, Any], state: Mapping[str, Any], resized: list[str]
) -> Repair:
    """What fits is loaded, the layers of another size keep their fresh values."""
    fitting = {name: value for name, value in state.items() if name not in resized}
    loaded = sum(name in own for name in fitting)
    works = _loads(model, fitting, (), strict=False)
    parts = ", ".join(
        list(dict.fromkeys(repr(name.rpartition(".")[0]) for name in resized))[:_MOST_NAMED]
    )
    return Repair(
        title=f"leave out what is of another size, and pass strict=False: {parts} keep{'s' * (', ' not in parts)} fresh values",
        code="{n: v for n, v in state.items() if n in own and v.shape == own[n].shape}",
        works=works,
        plausible=works and 2 * loaded > len(own),
        tried=f"tried: {loaded} of {len(own)} entries are loaded then" if works else "",
    )


def _as_it_was(
    model: nn.Module, own: Mapping[str, Any], state: Mapping[str, Any], resized: list[str]
) -> list[Repair]:
    """The layers in the sizes that the state has for them, where its kind has them among its settings."""
    modules: dict[str, Any] = {fqn: module for fqn, module, _ in named_modules(model)}
    edits: dict[str, Edit] = {}
    for name in resized:
        fqn, _, kind = name.rpartition(".")
        module, here, there = modules.get(fqn), own[name].shape, state[name].shape
        names = _SIZES.get(type(module)) if module is not None else None
        if names is None or len(here) != len(there):
            return []
        if kind == "weight":
            changes = {what: there[i] for i, what in enumerate(names) if here[i] != there[i]}
            texts = ", ".join(f"{what}={n}" for what, n in changes.items())
            edits[fqn] = Reconfigure(
                title=f"{texts} in {quote(fqn)}", code=texts, module=fqn, changes=changes
            )
    if not edits or not _loads(model, state, tuple(edits.values()), strict=True):
        return []
    said = " and ".join(edit.title for edit in edits.values())
    title = f"build the model as it was when the state was saved, with {said}" + (
        "; put another layer in its place after loading" if len(edits) == 1 else ""
    )
    return [
        Repair(
            title=title,
            code=said,
            module=next(iter(edits)),
            works=True,
            plausible=True,
            tried="tried: every entry then fits",
        )
    ]
