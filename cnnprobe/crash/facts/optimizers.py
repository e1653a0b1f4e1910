"""Which parameters an optimizer's state was saved of, and where the optimizer is made."""

import ast
import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.facts.frames import find_assigned_value, find_frames, read_names
from cnnprobe.crash.facts.words import shorten


def find_saved_module(crash: Crash, optimizer: Optimizer, state: Mapping[str, Any]) -> str | None:
    """The module whose parameters are as many as were saved, and of the shapes of their state."""
    count = sum(len(group["params"]) for group in state["param_groups"])
    own = [tuple(p.shape) for group in optimizer.param_groups for p in group["params"]]
    entries = [state.get("state", {}).get(i, {}) for i in range(count)]
    found = [[tuple(t.shape) for t in e.values() if isinstance(t, Tensor)] for e in entries]
    for fqn, module in crash.modules.items():
        held = [tuple(p.shape) for p in module.parameters()]
        fits = all(not s or h in s for s, h in zip(found, held, strict=False))
        if len(held) == count and held != own and fits:
            return fqn
    return None


def make_for(crash: Crash, optimizer: Optimizer, state: Mapping[str, Any], fqn: str) -> Check:
    """An optimizer for a module, which takes the state."""
    module, values = crash.modules[fqn], read_names(crash.error)
    path_of = f"model.{fqn}".rstrip(".")
    is_plain = all(part.isidentifier() for part in path_of.split("."))
    owner = path_of if is_plain else f"model.get_submodule({fqn!r})"
    owner = next((n for n, v in values.items() if v is module), owner)
    name = next((n for n, v in values.items() if v is optimizer), "the optimizer")
    made = find_assigned_value(crash.error, name)
    path = find_frames(crash.error)[-1].filename
    given = made.args[0] if isinstance(made, ast.Call) and made.args else None
    kind: Any = type(optimizer)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    more = count - len(list(module.parameters()))
    title = f"make {name} for {owner}.parameters()"
    title += f" at {shorten(f'{path}:{made.lineno}')}" if made is not None else ""
    if more > 0:
        title += f", and add the other {more} by {name}.add_param_group after the state is loaded"

    def check() -> str:
        known = inspect.signature(kind).parameters
        settings = {key: value for key, value in optimizer.defaults.items() if key in known}
        other = kind([p.detach().clone() for p in module.parameters()], **settings)
        other.load_state_dict(copy.deepcopy(dict(state)))
        return f"another {kind.__name__} for them takes the state"

    def write() -> list[TextChange]:
        if given is None or more > 0:  # the rest would silently not be trained
            raise UnknownPlaceError
        return [open_file(path).replace(given, f"{owner}.parameters()")]

    return Check(title=title, code=f"{owner}.parameters()", check=check, written=write)
