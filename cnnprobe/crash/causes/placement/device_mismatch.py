from dataclasses import replace

from torch.utils._pytree import tree_map

from cnnprobe.crash.cause import STRONG, USUAL, Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import Move, SetAttribute
from cnnprobe.crash.edits.build import adapt_call, change_input, is_root_input
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
from cnnprobe.crash.facts.words import quote
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


@cause("CP065", "device-mismatch", (NO_BUFFER, IN_A_LIST), prior=1000)
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
    usual = _find_usual_device(crash, call, arrived)
    strange = next((device for device in own.values() if device != usual), None)
    if strange is not None:
        yield _explain_layer(crash, call.fqn or "", strange, usual)
        return
    for position, info in enumerate(call.inputs):
        if info.device != usual and info.shape:
            yield _explain_tensor(crash, call, position, usual)
            return


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
    edit = adapt_call(crash, lambda t: move(t, usual), f"{{x}}.to({usual!r})", position=position)
    title = f"make it where the input is: device=x.device, or .to({usual!r})"
    message = (
        f"a tensor from {crash.describe_origin(info)} is on {info.device}, the model on {usual}"
    )
    return blame(crash.owner, message, replace(edit, title=title, written=None), weight=USUAL)
