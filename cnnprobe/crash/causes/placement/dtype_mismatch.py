import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.attributes import Move, SetAttribute
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.placement import (
    OddTensor,
    cast_to,
    describe_hidden,
    find_listed,
    find_odd_dtype,
    find_usual_dtype,
    list_hidden_layers,
    register_attribute,
    register_hidden,
)
from cnnprobe.crash.facts.words import is_floating, quote
from cnnprobe.crash.suspect import STRONG, USUAL
from cnnprobe.records.trace import ModuleCall, TensorInfo

_CONSTANT = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.mean = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64).view(1, 3, 1, 1)
+         self.mean = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float32).view(1, 3, 1, 1)
          self.conv = nn.Conv2d(3, 4, 3)
      def forward(self, x):
          return self.conv(x - self.mean)
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
CONSTANT = Example(
    _CONSTANT, blames="", repair="make 'self.mean' of the model (Net) float32", on_meta=False
)
_IN_LISTS = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Linear(4, 8)
          self.necks = [nn.Linear(8, 8), nn.Linear(8, 8)]
          self.heads = [nn.Linear(8, 2), nn.Linear(8, 2)]
      def forward(self, x):
          h = self.body(x)
          return [head(neck(h)) for neck, head in zip(self.necks, self.heads)]
- model, args = Net().double(), (torch.randn(2, 4).double(),)
+ model, args = Net(), (torch.randn(2, 4),)
"""
IN_LISTS = Example(_IN_LISTS, blames="", repair="self.necks = nn.ModuleList(...)", on_meta=False)


_NO_BUFFER = """
  class Mixer(nn.Module):
      def __init__(self):
          super().__init__()
-         self.basis = torch.eye(8)
+         self.register_buffer("basis", torch.eye(8))
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
          return self.fc(torch.matmul(x, self.basis))
  model, args = Mixer().double(), (torch.randn(4, 8, dtype=torch.float64),)
"""
NO_BUFFER = Example(
    _NO_BUFFER, blames="", repair="register it: self.register_buffer('basis', ...)", on_meta=False
)
_SPECTRUM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(33, 2)
      def forward(self, x):
-         return self.fc(torch.fft.rfft(x))
+         return self.fc(torch.fft.rfft(x).abs())
  model, args = Net(), (torch.randn(4, 64),)
"""
SPECTRUM = Example(_SPECTRUM, blames="fc", repair="x.abs()", on_meta=False)


@cause("CP066", "dtype-mismatch", (CONSTANT, IN_LISTS, NO_BUFFER, SPECTRUM), prior=998)
def dtype_mismatch(crash: Crash) -> Suspects:
    """Tensors of two dtypes meet in an operation that computes in one.

    Why it happens: a layer, a constant or a cast on the way has another dtype; numpy makes
    float64, and .half() or .double() passes by what is not registered.
    What to do: bring the odd one to the dtype of the rest, or compute under torch.autocast. Of a
    complex spectrum take the magnitude, x.abs(): a cast drops the imaginary part.
    Known exceptions: element by element operations promote to the wider dtype.
    Source: torch docs, Tensor Attributes, "type promotion".
    """
    odd, call = find_odd_dtype(crash), crash.call
    if odd is None:
        odd = _find_complex(crash)
    if odd is None or call is None:
        return
    usual = find_usual_dtype(crash, odd.wanted, outside=call.fqn or "")
    if call.fqn is not None and odd.wanted != usual and is_floating(odd.info.dtype):
        yield _explain_layer(crash, odd, usual)
    elif call.fqn is None and isinstance(odd.info.source, str):
        yield _explain_parameter(crash, call, odd.info, odd.wanted)
    elif not crash.is_input(odd.info):
        yield from _explain_tensor(crash, odd)


def _find_complex(crash: Crash) -> OddTensor | None:
    """What a function got that knows no complex numbers, in a model of real ones."""
    x = next(iter(crash.inputs), None)
    if x is None or not x.dtype.startswith("complex") or crash.call is None:
        return None
    wanted = find_usual_dtype(crash, "")
    is_real = crash.call.fqn is None and is_floating(wanted)
    return OddTensor(info=x, position=0, module=crash.owner, wanted=wanted) if is_real else None


def _explain_layer(crash: Crash, odd: OddTensor, usual: str) -> Suspect:
    fqn, wanted, dtype = odd.module, odd.wanted, getattr(torch, usual)
    title = f"bring {quote(fqn)} to {usual}: .to(torch.{usual})"
    edit = Move(title=title, code=f".to(torch.{usual})", module=fqn, dtype=dtype)
    cast = adapt_call(crash, lambda t: t.to(getattr(torch, wanted)), f"{{x}}.to(torch.{wanted})")
    message = f"{crash.describe_module(fqn)} has {wanted} weights, the rest of the model {usual}"
    arithmetic = f"expected {wanted}, got {odd.info.dtype} {odd.info.shape}"
    return blame(fqn, message, edit, propose(cast), arithmetic=arithmetic)


def _explain_parameter(crash: Crash, call: ModuleCall, info: TensorInfo, wanted: str) -> Suspect:
    owner = crash.owner_of_parameter(str(info.source))
    title, code = f"make the parameter '{info.source}' {wanted}", f".to(torch.{wanted})"
    edit = Move(title=title, code=code, module=owner, dtype=getattr(torch, wanted))
    message = f"the parameter '{info.source}' is {info.dtype}, the rest of the model {wanted}"
    return blame(owner, message, edit, arithmetic=", ".join(t.dtype for t in call.inputs))


def _explain_tensor(crash: Crash, odd: OddTensor) -> Suspects:
    """Layers in a list, a constant that was mixed in, or a cast on the way."""
    x, dtype = odd.info, getattr(torch, odd.wanted)
    hidden = list_hidden_layers(crash, lambda t: t.dtype != dtype, x)
    if hidden:
        yield blame(
            hidden[0].owner,
            f"{describe_hidden(crash, hidden)}, so .to() left them in {x.dtype}",
            register_hidden(hidden, dtype=dtype),
            arithmetic=f"expected {odd.wanted}, got {x.dtype} {x.shape}",
            weight=STRONG + 1,
        )
        return
    attribute = crash.find_attribute(x) if x.source is None else None
    if attribute is not None:
        yield _explain_attribute(crash, odd, *attribute)
        return
    yield from _explain_mixed(crash, x, dtype)
    casts = (
        call
        for _, call in crash.walk_back(x)
        if call.outputs and call.inputs and call.outputs[0].dtype != call.inputs[0].dtype
    )
    cast = next(casts, None)
    weight = STRONG if cast is not None else USUAL
    made = f"; {crash.describe_call(cast)} made it {x.dtype}" if cast is not None else ""
    edit = adapt_call(crash, *cast_to(crash, x, odd.wanted), position=odd.position)
    yield blame(
        odd.module,
        f"{crash.describe_module(odd.module)} computes in {odd.wanted} but got {x.dtype} "
        f"(from {crash.describe_origin(x)}){made}",
        propose(edit, weight=weight),
        arithmetic=f"expected {odd.wanted}, got {x.dtype} {x.shape}",
        weight=weight,
    )


def _explain_attribute(crash: Crash, odd: OddTensor, owner: str, name: str) -> Suspect:
    """A constant of the module's: the model was converted without it, or it was made so."""
    was, dtype = odd.info.dtype, getattr(torch, odd.wanted)
    is_left = was == str(torch.get_default_dtype()).removeprefix("torch.")
    edit: Edit = _cast_at(crash, owner, name, dtype)
    if is_left:
        edit = register_attribute(owner, name, lambda t: t.to(dtype))
    said = f"is no buffer, so .to() left it in {was}" if is_left else f"is {was}"
    place = crash.describe_module(owner)
    message = f"the tensor '{name}' of {place} {said}; the model computes in {odd.wanted}"
    arithmetic = f"expected {odd.wanted}, got {was} {odd.info.shape}"
    return blame(owner, message, edit, arithmetic=arithmetic, weight=STRONG + 1)


def _cast_at(crash: Crash, fqn: str, name: str, dtype: torch.dtype) -> SetAttribute:
    short = str(dtype).removeprefix("torch.")
    return SetAttribute(
        title=f"make 'self.{name}' of {crash.describe_module(fqn)} {short}: .to(torch.{short})",
        code=f".to(torch.{short})",
        module=fqn,
        name=name,
        value=functools.partial(_cast_attribute, name=name, dtype=dtype),
    )


def _explain_mixed(crash: Crash, x: TensorInfo, dtype: torch.dtype) -> Suspects:
    """Parameters, buffers or attributes that have drawn what was computed to their dtype."""
    if not (found := _find_mixed(crash, x)):
        return
    call, mixed, owner, first = found[0]
    short = str(dtype).removeprefix("torch.")
    edits = [
        _cast_at(crash, fqn, name, dtype)
        for fqn, name in dict.fromkeys((fqn, name) for *_, fqn, name in found)
    ]
    user = crash.describe_call(crash.call) if crash.call is not None else "the call"
    yield blame(
        owner,
        f"'self.{first}' of {crash.describe_module(owner)} is {mixed.dtype}, so "
        f"{crash.describe_call(call)} gives {x.dtype}",
        propose(*edits, weight=STRONG),
        arithmetic=f"'self.{first}' {mixed.shape} {mixed.dtype}; {user} computes in {short}",
        weight=STRONG + 1,
    )


def _find_mixed(crash: Crash, x: TensorInfo) -> list[tuple[ModuleCall, TensorInfo, str, str]]:
    """The call that made it of this dtype, the tensor, and the module and attribute that hold it.

    After it, those that would make it of this dtype again.
    """
    found = list[tuple[ModuleCall, TensorInfo, str, str]]()
    for _, call in crash.walk_back(x):
        mixed = [(t, _find_holder(crash, t)) for t in call.inputs if t.dtype == x.dtype]
        found[:0] = [(call, t, *holder) for t, holder in mixed if holder is not None]
        if call.outputs and any(t.dtype not in (x.dtype, "bool") for t in call.inputs):
            return found if found and found[0][0] is call else []
    return []


def _find_holder(crash: Crash, info: TensorInfo) -> tuple[str, str] | None:
    if isinstance(info.source, str):
        owner, _, name = info.source.rpartition(".")
        return owner, name
    if info.source is not None:
        return None
    return crash.find_attribute(info) or find_listed(crash, info)


def _cast_attribute(module: nn.Module, *, name: str, dtype: torch.dtype) -> Any:
    cast = functools.partial(_cast, dtype=dtype)
    return tree_map(lambda t: cast(t) if isinstance(t, Tensor) else t, getattr(module, name))


def _cast(value: Tensor, dtype: torch.dtype) -> Any:
    cast = value.detach().to(dtype)
    is_parameter = isinstance(value, nn.Parameter)
    return nn.Parameter(cast, requires_grad=value.requires_grad) if is_parameter else cast
