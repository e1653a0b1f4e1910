import ast
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_assignment, read_frame
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates

_WEIGHT = """
  model = nn.Sequential(nn.Embedding(6, 4), nn.Flatten(), nn.Linear(12, 2))
  def run(model):
      vectors = torch.eye(6)[:, :4]
-     model[0].weight = vectors
+     model[0].weight = nn.Parameter(vectors)
      return model(torch.tensor([[0, 3, 5]]))
"""
WEIGHT = Example(_WEIGHT, blames="0", repair="nn.Parameter(vectors)")
_LAYER = """
  model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))
  def run(model):
      model.add_module("1", nn.Linear(4, 2))
      model[0].activation = nn.ReLU()
-     model[0].activation = nn.GELU
+     model[0].activation = nn.GELU()
      return model(torch.ones(2, 6))
"""
LAYER = Example(_LAYER, blames="0", repair="nn.GELU()")


@cause("CP0H2", "assigned-of-another-kind", (WEIGHT, LAYER), stage=("forward", "loss"), prior=950)
def assigned_of_another_kind(crash: Crash) -> Suspects:
    """A module was given something else where it has a parameter, a buffer or a layer.

    Why it happens: the name is registered, so that only another nn.Parameter, tensor or nn.Module
    can take its place: a tensor is no parameter, a class or a function no layer.
    What to do: wrap weights in nn.Parameter(...), construct the layer, or copy values under
    torch.no_grad(): layer.weight.copy_(weights).
    Known exceptions: None is accepted everywhere.
    Source: torch.nn.Module.__setattr__.
    """
    given = read_frame(crash.error, "torch/nn/modules/module.py", "__setattr__")
    if given is None or not isinstance(crash.error, TypeError):
        return
    module, name, value = given["self"], given["name"], given["value"]
    registries = ("_parameters", "_modules", "_buffers")
    if not (held := [key for key in registries if name in module.__dict__.get(key, ())]):
        return
    kind = {"_parameters": "parameter", "_modules": "layer", "_buffers": "buffer"}[held[0]]
    wanted = {"parameter": "nn.Parameter", "layer": "nn.Module", "buffer": "tensor"}[kind]
    fqn = next((key for key, one in crash.modules.items() if one is module), None)
    what = quote(fqn) if fqn is not None else type(module).__name__
    shown = value.__name__ if isinstance(value, type) else type(value).__name__
    yield blame(
        fqn,
        f"'{name}' is a {kind} of {what}, which takes an {wanted} or None, but was given "
        f"{'the class' if isinstance(value, type) else 'a'} {shown}".replace(
            "an tensor", "a tensor"
        ),
        *_mend(crash, kind, module, name, value),
        arithmetic=_compare(module._parameters.get(name), value),
        raised_in="" if crash.stage == "forward" else "torch.nn.Module.__setattr__",
    )


def _compare(old: Tensor | None, value: Any) -> str:
    if not isinstance(old, Tensor) or not isinstance(value, Tensor):
        return ""
    return f"the parameter is {tuple(old.shape)}, the tensor {tuple(value.shape)}"


def _mend(crash: Crash, kind: str, module: nn.Module, name: str, value: Any) -> Candidates:
    node = find_assignment(crash.error)
    text = ast.unparse(node.value) if node is not None else "x"
    if crash.stage == "forward" and kind == "parameter":
        title = f"keep it in a name of the forward's own: {name} = {text}"
        yield propose(Advice(title=title, code=f"{name} = {text}"))
        return
    made: dict[str, tuple[bool, str, Callable[..., Any]]] = {
        "parameter": (isinstance(value, Tensor), f"nn.Parameter({text})", nn.Parameter),
        "layer": (isinstance(value, type), f"{text}()", lambda layer: layer()),
        "buffer": (True, f"torch.as_tensor({text})", torch.as_tensor),
    }
    fits, code, build = made[kind]
    if not fits:
        return

    def check() -> str:
        built = build(value)
        return f"it makes a {type(built).__name__}" + (
            f" of {tuple(built.shape)}" if isinstance(built, Tensor) else ""
        )

    written = replace_expression(crash.error, node.value, code) if node is not None else None
    title = f"write {ast.unparse(node.targets[0]) if node is not None else name} = {code}"
    yield propose(Check(title=title, code=code, check=check, written=written), weight=STRONG)
    if kind == "parameter" and isinstance(module._parameters.get(name), Tensor):
        place = ast.unparse(node.targets[0]) if node is not None else name
        title = f"or copy the values: with torch.no_grad(): {place}.copy_({text})"
        yield propose(Advice(title=title, code="copy_"), weight=USUAL)
