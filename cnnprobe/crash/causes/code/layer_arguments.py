import ast
import inspect
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.values import read_failing_line

# Functions that have a layer of the same name. Source: torch.nn, "Non-linear Activations".
_LAYERS = {
    "relu": "ReLU", "gelu": "GELU", "silu": "SiLU", "elu": "ELU", "leaky_relu": "LeakyReLU",
    "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus", "flatten": "Flatten",
    "dropout": "Dropout", "softmax": "Softmax", "log_softmax": "LogSoftmax",
}  # fmt: skip
_LIST = """
  model = nn.Linear(8, 2)
  def run(model):
-     net = nn.Sequential([nn.Linear(8, 8), nn.ReLU(), model])
+     net = nn.Sequential(*[nn.Linear(8, 8), nn.ReLU(), model])
      return net(torch.randn(3, 8))
"""
_FUNCTION = """
  model = nn.Linear(8, 2)
  def run(model):
-     net = nn.Sequential(model, F.relu)
+     net = nn.Sequential(model, nn.ReLU())
      return net(torch.randn(3, 8))
"""
_FLOAT = """
  model = nn.Linear(8, 2)
  def run(model):
-     net = nn.Linear(16 / 2, 2)
+     net = nn.Linear(16 // 2, 2)
      return net(torch.randn(3, 8))
"""
_GROUPS = """
  model = nn.Linear(8, 2)
  def run(model):
-     net = nn.Conv2d(3, 9, 3, groups=2)
+     net = nn.Conv2d(3, 9, 3, groups=3)
      return net(torch.randn(1, 3, 8, 8))
"""
EXAMPLES = (
    Example(_LIST, repair="write nn.Sequential(*[", is_tried=False),
    Example(_FUNCTION, repair="write nn.ReLU() instead of F.relu", is_tried=False),
    Example(_FLOAT, repair="write 16 // 2 instead of 16 / 2", is_tried=False),
    Example(_GROUPS, repair="pass groups=1 or 3", is_tried=False),
)


@cause("CP0M2", "layer-arguments", EXAMPLES, stage="around", family="call-signature", prior=1005)
def layer_arguments(crash: Crash) -> Suspects:
    """A layer is constructed of what it does not take.

    Why it happens: nn.Sequential takes layers one by one, not a list of them, and no functions
    such as F.relu; / gives a float for a number of features; the channels of a convolution are
    not divisible by its groups.
    What to do: nn.Sequential(*layers); nn.ReLU() for F.relu; divide with //; take groups that
    divide both numbers of channels.
    Known exceptions: none.
    Source: torch.nn.Sequential, torch.nn.Linear, torch.nn.Conv2d, "groups".
    """
    frames = [f for f in list_frames(crash.error) if "torch/nn/modules/" in get_path(f)]
    made: Any = next(
        (f.f_locals.get("self") for f in frames if f.f_code.co_name == "__init__"), None
    )
    if not isinstance(made, nn.Module):
        return
    line = read_failing_line(crash)
    call = next((n for n in line.nodes if isinstance(n, ast.Call)), None)
    if call is None:
        return
    locals_ = next(f.f_locals for f in frames if f.f_locals.get("self") is made)
    judges = (_judge_sequence, _judge_floats, _judge_groups)
    for judge in judges:
        if (found := judge(crash, call, made, dict(locals_))) is not None:
            yield found
            return


def _judge_sequence(
    crash: Crash, call: ast.Call, made: nn.Module, given: dict[str, Any]
) -> Suspect | None:
    """A list of layers, or a function, within a Sequential."""
    if not isinstance(made, nn.Sequential):
        return None
    for node, value in zip(call.args, given.get("args", ()), strict=False):
        text = ast.unparse(node)
        if isinstance(value, list | tuple):
            code = f"*{text}"
            shown = f"{ast.unparse(call.func)}({code if len(code) < 40 else code[:37] + '...'})"
            message = f"nn.Sequential expects layers one by one, but got a {type(value).__name__}"
            return _rewrite(crash, node, code, message, f"write {shown}")
        if callable(value) and not isinstance(value, nn.Module):
            layer = _LAYERS.get(getattr(value, "__name__", ""), "")
            message = f"nn.Sequential expects layers, but {text} is a function"
            if not layer:
                return blame(None, message, "call it in a forward of your own")
            return _rewrite(crash, node, f"nn.{layer}()", message)
    return None


def _judge_floats(
    crash: Crash, call: ast.Call, made: nn.Module, given: dict[str, Any]
) -> Suspect | None:
    """A size that is a float."""
    if not isinstance(crash.error, TypeError):
        return None
    names = [n for n in inspect.signature(type(made).__init__).parameters if n != "self"]
    nodes = dict(zip(names, call.args, strict=False))
    nodes |= {k.arg: k.value for k in call.keywords if k.arg is not None}
    for name, node in nodes.items():
        value = given.get(name)
        is_size = "features" in name or "channels" in name or "size" in name or "num" in name
        if not isinstance(value, float) or not is_size:
            continue
        text = ast.unparse(node)
        code = f"int({text})"
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            code = f"{ast.unparse(node.left)} // {ast.unparse(node.right)}"
        message = f"nn.{type(made).__name__} expects a whole number for {name}, but got {value}"
        return _rewrite(crash, node, code, message)
    return None


def _judge_groups(
    crash: Crash,  # noqa: ARG001
    call: ast.Call,  # noqa: ARG001
    made: nn.Module,
    given: dict[str, Any],
) -> Suspect | None:
    """Groups that do not divide the channels."""
    groups, taken, out = (given.get(n) for n in ("groups", "in_channels", "out_channels"))
    if not isinstance(groups, int) or not isinstance(taken, int) or not isinstance(out, int):
        return None
    both = [n for n in range(1, min(taken, out) + 1) if taken % n == 0 == out % n]
    if groups in both or groups < 1:
        return None
    message = (
        f"nn.{type(made).__name__} has {groups} groups, which do not divide its {taken} input and "
        f"{out} output channels"
    )
    return blame(None, message, f"pass groups={' or '.join(map(str, both[:6]))}")


def _rewrite(crash: Crash, node: ast.expr, code: str, message: str, title: str = "") -> Suspect:
    written = replace_expression(crash.error, node, code)
    title = title or f"write {code} instead of {ast.unparse(node)}"
    return blame(None, message, propose(Advice(title=title, code=code, written=written)))
