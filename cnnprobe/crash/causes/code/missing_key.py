import ast
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.loops import list_loops
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Candidates

_MOST_KEYS = 6  # that are shown
_PROGRAM = """
  model = nn.Linear(4, 3)
  def run(model):
      batch = {"image": torch.randn(2, 4), "label": torch.tensor([0, 2])}
-     return F.cross_entropy(model(batch["image"]), batch["labels"])
+     return F.cross_entropy(model(batch["image"]), batch["label"])
"""
EXAMPLE = Example(_PROGRAM, repair="write batch['label'] instead of batch['labels']")
_HEADS = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.heads = nn.ModuleDict({f"head_{i}": nn.Linear(4, 2) for i in "ab"})
      def forward(self, x):
-         return [self.heads[name](x) for name in ("a", "b")]
+         return [self.heads[f"head_{name}"](x) for name in ("a", "b")]
  model, args = Net(), (torch.randn(2, 4),)
"""
HEADS = Example(_HEADS, blames="", repair="write f'head_{name}' instead of name")
_TENSOR = """
  model = nn.Linear(8, 3)
  def run(model):
      out = model(torch.randn(4, 8))
-     return F.cross_entropy(out["logits"], torch.tensor([0, 1, 2, 0]))
+     return F.cross_entropy(out, torch.tensor([0, 1, 2, 0]))
"""
TENSOR = Example(_TENSOR, repair="write out instead of out['logits']")


@cause("CP0A4", "missing-key", (EXAMPLE, HEADS, TENSOR), stage=("forward", "around"), prior=790)
def missing_key(crash: Crash) -> Suspects:
    """A dict, a list or a tensor was asked for a key or a position that it does not have.

    Why it happens: the batch, the label map or the output has other keys than the code expects, or
    a list has fewer elements. Models of other libraries return a dict; this one returns a tensor.
    What to do: print the keys; use the one that is there, or add what is missing.
    Known exceptions: a KeyError that the program raises itself.
    Source: KeyError and IndexError in the Python documentation, built-in exceptions.
    """
    if not isinstance(crash.error, KeyError | IndexError | TypeError):
        return
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Subscript)):
        value = line.evaluate(node.value)
        key = _read_key(crash, node.slice, line.names, value)
        if isinstance(value, Tensor) and isinstance(node.slice, ast.Constant) and type(key) is str:
            yield _blame_tensor(crash, node, value)
            return
        if key is None or isinstance(value, Tensor):
            continue
        if _is_keyed(value) and key not in value:
            yield _blame_key(crash, node, value, key)
            return
        is_list = isinstance(value, Sequence | nn.ModuleList | nn.Sequential)
        if is_list and isinstance(key, int) and not -len(value) <= key < len(value):
            yield _blame_position(crash, node, value, key)
            return


def _read_key(crash: Crash, node: ast.expr, names: Mapping[str, Any], value: Any) -> Any:
    """A plain key, as it is written or as its name stands for; None: not known.

    From Python 3.12 on the name of a comprehension is gone when it has raised: it was the first
    that `value` lacks.
    """
    try:
        key = ast.literal_eval(node)
    except ValueError:
        key = names.get(node.id) if isinstance(node, ast.Name) else None
        if isinstance(node, ast.Name) and node.id not in names and _is_keyed(value):
            key = next((each for each in _list_elements(crash, node.id) if each not in value), None)
    return key if isinstance(key, str | int) else None


def _is_keyed(value: Any) -> bool:
    return isinstance(value, Mapping | nn.ModuleDict)


def _list_elements(crash: Crash, name: str) -> list[Any]:
    """What the innermost loop over `name` runs over; nothing where it is not known."""
    loops = (one for one in list_loops(crash) if ast.unparse(one.target) == name)
    if (loop := next(loops, None)) is None:
        return []
    try:
        over = ast.literal_eval(loop.iterable)
    except ValueError:
        over = loop.value
    return [*over] if isinstance(over, dict | list | tuple | nn.ModuleDict) else []


def _blame_tensor(crash: Crash, node: ast.Subscript, value: Tensor) -> Suspect:
    name, shape = ast.unparse(node.value), tuple(value.shape)
    message = f"{name} is a tensor of {shape}, not a dict: it has no {ast.unparse(node.slice)}"
    edit = propose(_check(crash, node, name, value))
    arithmetic = "the model returns the tensor itself"
    module = crash.owner if crash.stage == "forward" else None
    return blame(module, message, edit, arithmetic=arithmetic, tensors=(value,))


def _blame_key(crash: Crash, node: ast.Subscript, value: Any, key: str | int) -> Suspect:
    name, keys = ast.unparse(node.value), list(value)
    shown = ", ".join(map(repr, keys[:_MOST_KEYS])) + (", ..." if len(keys) > _MOST_KEYS else "")
    texts = {str(each): each for each in keys}
    near = difflib.get_close_matches(str(key), texts, n=1, cutoff=0.6)
    is_written = isinstance(node.slice, ast.Constant)
    return blame(
        crash.owner if crash.stage == "forward" else None,
        f"{name} has no key {key!r}",
        *(
            (_spell(crash, node, value, texts[near[0]]),)
            if near and is_written
            else tuple(_add_affix(crash, node, value, key))
        ),
        arithmetic=f"its keys are {shown}" if keys else "it is empty",
        advice=() if is_written else (f"add {key!r} to {name}, or leave out what has this key",),
    )


def _spell(crash: Crash, node: ast.Subscript, value: Any, near: Any) -> Candidate:
    """The key that is there, in the place of the one that is not."""
    text = f"{ast.unparse(node.value)}[{near!r}]"
    return propose(_check(crash, node, text, value[near]), weight=STRONG)


def _check(crash: Crash, node: ast.Subscript, text: str, found: Any) -> Edit:
    what = f"tensor of {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    return Check(
        title=f"write {text} instead of {ast.unparse(node)}",
        code=text,
        check=lambda: f"it is a {what}",
        written=replace_expression(crash.error, node, text),
    )


def _add_affix(crash: Crash, node: ast.Subscript, value: Any, key: str | int) -> Candidates:
    """The key with the start or end that turns every key of the loop into one that is there."""
    name, keys = ast.unparse(node.slice), [each for each in value if isinstance(each, str)]
    if not isinstance(node.slice, ast.Name) or not isinstance(key, str) or not key:
        return
    wanted = _list_elements(crash, name) or [key]
    affixes = [(each.removesuffix(key), "") for each in keys if each.endswith(key)]
    affixes += [("", each.removeprefix(key)) for each in keys if each.startswith(key)]
    for start, end in dict.fromkeys(affixes):
        if not all(f"{start}{one}{end}" in keys for one in wanted):
            continue
        body = f"{start}{{{name}}}{end}"
        text = f"f{body!r}"
        method = find_failing_method(crash) if crash.stage == "forward" else None
        edit: Edit | None = replace_node(method, node.slice, text) if method is not None else None
        if edit is None:
            found = value[f"{start}{key}{end}"]
            edit = _check(crash, node, f"{ast.unparse(node.value)}[{text}]", found)
        yield propose(edit, weight=STRONG if len(wanted) > 1 else USUAL)


def _blame_position(crash: Crash, node: ast.Subscript, value: Any, key: int) -> Suspect:
    name, size = ast.unparse(node.value), len(value)
    valid = f"valid positions are 0 to {size - 1}" if size else "it is empty"
    message = f"{name} has {size} element{'s' * (size != 1)}, and position {key} was asked for"
    return blame(crash.owner if crash.stage == "forward" else None, message, arithmetic=valid)
