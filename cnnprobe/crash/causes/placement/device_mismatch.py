from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.utils._pytree import tree_map

from cnnprobe.crash.cause import (
    STRONG,
    USUAL,
    Crash,
    Example,
    Suspect,
    Suspects,
    blame,
    cause,
    propose,
)
from cnnprobe.crash.edits.attributes import Move, SetAttribute
from cnnprobe.crash.edits.build import adapt_call, change_input, is_root_input
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.places import find_called, get_given
from cnnprobe.crash.facts.methods import find_method
from cnnprobe.crash.facts.placement import (
    describe_hidden,
    find_listed,
    find_usual,
    list_hidden_layers,
    list_own,
    move,
    register_attribute,
    register_hidden,
)
from cnnprobe.crash.facts.words import operation, quote
from cnnprobe.operations import find_signature
from cnnprobe.records.trace import ModuleCall, TensorInfo

_NO_BUFFER = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 4)
-         self.scale = torch.ones(4)
+         self.register_buffer("scale", torch.ones(4))
      def forward(self, x):
          return self.fc(x) * self.scale
  model, args = Net().to("meta"), (torch.randn(2, 4, device="meta"),)
"""
NO_BUFFER = Example(
    _NO_BUFFER, blames="", repair="register it: self.register_buffer('scale', ...)", on_meta=False
)
_IN_A_LIST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Linear(4, 8)
-         self.heads = [nn.Linear(8, 2) for _ in range(3)]
+         self.heads = nn.ModuleList([nn.Linear(8, 2) for _ in range(3)])
      def forward(self, x):
          h = self.body(x)
          return [head(h) for head in self.heads]
  model, args = Net().to("meta"), (torch.randn(2, 4, device="meta"),)
"""
IN_A_LIST = Example(_IN_A_LIST, blames="", repair="self.heads = nn.ModuleList(...)", on_meta=False)
_MADE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(4, 4, 3)
      def forward(self, x):
-         place = torch.linspace(0, 1, x.shape[-1]).expand(len(x), 1, *x.shape[2:])
+         place = torch.linspace(0, 1, x.shape[-1], device=x.device)
+         place = place.expand(len(x), 1, *x.shape[2:])
          return self.conv(torch.cat([x, place], dim=1))
  model, args = Net().to("meta"), (torch.randn(2, 3, 9, 9, device="meta"),)
"""
MADE = Example(_MADE, blames="", repair="pass device=x.device", on_meta=False)


@cause("CP065", "device-mismatch", (NO_BUFFER, IN_A_LIST, MADE), prior=1000)
def device_mismatch(crash: Crash) -> Suspects:
    """A tensor or a layer is on another device than what it is computed with.

    Why it happens: the input was not moved; or model.to(device) has left behind what it does not
    know: plain tensors, layers in a plain list, tensors that the forward makes.
    What to do: move the input, register tensors as buffers and layers in nn.ModuleList, and make
    tensors with device=x.device.
    Known exceptions: a tensor without dims on the CPU fits every device.
    Source: torch.nn.Module.to and torch.nn.Module.register_buffer.
    """
    if (call := crash.call) is None or not call.inputs:
        return
    own = {name: str(t.device) for name, t in list_own(crash).items()}
    arrived = [t.device for t in call.inputs if t.shape]
    if len({*arrived, *own.values()}) < 2:
        return
    if (apart := _explain_meta(crash)) is not None:
        yield apart
        return
    usual = _find_usual_device(crash, call, arrived)
    strange = next((device for device in own.values() if device != usual), None)
    if strange is not None:
        yield _explain_layer(crash, call.fqn or "", strange, usual)
        return
    for position, info in enumerate(call.inputs):
        if info.device != usual and info.shape:
            yield _explain_tensor(crash, call, position, usual)
            return


def _explain_meta(crash: Crash) -> Suspect | None:
    """A whole model or a whole input without values, where some layers ran on both."""
    layers = (crash.modules.get(c.fqn) for c in crash.trace.calls if c.completed and c.fqn)
    if not any(layer is not None and layer._parameters for layer in layers):
        return None
    models = {p.device for p in crash.trace.parameters}
    inputs = {t.device for t in crash.root_inputs if t.shape}
    if len(models) != 1 or len(inputs) != 1 or models == inputs or "meta" not in models | inputs:
        return None
    (model,), (given,) = models, inputs
    code = (
        f"{{x}}.to({model!r})" if model == "meta" else f"torch.randn_like({{x}}, device={model!r})"
    )
    title = f"give it an input with values: x = {code.format(x='x')}"
    if model == "meta":
        title = "move the input, to see shapes alone: x = x.to('meta')"
    edit = change_input(lambda t: move(t, model), code, every=True, title=title)
    build = Advice(
        title="build the model without the meta device; or model.to_empty(device='cpu'), and load "
        "its weights"
    )
    message = f"the input is on {given}, the model on {model}: meta tensors have no values"
    edits = (propose(build), propose(edit)) if model == "meta" else (propose(edit),)
    arithmetic = f"parameters: {model}; the input: {given}"
    return blame("", message, *edits, arithmetic=arithmetic)


def _find_usual_device(crash: Crash, call: ModuleCall, arrived: list[str]) -> str:
    """Where the layers are that ran already, or most of the parameters."""
    for _, row in crash.walk_back(call.inputs[0]):
        layer = crash.modules.get(row.fqn or "")
        if row.fqn is not None and layer is not None and layer._parameters and row.outputs:
            return row.outputs[0].device
    return find_usual([p.device for p in crash.trace.parameters], arrived)


def _explain_layer(crash: Crash, fqn: str, device: str, usual: str) -> Suspect:
    title = f"move {quote(fqn)} to {usual}: model.to({usual!r})"
    edit = Move(title=title, code=f".to({usual!r})", module=fqn, device=usual)
    given = ", ".join(t.device for t in crash.root_inputs)
    message = f"{crash.describe_module(fqn)} is on {device}, the rest of the model on {usual}"
    return blame(fqn, message, edit, arithmetic=f"{quote(fqn)}: {device}; the input: {given}")


def _explain_tensor(crash: Crash, call: ModuleCall, position: int, usual: str) -> Suspect:
    info = call.inputs[position]
    attribute = crash.find_attribute(info)
    if isinstance(info.source, str):
        return _explain_layer(crash, crash.owner_of_parameter(info.source), info.device, usual)
    found = (
        _explain_attribute(crash, info, usual)
        if attribute is not None
        else _explain_input(crash, call, info, usual)
        or _explain_hidden(crash, info, usual)
        or _explain_listed(crash, info, usual)
        or _explain_made(crash, info, usual, position)
    )
    pairs = (f"{t.shape} on {t.device} from {crash.describe_origin(t)}" for t in call.inputs[:4])
    return replace(found, arithmetic="; ".join(pairs), weight=STRONG)


def _explain_attribute(crash: Crash, info: TensorInfo, usual: str) -> Suspect:
    owner, name = crash.find_attribute(info) or ("", "")
    edit = register_attribute(owner, name, lambda t: move(t, usual))
    message = (
        f"the tensor '{name}' of {crash.describe_module(owner)} is no buffer, "
        f"so .to() left it on {info.device}"
    )
    return blame(owner, message, edit, weight=USUAL)


def _explain_input(crash: Crash, call: ModuleCall, info: TensorInfo, usual: str) -> Suspect | None:
    if not crash.is_input(info) and not is_root_input(crash, info):
        return None
    blamed = call.fqn if call.fqn is not None else crash.owner
    title, code = f"move the input: x = x.to({usual!r})", f"{{x}}.to({usual!r})"
    edit = change_input(lambda t: move(t, usual), code, every=True, title=title)
    message = f"the input is on {info.device}, {crash.describe_module(blamed)} on {usual}"
    return blame(blamed, message, edit, weight=USUAL)


def _explain_hidden(crash: Crash, info: TensorInfo, usual: str) -> Suspect | None:
    if not (hidden := list_hidden_layers(crash, lambda t: str(t.device) != usual, info)):
        return None
    message = f"{describe_hidden(crash, hidden)}, so .to() left them on {info.device}"
    return blame(hidden[0].owner, message, register_hidden(hidden, device=usual), weight=USUAL)


def _explain_listed(crash: Crash, info: TensorInfo, usual: str) -> Suspect | None:
    if (found := find_listed(crash, info) if info.source is None else None) is None:
        return None
    owner, name = found
    edit = SetAttribute(
        title=f"register each of them: self.register_buffer(f'{name}{{i}}', ...), so that they "
        "move with the model",
        code="self.register_buffer",
        module=owner,
        name=name,
        value=lambda module: tree_map(lambda t: move(t, usual), getattr(module, name)),
    )
    message = (
        f"the tensors in '{name}' of {crash.describe_module(owner)} are in a plain list "
        f"or dict, so .to() left them on {info.device}"
    )
    return blame(owner, message, edit, weight=USUAL)


def _explain_made(crash: Crash, info: TensorInfo, usual: str, position: int) -> Suspect:
    if makers := _list_makers(crash, usual):
        edits = [_make_there(crash, row, usual) for row in makers]
        made = ", ".join(dict.fromkeys(crash.describe_call(row) for row in makers))
        message = f"{made} makes a tensor on {info.device}, the model is on {usual}"
        if len(makers) > 1:
            message = f"{made} make tensors on {info.device}, the model is on {usual}"
        return blame(crash.owner, message, propose(*edits, weight=STRONG), weight=USUAL)
    edit = adapt_call(crash, lambda t: move(t, usual), f"{{x}}.to({usual!r})", position=position)
    title = f"make it where the input is: device=x.device, or .to({usual!r})"
    message = (
        f"a tensor from {crash.describe_origin(info)} is on {info.device}, the model on {usual}"
    )
    return blame(crash.owner, message, replace(edit, title=title, written=None), weight=USUAL)


def _list_makers(crash: Crash, usual: str) -> list[ModuleCall]:
    """The functions that made the tensors on another device, out of no tensor: torch.zeros."""
    found: dict[int, ModuleCall] = {}
    for info in crash.inputs:
        index, row = next(iter(crash.list_path(info)), (-1, None))
        if info.device == usual or row is None or not info.shape:
            continue
        signature = find_signature(row.kind)
        takes_device = getattr(torch, operation(row), None) is not None and not row.inputs
        if row.fqn is not None or not takes_device or signature is None:
            return []
        found[index] = row
    return list(found.values())


def _make_there(crash: Crash, row: ModuleCall, usual: str) -> Edit:
    """The same function with the device of what the forward was given."""
    owner = crash.find_module_above(row.parent)
    method = find_method(crash.modules[owner], owner)
    names = method.function.__code__.co_varnames[1:2] if method is not None else ()
    code = f"device={(*names, 'x')[0]}.device"

    def make(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **{**kwargs, "device": usual})

    def write() -> list[TextChange]:
        file, call = find_called(row.source, operation(row))
        if (given := get_given(call, [], "device")) is not None:
            return [file.replace(given, code.removeprefix("device="))]
        end = file.span(call)[1] - 1
        return [TextChange(file.path, end, end, f", {code}")]

    return rewrite_call(
        crash, row, make, title=f"pass {code} at {{place}}", code=code, written=write
    )
