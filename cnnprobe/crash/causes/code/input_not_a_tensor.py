import ast
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import STRONG, Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import change_input
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.inputs import ChangeArguments
from cnnprobe.crash.facts.frames import read_arguments
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
- args = ([torch.randn(3, 8, 8), torch.randn(3, 8, 8)],)
+ args = (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="0", repair="pass torch.stack(x) to the model")


@cause("CP051", "input-not-a-tensor", EXAMPLE, family="not-a-tensor", prior=900)
def input_not_a_tensor(crash: Crash) -> Suspects:
    """The model is given something that is no tensor, but a layer or function needs one.

    Why it happens: a Dataset without ToTensor gives PIL images or arrays of numpy; a batch is a
    list of samples or a dict; a path is passed in the place of the image.
    What to do: turn it into a tensor before the call.
    Known exceptions: detectors and tokenized models are made for lists and dicts. Only where the
    list itself is refused does this page apply.
    Source: torch.as_tensor and torch.stack in the documentation of PyTorch.
    """
    given = crash.args[0] if crash.args else next(iter(crash.kwargs.values()), None)
    if given is None or isinstance(given, Tensor) or not _is_refused(crash, given):
        return
    kind, shape = type(given), getattr(given, "shape", None)
    first, is_text = crash.call, isinstance(given, str | bytes)
    who = crash.describe_call(first) if first is not None and crash.index else "its forward"
    yield blame(
        first.fqn if first is not None and first.fqn is not None else crash.owner,
        f"the model was given a {kind.__name__}, but {who} needs a tensor",
        *_convert(given),
        arithmetic=f"type {kind.__module__}.{kind.__name__}"
        + (f", shape {tuple(shape)}" if isinstance(shape, tuple) else ""),
        evidence=("load the file first, and turn the image into a tensor",) if is_text else (),
    )


def _is_refused(crash: Crash, given: Any) -> bool:
    """Whether it is the very thing that the failing call refused, and not a part of it."""
    if crash.leaf is not None:
        found = read_arguments(crash.error, crash.leaf)
        return found is not None and any(v is given for v in (*found[0], *found[1].values()))
    if not isinstance(crash.error, AttributeError | TypeError):
        return False
    line = read_failing_line(crash)
    named = [line.names.get(node.id) for node in line.nodes if isinstance(node, ast.Name)]
    return getattr(crash.error, "obj", None) is given or any(value is given for value in named)


def _convert(given: Any) -> Candidates:
    if isinstance(given, dict):
        yield from _take_from_dict(given)
    elif isinstance(given, list | tuple) and given and all(isinstance(v, Tensor) for v in given):
        if len({v.shape for v in given}) == 1:
            edit = change_input(lambda v: torch.stack(list(v)), "torch.stack({x})")
            yield propose(edit, weight=STRONG)
        yield propose(change_input(lambda v: v[0], "{x}[0]"))
        yield propose(_call_with("*x", lambda a, k: ((*a[0], *a[1:]), k)))
    elif hasattr(given, "__array_interface__") or isinstance(given, list | tuple):
        yield propose(_from_array(given), weight=STRONG)


def _call_with(code: str, function: Any) -> Edit:
    return ChangeArguments(title=f"call it as model({code})", code=code, function=function)


def _take_from_dict(given: dict[Any, Any]) -> Candidates:
    if all(isinstance(key, str) for key in given):
        yield propose(_call_with("**x", lambda a, k: (a[1:], {**a[0], **k})))
    floats = [k for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()]
    if floats:
        yield propose(change_input(lambda v: v[floats[0]], f"{{x}}[{floats[0]!r}]"))


def _from_array(given: Any) -> Edit:
    is_image = hasattr(given, "mode") and hasattr(given, "size") and not hasattr(given, "shape")

    def convert(value: Any) -> Tensor:
        import numpy as np

        x = torch.as_tensor(np.asarray(value).copy()).float()
        if not is_image:
            return x
        return (x[None] if x.dim() == 2 else x.permute(2, 0, 1))[None] / 255

    code = "torchvision.transforms.v2.functional.to_dtype(to_image({x}), scale=True)[None]"
    return change_input(convert, code if is_image else "torch.as_tensor({x}).float()")
