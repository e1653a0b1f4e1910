"""A state_dict that does not fit its model: other shapes, other names, a prefix too many."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.training import Training, Verdict
from cnnprobe.crash.users_code import frame_locals
from cnnprobe.explanation import Repair
from cnnprobe.recorder.inventory import class_of

_MOST_NAMED = 4
_PREFIXES = ("module.", "_orig_mod.", "model.")  # of DataParallel, of torch.compile, of a wrapper


def explain_loading(training: Training) -> Verdict | None:
    """Why load_state_dict raised; None where it was something else that raised."""
    found = frame_locals(training.error, "torch/nn/modules/module.py", "load_state_dict")
    model, state = (found or {}).get("self"), (found or {}).get("state_dict")
    if not isinstance(model, nn.Module) or not isinstance(state, Mapping):
        return None
    own = model.state_dict()
    resized = [name for name, value in state.items() if name in own and isinstance(value, Tensor) and value.shape != own[name].shape]
    missing, surplus = [n for n in own if n not in state], [n for n in state if n not in own]
    said = [f"{name} is {tuple(state[name].shape)} there and {tuple(own[name].shape)} here" for name in resized[:_MOST_NAMED]]
    said += [f"{len(missing)} names of the model are not in it ({_listed(missing)})"] if missing else []
    said += [f"{len(surplus)} of its names are not in the model ({_listed(surplus)})"] if surplus else []
    return Verdict(
        diagnosis="state-mismatch",
        module=resized[0].rpartition(".")[0] if resized and model is training.model else None,
        message=f"the state_dict does not fit {class_of(model).__name__}: {'; '.join(said) or 'the names and shapes agree'}",
        arithmetic=f"{len(own)} entries here, {len(state)} there, {len(resized)} of another shape",
        repairs=tuple(_repairs(own, state, resized=bool(resized))),
        raised_in="load_state_dict",
    )


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:_MOST_NAMED])) + (", ..." if len(names) > _MOST_NAMED else "")


def _repairs(own: Mapping[str, Any], state: Mapping[str, Any], *, resized: bool) -> list[Repair]:
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
        return [Repair(title="build the model as it was when the state was saved, or leave these entries out and pass strict=False")]
    return [Repair(title="pass strict=False, if what is missing is to keep its fresh values", code="strict=False")]
