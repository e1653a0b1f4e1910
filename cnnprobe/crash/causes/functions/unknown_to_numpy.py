import ast

import torch
from torch import Tensor

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.placement import find_autocast
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      with torch.no_grad():
          output = model(torch.randn(4, 8)).to(torch.bfloat16)
-     return output.argmax(1).numpy(), output.softmax(1).numpy()
+     return output.argmax(1).numpy(), output.softmax(1).float().numpy()
"""
EXAMPLE = Example(_PROGRAM, repair="output.softmax(1).float().numpy()")


@cause("CP0H0", "unknown-to-numpy", EXAMPLE, stage=("forward", "loss"), prior=821)
def unknown_to_numpy(crash: Crash) -> Suspects:
    """A tensor that numpy cannot hold was given to it: bfloat16, float8, or on another device.

    Why it happens: numpy has no bfloat16, in which torch.autocast computes on the CPU and often
    on a GPU, and it sees the memory of the CPU alone.
    What to do: cast it first, x.float().cpu().numpy().
    Known exceptions: float16 is known to numpy.
    Source: PyTorch, torch.Tensor.numpy; NumPy, "Data types".
    """
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        if isinstance(call.func, ast.Attribute) and call.func.attr == "numpy":
            value = line.evaluate(call.func.value)
            if isinstance(value, Tensor) and not value.requires_grad:
                yield from _explain(crash, ast.unparse(call.func.value), value, call)
                return
    found = (read_frame(crash.error, "torch/_tensor.py", "__array__") or {}).get("self")
    if isinstance(found, Tensor) and not found.requires_grad:
        yield from _explain(crash, "x", found, None)


def _explain(crash: Crash, name: str, value: Tensor, call: ast.Call | None) -> Suspects:
    casts, known = "", value.detach()
    try:
        torch.zeros(0, dtype=value.dtype).numpy()
    except TypeError:
        casts, known = ".float()", known.float()
    if value.device.type not in ("cpu", "meta"):
        casts += ".cpu()"
    if not casts:
        return
    dtype, code = str(value.dtype).removeprefix("torch."), f"{name}{casts}.numpy()"

    def check() -> str:
        array_of = known.new_empty(known.shape, device="cpu") if known.is_meta else known.cpu()
        return f"it gives an array of {array_of.numpy().shape} {array_of.numpy().dtype}"

    written = None if call is None else replace_expression(crash.error, call, code)
    autocast = find_autocast(crash)
    made = f": torch.autocast computes in {dtype}" if autocast == value.dtype else ""
    what = f"is {dtype}, which numpy does not have" if ".float" in casts else ""
    where = f"is on {value.device}, where numpy reads nothing" if ".cpu" in casts else ""
    edit = Check(title=f"write {code}", code=casts, check=check, written=written)
    yield blame(
        None if crash.stage != "forward" else crash.owner,
        f"{name} {' and '.join(filter(None, (what, where)))}{made}",
        edit,
        arithmetic=f"{tuple(value.shape)} {dtype} on {value.device}",
        weight=STRONG + 1,
        tensors=(value,),
        raised_in="torch.Tensor.numpy",
    )
