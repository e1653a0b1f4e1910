from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.words import is_floating, read_tensor
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo

# Arguments of each dtype, by operation. Source: the pages of these functions.
_MASKS = {"masked_fill": "mask", "masked_select": "mask", "masked_scatter": "mask"} | {
    "where": "condition"
}
_INDICES = dict.fromkeys(
    (
        "gather", "scatter", "scatter_add", "scatter_reduce", "index_select", "index_add",
        "index_copy", "index_fill", "take", "take_along_dim",
    ),
    "index",
) | {"one_hot": "tensor"}  # fmt: skip

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 4)
      def forward(self, x, mask):
-         return self.fc(x).masked_fill(mask, 0.0)
+         return self.fc(x).masked_fill(mask.bool(), 0.0)
  mask = torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1]])
  model, args = Net(), (torch.randn(2, 4), mask)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="mask.bool()", on_meta=False)


@cause("CP0A9", "index-or-mask-dtype", EXAMPLE, family="dtype-mismatch", prior=292)
def index_or_mask_dtype(crash: Crash) -> Suspects:
    """An index is not made of integers, or a mask is not boolean.

    Why it happens: labels and masks that come from numpy, a CSV file or a comparison that was
    multiplied are floats; gather, scatter and one_hot expect int64, masked_fill a bool.
    What to do: pass index.long() or mask.bool().
    Known exceptions: indices in brackets may be int32 or uint8 too.
    Source: torch.gather, torch.Tensor.masked_fill_ and torch.nn.functional.one_hot.
    """
    call = crash.call
    operation = find(call) if call is not None and call.fqn is None else None
    if call is None or operation is None:
        return
    name = operation.name
    if name in _MASKS:
        yield from _explain(crash, call, read_tensor(call, _MASKS[name]), "mask", "bool")
    elif name in _INDICES:
        yield from _explain(crash, call, read_tensor(call, _INDICES[name]), "index", "int64")
    elif name == "getitem" and len(call.inputs) > 1 and is_floating(call.inputs[1].dtype):
        yield from _explain(crash, call, call.inputs[1], "index", "int64")
    elif name == "setitem" and len(call.inputs) == 3:
        yield from _explain_written(crash, call, call.inputs[0], call.inputs[2])


def _explain_written(crash: Crash, call: ModuleCall, x: TensorInfo, value: TensorInfo) -> Suspects:
    """What is written at an index has another dtype: brackets with a tensor do not cast."""
    if x.dtype == value.dtype:
        return

    def write(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args[:2], args[2].to(args[0].dtype), **kwargs)

    title = "cast what is written to the dtype of what it is written into, at {place}"
    edit = rewrite_call(crash, call, write, title=title, code=f".to(torch.{x.dtype})")
    message = (
        f"{crash.describe_call(call)} writes {value.dtype} (from "
        f"{crash.describe_origin(value)}) into {x.dtype} (from {crash.describe_origin(x)}), and "
        "an assignment by a tensor of indices does not cast"
    )
    arithmetic = f"{value.shape} {value.dtype} into {x.shape} {x.dtype}"
    yield blame(crash.owner, message, edit, arithmetic=arithmetic, needs_proof=True)


def _explain(
    crash: Crash, call: ModuleCall, info: TensorInfo | None, role: str, wanted: str
) -> Suspects:
    if info is None or info.dtype == wanted:
        return
    dtype = getattr(torch, wanted)
    meant = (info.shape, info.dtype)

    def cast(value: Any) -> Any:
        is_it = isinstance(value, Tensor) and meant == (
            tuple(value.shape),
            str(value.dtype).removeprefix("torch."),
        )
        return value.to(dtype) if is_it else value

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*map(cast, args), **{name: cast(value) for name, value in kwargs.items()})

    code = f"{role}.bool()" if wanted == "bool" else f"{role}.long()"
    edit = rewrite_call(crash, call, rewrite, title=f"pass {code} at {{place}}", code=code)
    message = (
        f"{crash.describe_call(call)} expects {role} to be {wanted} but got {info.dtype} "
        f"(from {crash.describe_origin(info)})"
    )
    yield blame(crash.owner, message, edit, arithmetic=f"{role} {info.shape} {info.dtype}")
