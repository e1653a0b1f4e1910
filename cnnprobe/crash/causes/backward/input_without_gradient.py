import ast
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import (
    find_assigned_value,
    find_frames,
    parse_function,
    read_frame,
    read_names,
    walk_expression,
)
from cnnprobe.crash.facts.values import read_attribute

_FIRST = """
  model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
  def run(model):
-     images = torch.rand(2, 1, 4, 4)
+     images = torch.rand(2, 1, 4, 4).requires_grad_(True)
      score = model(images).max(1).values.sum()
      return torch.autograd.grad(score, images)[0].abs()
"""
_SECOND = """
  model = nn.Linear(3, 1)
  def run(model):
      alpha = torch.rand(4, 1)
-     mixed = alpha * torch.ones(4, 3) + (1 - alpha) * torch.zeros(4, 3)
+     mixed = (alpha * torch.ones(4, 3) + (1 - alpha) * torch.zeros(4, 3)).requires_grad_(True)
      scores = model(mixed)
      slopes, = torch.autograd.grad(scores.sum(), [mixed], create_graph=True)
      return (slopes.norm(2, dim=1) - 1).square().mean()
"""
EXAMPLES = (
    Example(_FIRST, repair="images = torch.rand(2, 1, 4, 4).requires_grad_(True)"),
    Example(_SECOND, repair="mixed = (alpha * torch.ones(4, 3)"),
)


@cause("CP0H1", "input-without-gradient", EXAMPLES, stage="backward", prior=901)
def input_without_gradient(crash: Crash) -> Suspects:
    """torch.autograd.grad() is asked for the gradient of a tensor that the graph does not hold.

    Why it happens: images, and what is mixed of them for a gradient penalty, do not require grad;
    or they were told to only after the forward, or a copy of them went into the model.
    What to do: x.requires_grad_(True) before the forward, and the same x in both calls.
    Known exceptions: allow_unused=True gives None for what was not used.
    Source: PyTorch, torch.autograd.grad.
    """
    if (given := read_frame(crash.error, "torch/autograd/__init__.py", "grad")) is None:
        return
    inputs, outputs = given.get("inputs"), given.get("outputs")
    found = [inputs] if isinstance(inputs, Tensor) else [*(inputs or ())]
    ends = [outputs] if isinstance(outputs, Tensor) else [*(outputs or ())]
    if not ends or not all(isinstance(t, Tensor) and t.requires_grad for t in ends):
        return
    names = _name_inputs(crash)
    for i, tensor in enumerate(found):
        name = names[i] if i < len(names) else "x"
        late = _find_late_switch(crash, name)
        if isinstance(tensor, Tensor) and not tensor.requires_grad:
            yield _suspect(tensor, f"{name} does not require grad", _require(crash, name, tensor))
            return
        if isinstance(tensor, Tensor) and not given.get("allow_unused") and late:
            said = f"{name} was told to require grad at line {late}, after the forward"
            move = Advice(title=f"call {name}.requires_grad_(True) before the forward")
            yield _suspect(tensor, said, move)
            return


def _suspect(tensor: Tensor, said: str, edit: Edit) -> Suspect:
    return blame(
        None,
        f"{said}, so that the graph holds no gradient for it",
        edit,
        arithmetic=f"{tuple(tensor.shape)}, requires_grad={tensor.requires_grad}",
        tensors=(tensor,),
        raised_in="torch.autograd.grad",
    )


def _name_inputs(crash: Crash) -> list[str]:
    """The inputs as they are written."""
    for call in (n for n in walk_expression(crash.error) if isinstance(n, ast.Call)):
        if ast.unparse(call.func).rpartition(".")[2] == "grad":
            named = {k.arg: k.value for k in call.keywords}
            node = named.get("inputs") or (call.args[1] if len(call.args) > 1 else None)
            parts = node.elts if isinstance(node, ast.List | ast.Tuple) else [node]
            return [ast.unparse(part) for part in parts if part is not None]
    return []


def _find_late_switch(crash: Crash, name: str) -> int | None:
    """The line after the last forward in which it is told to require grad."""
    tree, uses = parse_function(crash.error), list[int]()
    last = find_frames(crash.error)[-1].lineno or 0
    switched = [0]
    for node in ast.walk(tree) if tree is not None else ():
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Assign) else ""
        line = getattr(node, "lineno", 0)
        if text.startswith((f"{name}.requires_grad_(", f"{name}.requires_grad = True")):
            switched.append(line)
        elif isinstance(node, ast.Call) and line < last:
            read = {a.id for a in node.args if isinstance(a, ast.Name)}
            uses += [line] if name in read else []
    return switched[-1] if uses and min(uses) < switched[-1] <= last else None


def _require(crash: Crash, name: str, tensor: Tensor) -> Edit:
    """Make it with requires_grad; tried on a copy of the module that it is given to."""
    if (value := find_assigned_value(crash.error, name)) is None:
        return Advice(title=f"call {name}.requires_grad_(True) before the forward")
    is_simple = isinstance(value, ast.Call | ast.Name | ast.Attribute | ast.Subscript)
    text = ast.unparse(value) if is_simple else f"({ast.unparse(value)})"
    code, path = f"{text}.requires_grad_(True)", find_frames(crash.error)[-1].filename

    def write() -> list[TextChange]:
        if "\n" in code:
            raise UnknownPlaceError
        return [open_file(path).replace(value, code)]

    title, check = f"write {name} = {code}", _check(crash, name, tensor)
    if check is None:
        return Advice(title=title, code=".requires_grad_(True)", written=write)
    return Check(title=title, code=".requires_grad_(True)", check=check, written=write)


def _check(crash: Crash, name: str, tensor: Tensor) -> Callable[[], str] | None:
    tree, names = parse_function(crash.error), read_names(crash.error)
    for node in ast.walk(tree) if tree is not None else ():
        is_given = isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords
        if not is_given or ast.unparse(node.args[0]) != name:  # type: ignore[attr-defined]
            continue
        module = read_attribute(node.func, names)  # type: ignore[attr-defined]
        if isinstance(module, nn.Module):
            return lambda module=module: _differentiate(module, tensor)  # type: ignore[misc]
    return None


def _differentiate(module: nn.Module, tensor: Tensor) -> str:
    x = tensor.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        output: Any = copy.deepcopy(module)(x)
        (gradient,) = torch.autograd.grad(output.sum(), [x])
    return f"a copy of the module gives it a gradient of {tuple(gradient.shape)}"
