import ast
import functools
from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  import numpy
  model = nn.Conv2d(3, 2, 3)
  def run(model):
      image = numpy.zeros((6, 6, 3), dtype="float32")[:, :, ::-1]
-     return model(torch.from_numpy(image).permute(2, 0, 1)[None])
+     return model(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])
"""
EXAMPLE = Example(_PROGRAM, repair="pass image.copy()")


@cause("CP0J2", "flipped-array", EXAMPLE, stage=("forward", "around"), prior=885)
def flipped_array(crash: Crash) -> Suspects:
    """A NumPy array that was flipped is made into a tensor.

    Why it happens: array[::-1] flips without copying, by a negative stride; torch has none. BGR
    images of OpenCV are turned into RGB so, and augmentations flip so.
    What to do: array.copy(), or numpy.ascontiguousarray(array).
    Known exceptions: none.
    Source: torch.from_numpy.
    """
    line = read_failing_line(crash)
    for node in line.nodes if isinstance(crash.error, ValueError) else ():
        value: Any = line.names.get(node.id) if isinstance(node, ast.Name) else None
        strides = getattr(value, "strides", None)
        if not isinstance(node, ast.Name) or not isinstance(strides, tuple) or min(strides) >= 0:
            continue
        code = f"{node.id}.copy()"
        edit = Check(
            title=f"pass {code}",
            code=code,
            check=functools.partial(_copy, value),
            written=replace_expression(crash.error, node, code),
        )
        yield blame(
            crash.owner if crash.stage == "forward" else None,
            f"the array {node.id} is flipped: its strides are {strides}, and a tensor has none "
            "that are negative",
            propose(edit),
            arithmetic=f"{node.id} is {tuple(value.shape)}",
        )
        return


def _copy(value: Any) -> str:
    return f"its copy has the strides {value.copy().strides}"
