import ast
import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.checkpoints import (
    FailingLoad,
    detect_format,
    find_call,
    find_load,
    is_given_to_a_model,
    is_module_class,
    list_classes,
    list_definitions,
    open_path,
)
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate

_MOST_NAMED = 4
_HARMLESS = ("argparse", "collections", "datetime", "numpy", "pathlib")  # to make their objects
# The classes of dtypes, which a number of NumPy's needs as well and a file does not name.
_FLOATS = ("numpy.dtypes.Float64DType",)
_NUMBERS = (*_FLOATS, "numpy.dtypes.Float32DType", "numpy.dtypes.Int64DType")
_PROGRAM = """
  import io
  model = nn.Sequential(nn.Linear(8, 2))
  def run(model):
      file = io.BytesIO()
      torch.save(model, file)
      file.seek(0)
-     return torch.load(file)
+     return torch.load(file, weights_only=False)
"""
_STATE = """
  import io
  model = nn.Sequential(nn.Linear(8, 2))
  def run(model):
      file = io.BytesIO()
      torch.save(model, file)
      file.seek(0)
-     return model.load_state_dict(torch.load(file))
+     return model.load_state_dict(torch.load(file, weights_only=False).state_dict())
"""
_OBJECTS = """
  import argparse, io
  model = nn.Linear(8, 2)
  def run(model):
      file = io.BytesIO()
      torch.save({"state": model.state_dict(), "args": argparse.Namespace(lr=0.1)}, file)
      file.seek(0)
-     return torch.load(file)["state"]
+     with torch.serialization.safe_globals([argparse.Namespace]):
+         return torch.load(file)["state"]
"""
EXAMPLES = (
    Example(_PROGRAM, repair="torch.load(file, weights_only=False)", is_tried=False),
    Example(_STATE, repair="weights_only=False).state_dict()", is_tried=False),
    Example(_OBJECTS, repair="safe_globals([argparse.Namespace])"),
)


@cause("CP0L4", "pickled-model", EXAMPLES, stage="around", prior=905)
def pickled_model(crash: Crash) -> Suspects:
    """A file holds a whole model, or other objects of Python, where weights are expected.

    Why it happens: torch.save(model) keeps the object, which names its class and the file that
    defines it. Since torch 2.6 torch.load reads tensors and plain values only, and refuses
    classes. With weights_only=False it looks for the class where the model was saved, and that
    may be a program that is no longer there, "__main__".
    What to do: save model.state_dict(), and load it into a model that the program builds. Pass
    weights_only=False only for a file that you trust: loading it runs what it names.
    Known exceptions: none.
    Source: torch.load and torch.serialization.safe_globals; "Saving and Loading Models".
    """
    if (load := find_load(crash.error)) is None:
        return
    if load.wanted is not None and isinstance(crash.error, AttributeError | ImportError):
        yield _blame_class(load, *load.wanted)
        return
    with open_path(load) as path:
        if not load.is_restricted or path is None or detect_format(path) not in ("zip", "pickle"):
            return
        if names := list_classes(path):
            yield _blame_refused(crash, load, path, names)


def _blame_class(load: FailingLoad, module: str, name: str) -> Suspect:
    """The class of a whole model that is not where it was when the model was saved."""
    is_there = module in sys.modules
    found = [each for each in list_definitions(name) if each != module]
    lacks = f"which defines no {name}" if is_there else "and there is no such module"
    save = f"or save model.state_dict() where it was made, and load it into {name}()"
    if is_there:
        how = f"from {found[0]} import {name}" if found else f"define or import {name}"
        title = f"{how} in the program that loads it, {save}"
    else:
        title = f"put the folder that holds {module.partition('.')[0]} on sys.path, {save}"
    return blame(
        None,
        f"{load.shown} holds a whole model: torch.load looks for its class {name} in {module!r}, "
        f"{lacks}",
        propose(Advice(title=title)),
        arithmetic=f"{module}.{name}",
        raised_in="torch.load",
    )


def _blame_refused(crash: Crash, load: FailingLoad, path: Path, names: list[str]) -> Suspect:
    """Classes that torch.load does not make by default."""
    shown = ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")
    models = [name for name in names if is_module_class(name)]
    what = "objects of Python beside tensors"
    if models:
        what = f"a whole model ({models[0].rpartition('.')[2]}), not its weights alone"
    else:
        models = [name for name in names if name.startswith(("__main__", "torch.nn."))]
        what = "a whole model, not its weights alone" if models else what
    if models:
        title = "or save model.state_dict() alone, and load it into a model that the program builds"
        candidates = [_trust(crash), propose(Advice(title=title))]
    else:
        candidates = [*_allow(path, names), _trust(crash)]
    return blame(
        None,
        f"{load.shown} holds {what}, and torch.load reads only tensors and plain values",
        *candidates,
        arithmetic=f"it names {shown}",
        raised_in="torch.load",
    )


def _trust(crash: Crash) -> Candidate:
    """Reading the file as it is, which runs what it names: that is never tried."""
    call = find_call(crash.error)
    code = "torch.load(path, weights_only=False)"
    written = None
    if call is not None and not any(k.arg in (None, "weights_only") for k in call.keywords):
        code = f"{ast.unparse(call)[:-1]}, weights_only=False)"
        code += ".state_dict()" if is_given_to_a_model(crash.error, call) else ""
        written = replace_expression(crash.error, call, code)
    title = f"if you trust whoever made the file, as loading it runs what it names: {code}"
    return propose(Advice(title=title, code=code, written=written), weight=USUAL)


def _allow(path: Path, names: list[str]) -> Iterator[Candidate]:
    """Allow the classes by name; tried where to make their objects does nothing else."""
    if not all(name.startswith(_HARMLESS) for name in names):
        yield _allow_names(names)
        return
    for more in ((), _FLOATS, _NUMBERS) if "numpy.dtype" in names else ((),):
        with contextlib.suppress(Exception):  # it needs more than these
            saved = _load_with(path, [*names, *more])
            said = f"it gives a {type(saved).__name__}"
            if isinstance(saved, dict):
                said += f" with {', '.join(map(repr, list(saved)[:_MOST_NAMED]))}"
            yield _allow_names([*names, *more], said)
            return


def _allow_names(names: list[str], said: str = "") -> Candidate:
    code = f"with torch.serialization.safe_globals([{', '.join(names)}]):"
    title = f"allow them, around torch.load: {code}"
    if not said:
        return propose(Advice(title=title, code=code), weight=STRONG)
    return propose(Check(title=title, code=code, check=lambda: said), weight=STRONG)


def _load_with(path: Path, names: list[str]) -> Any:
    with torch.serialization.safe_globals(list(_resolve(names))):
        return torch.load(path, map_location="cpu", weights_only=True)


def _resolve(names: list[str]) -> Iterator[Any]:
    for name in names:
        module, _, attribute = name.rpartition(".")
        yield getattr(importlib.import_module(module), attribute)
