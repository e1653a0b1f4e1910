import ast
import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import read_names, walk_expression
from cnnprobe.crash.facts.loops import Loop, can_unpack, list_loops
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_attribute
from cnnprobe.crash.suspect import STRONG, Candidate
from cnnprobe.operations import find_function

_MOST_KEYS = 4  # that are shown
_BUILTINS = frozenset({"sum", "list", "tuple", "max", "min", "len", "float"})
_COUNTED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
      def forward(self, x):
-         for i, block in self.blocks:
+         for i, block in enumerate(self.blocks):
              x = block(x) if i else F.relu(block(x))
          return x
  model, args = Net(), (torch.randn(2, 4),)
"""
COUNTED = Example(_COUNTED, blames="", repair="write enumerate(self.blocks) instead of self.blocks")
_SUMMED = """
  model = nn.Linear(4, 3)
  def run(model):
      x = model(torch.randn(2, 4))
      losses = {"size": x.abs().mean(), "label": F.cross_entropy(x, torch.tensor([0, 2]))}
-     return sum(loss for loss in losses)
+     return sum(loss for loss in losses.values())
"""
SUMMED = Example(_SUMMED, repair="write losses.values() instead of losses")
_BATCHES = """
  model = nn.Linear(4, 3)
  def run(model):
      pairs = [(torch.randn(2, 4), torch.tensor([0, 2])), (torch.randn(2, 4), torch.tensor([1, 1]))]
-     for i, x, y in enumerate(pairs):
+     for i, (x, y) in enumerate(pairs):
          F.cross_entropy(model(x), y).backward()
"""
BATCHES = Example(_BATCHES, repair="write for i, (x, y) in enumerate(pairs)")


@cause(
    "CP0E0", "loop-elements", (COUNTED, SUMMED, BATCHES), stage=("forward", "around"), prior=1195
)
def loop_elements(crash: Crash) -> Suspects:
    """A loop gets other elements than its names are meant for.

    Why it happens: a loop over a list gives its elements without their positions, a loop over a
    dict gives its keys, not its values.
    What to do: loop over enumerate(...) for positions, over .values() or .items() of a dict.
    Known exceptions: none.
    Source: "Looping Techniques" in the Python tutorial.
    """
    if not isinstance(crash.error, TypeError | ValueError | AttributeError):
        return
    nodes = walk_expression(crash.error)
    for loop in list_loops(crash):
        is_target = bool(nodes) and nodes[0] in list(ast.walk(loop.target))
        found = _read_keys(crash, loop, nodes[0]) if not is_target else None
        if is_target:
            found = _read_counted(crash, loop) or _read_unpacked(crash, loop)
        if found is not None:
            yield found
            return


# -- names that an element does not fit --------------------------------------------------------


def _read_unpacked(crash: Crash, loop: Loop) -> Suspect | None:
    element, names = loop.read_element(), ast.unparse(loop.target)
    names = names[1:-1] if isinstance(loop.target, ast.Tuple) else names
    if element is None or can_unpack(loop.target, element) is not False:
        return None
    over, said = ast.unparse(loop.iterable), _describe(element)
    if isinstance(loop.value, Mapping | nn.ModuleDict):
        if not can_unpack(loop.target, (element, loop.value[element])):
            return None
        text, what = f"{over}.items()", f"a loop over {over} gives its keys alone, such as {said}"
    else:
        is_counted = isinstance(getattr(loop.target, "elts", [None])[0], ast.Name)
        if not is_counted or not can_unpack(loop.target, (0, element)):
            return None
        text, what = f"enumerate({over})", f"a loop over {over} gives {said}, without its position"
    return blame(
        crash.owner if crash.stage == "forward" else None,
        f"{what}, but it is unpacked into {names}",
        _replace(crash, loop, text, f"each element then fits {names}"),
        arithmetic=f"the first element of {over} is {said}",
    )


def _read_counted(crash: Crash, loop: Loop) -> Suspect | None:
    """In for i, x, y in enumerate(batches), position and batch are two values."""
    match loop.iterable:
        case ast.Call(func=ast.Name(id="enumerate"), args=[inner, *_]):
            names = getattr(loop.target, "elts", [])
        case _:
            return None
    value = read_attribute(inner, read_names(crash.error))
    element = Loop(target=loop.target, iterable=inner, value=value).read_element()
    rest = ast.Tuple(elts=names[1:], ctx=ast.Store())
    nested = ast.Tuple(elts=[*names[:1], rest], ctx=ast.Store())
    if element is None or len(names) < 3 or not can_unpack(nested, (0, element)):
        return None
    text = f"{ast.unparse(names[0])}, ({', '.join(map(ast.unparse, names[1:]))})"
    title = f"write for {text} in {ast.unparse(loop.iterable)}"
    written = replace_expression(crash.error, loop.target, text)
    said = _describe(element)
    return blame(
        crash.owner if crash.stage == "forward" else None,
        f"{ast.unparse(loop.iterable)} gives two values, a position and {said}, but "
        f"{len(names)} names unpack them",
        propose(Check(title=title, code=text, check=lambda: "each then fits", written=written)),
        arithmetic=f"the first element of {ast.unparse(inner)} is {said}",
    )


def _describe(value: Any) -> str:
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple | list) and 0 < len(value) <= _MOST_KEYS:
        return f"a {type(value).__name__} of {', '.join(map(_describe, value))}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOU' else 'a'} {kind}"


# -- keys in the place of values ---------------------------------------------------------------


def _read_keys(crash: Crash, loop: Loop, failed: ast.AST) -> Suspect | None:
    value, name = loop.value, getattr(loop.target, "id", None)
    if not isinstance(value, dict | nn.ModuleDict) or not value or name is None:
        return None
    names = read_names(crash.error)
    is_inside = loop.iterable not in list(ast.walk(failed))
    if not all(isinstance(key, str) for key in value) or not _uses(failed, name):
        return None
    if is_inside and (not isinstance(names.get(name), str) or names[name] not in value):
        return None
    over = ast.unparse(loop.iterable)
    keys = ", ".join(map(repr, list(value)[:_MOST_KEYS]))
    return blame(
        crash.owner if crash.stage == "forward" else None,
        f"a loop over {over} gives its keys, which are strings, not its values",
        _replace_keys(crash, loop, failed, names, is_inside=is_inside),
        arithmetic=f"its keys are {keys}",
        needs_proof=crash.stage == "forward",
    )


def _uses(failed: ast.AST, name: str) -> bool:
    """Whether a name is computed with, and no key of something."""
    parents = {child: node for node in ast.walk(failed) for child in ast.iter_child_nodes(node)}
    read = [n for n in ast.walk(failed) if isinstance(n, ast.Name) and n.id == name]
    loads = [n for n in read if isinstance(n.ctx, ast.Load)]
    return bool(loads) and not any(isinstance(parents.get(n), ast.Subscript) for n in loads)


def _replace_keys(
    crash: Crash, loop: Loop, failed: ast.AST, names: dict[str, Any], *, is_inside: bool
) -> Candidate:
    text = f"{ast.unparse(loop.iterable)}.values()"
    scope, name = dict(names), ast.unparse(loop.target)
    node = copy.deepcopy(failed, {id(loop.iterable): ast.parse(text, mode="eval").body})
    if isinstance(node, ast.AugAssign):
        left = ast.parse(ast.unparse(node.target), mode="eval").body
        node = ast.BinOp(left=left, op=node.op, right=node.value)
    if is_inside:
        scope[name] = loop.value[names[name]]
    if crash.stage == "forward" or not isinstance(node, ast.expr) or not _is_pure(node, names):
        return _replace(crash, loop, text, "")

    def check() -> str:
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "", "eval")
        given = eval(code, scope)  # noqa: S307 - the user's own line
        is_number = isinstance(given, Tensor) and given.numel() == 1
        shown = f"{float(given.detach()):.4g}" if is_number else _describe(given)
        return f"the line runs and gives {shown}"

    return propose(_check(crash, loop, text, check), weight=STRONG)


def _is_pure(node: ast.expr, names: dict[str, Any]) -> bool:
    """Whether it calls only what computes: functions of torch, and some of Python's."""
    for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
        function = call.func
        if isinstance(function, ast.Name):
            known = function.id in _BUILTINS and function.id not in names
        else:
            owner = read_attribute(getattr(function, "value", function), names)
            is_torchs = getattr(owner, "__name__", "").startswith("torch")
            name = getattr(function, "attr", "")
            known = name == "values" or (is_torchs and find_function(name) is not None)
        if not known:
            return False
    return True


# -- the change --------------------------------------------------------------------------------


def _replace(crash: Crash, loop: Loop, text: str, seen: str) -> Candidate:
    """Another iterable: the forward shows whether it runs; what it gives is known of the loop."""
    method = find_failing_method(crash) if crash.stage == "forward" else None
    edit = replace_node(method, loop.iterable, text) if method is not None else None
    if edit is not None:
        return propose(edit, weight=STRONG)
    return propose(_check(crash, loop, text, (lambda: seen) if seen else None), weight=STRONG)


def _check(crash: Crash, loop: Loop, text: str, check: Any) -> Check | Advice:
    title = f"write {text} instead of {ast.unparse(loop.iterable)}"
    written = replace_expression(crash.error, loop.iterable, text)
    if check is None:
        return Advice(title=title, code=text, written=written)
    return Check(title=title, code=text, check=check, written=written)
