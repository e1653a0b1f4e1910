import ast
from collections.abc import Callable
from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import walk_expression
from cnnprobe.crash.facts.words import get_tensor
from cnnprobe.operations import find, find_signature

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         return self.fc(F.dropout(0.5, x))
+         return self.fc(F.dropout(x, 0.5))
  model, args = Net(), (torch.randn(3, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write F.dropout(x, 0.5)")


@cause("CP0L7", "tensor-second", EXAMPLE, family="call-signature", prior=1004)
def tensor_second(crash: Crash) -> Suspects:
    """A function got its tensor second and its setting first.

    Why it happens: torch's functions take the tensor first; other libraries have another order.
    What to do: swap the two arguments.
    Known exceptions: functions such as torch.pow and torch.where take a number first as well.
    Source: the signatures of torch and torch.nn.functional.
    """
    call = crash.call
    info = find(call) if call is not None and call.fqn is None else None
    signature = find_signature(call.kind) if call is not None and info is not None else None
    names = signature.names if signature is not None else ()
    if call is None or len(names) < 2 or names[0] != "input":
        return
    node = next(iter(walk_expression(crash.error)), None)
    if get_tensor(call, 0, "input") is not None or get_tensor(call, 1, names[1]) is None:
        return
    if not isinstance(node, ast.Call) or len(node.args) < 2:
        return
    first, second, *rest = map(ast.unparse, node.args)
    named = [f"{k.arg}={ast.unparse(k.value)}" for k in node.keywords]
    code = f"{ast.unparse(node.func)}({', '.join([second, first, *rest, *named])})"

    def swap(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > 1:
            return func(args[1], args[0], *args[2:], **kwargs)
        others = {key: value for key, value in kwargs.items() if key != names[1]}
        return func(kwargs[names[1]], args[0], **others)

    edit = rewrite_call(
        crash,
        call,
        swap,
        title=f"write {code} instead of {ast.unparse(node)}",
        code=code,
        module=crash.owner,
        written=replace_expression(crash.error, node, code),
    )
    message = (
        f"{crash.describe_call(call)} expects its tensor first, but got {first} first and "
        f"the tensor {second} second"
    )
    yield blame(crash.owner, message, propose(edit), arithmetic=ast.unparse(node), needs_proof=True)
