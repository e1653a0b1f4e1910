import ast
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.inputs import ChangeArguments
from cnnprobe.crash.edits.method import change_method, replace_node
from cnnprobe.crash.facts.frames import find_assignment, list_calls, read_arguments, read_names
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_attribute
from cnnprobe.crash.facts.words import quote
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  class Block(nn.Module):
      def __init__(self):
          super().__init__()
          self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
      def forward(self, x):
-         y, _ = self.attn(x)
+         y, _ = self.attn(x, x, x)
          return x + y
  model, args = Block(), (torch.randn(2, 5, 16),)
"""
EXAMPLE = Example(
    _PROGRAM, blames="attn", repair="write self.attn(x, x, x) instead of self.attn(x)"
)
_PARTS = """
  class Block(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 4)
      def forward(self, x, mask):
          return self.fc(x) * mask
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.blocks = nn.Sequential(Block(), Block())
      def forward(self, x, mask):
+         for block in self.blocks:
-         x = self.blocks(x, mask)
+             x = block(x, mask)
          return x
  model, args = Net(), (torch.randn(2, 4), torch.ones(2, 1))
"""
PARTS = Example(
    _PARTS,
    blames="blocks",
    repair="loop over its parts: for layer in self.blocks: x = layer(x, mask)",
)

_FIRST = """
  class Up(nn.Module):
      def forward(self, x, skip):
          return torch.cat([F.interpolate(x, scale_factor=2), skip], 1)
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.down = nn.Conv2d(3, 4, 2, stride=2)
          self.up = nn.Sequential(Up(), nn.Conv2d(7, 2, 1))
      def forward(self, x):
-         return self.up(self.down(x), x)
+         return self.up[1:](self.up[0](self.down(x), x))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
FIRST = Example(_FIRST, blames="up", repair="write self.up[1:](self.up[0](self.down(x), x))")
_PAIR = """
  class Twins(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Linear(4, 3)
      def forward(self, a, b):
          return self.body(a) - self.body(b)
- model, args = Twins(), ((torch.randn(2, 4), torch.randn(2, 4)),)
+ model, args = Twins(), (torch.randn(2, 4), torch.randn(2, 4))
"""
PAIR = Example(_PAIR, blames="", repair="pass its 2 parts one by one")


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """How the arguments of a call differ from the parameters of a forward."""

    parameters: tuple[str, ...]
    unknown: tuple[str, ...]  # given by name, and no parameter
    missing: tuple[str, ...]
    surplus: int  # given by position, and one too many


@cause("CP047", "call-signature", (EXAMPLE, PARTS, FIRST, PAIR), prior=1095)
def call_signature(crash: Crash) -> Suspects:
    """A module is called with other arguments than its forward takes.

    Why it happens: an argument is forgotten, one too many is passed, or a keyword has another name.
    What to do: compare the call with the definition of the forward.
    Known exceptions: a forward that takes *args and **kwargs accepts everything.
    Source: torch.nn.Module.__call__ passes its arguments on to forward as they are.
    """
    call, module = crash.call, crash.module
    has_begun = any(c.parent == crash.index for c in crash.trace.calls)
    if call is None or module is None or has_begun or not isinstance(crash.error, TypeError):
        return
    count, names = _count_given(crash, call)
    if (found := _compare(module, count, names)) is None:
        return
    fqn = call.fqn or ""
    edits = _change_root(crash, found) if not fqn else _change_line(crash, module, found)
    if isinstance(module, nn.Sequential) and module._modules:
        takes_them = all(_compare(part, count, names) is None for part in module)
        takes_first = _compare(next(iter(module)), count, names) is None
        if takes_them or takes_first:
            edits = _loop_over(crash, module) if takes_them else _pass_to_first(crash, module)
    missing = ", ".join(found.missing)
    packed = len(crash.args[0]) if not fqn and any(_unpack_root(crash, found)) else 0
    yield blame(
        fqn,
        f"the forward of {crash.describe_module(fqn)} {_say(found, packed)}",
        *(propose(edit, weight=STRONG) for edit in edits),
        arithmetic=f"forward({', '.join(found.parameters)}); given {count} by position"
        + (f" and {', '.join(names)}" if names else ""),
        advice=(f"call {quote(fqn)} with {missing} as well",)
        if missing and not found.unknown
        else (),
    )


def _compare(module: nn.Module, count: int, names: list[str]) -> Mismatch | None:
    """How the arguments differ from the parameters; None where they fit or it is not known."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*range(count), **dict.fromkeys(names))
    except TypeError:
        parameters = signature.parameters
        by_position = [n for n, p in parameters.items() if p.kind <= p.POSITIONAL_OR_KEYWORD]
        needed = [n for n in by_position if parameters[n].default is inspect.Parameter.empty]
        return Mismatch(
            parameters=tuple(parameters),
            unknown=tuple(name for name in names if name not in parameters),
            missing=tuple(n for n in needed if n not in [*by_position[:count], *names]),
            surplus=max(0, count - len(by_position)),
        )
    return None


def _say(found: Mismatch, packed: int) -> str:
    said = []
    if found.unknown:
        said.append(f"has no parameter {', '.join(map(repr, found.unknown))}")
    if found.missing:
        said.append(f"was not given {', '.join(map(repr, found.missing))}")
    if found.surplus:
        plural = "s" * (found.surplus > 1)
        said.append(f"was given {found.surplus} argument{plural} too many")
    if packed > 1:
        said.append(f"got all {packed} in one tuple")
    return " and ".join(said) or "cannot take these arguments"


def _count_given(crash: Crash, call: ModuleCall) -> tuple[int, list[str]]:
    """How many arguments a module got by position, and the names of the others."""
    own = (crash.args, crash.kwargs)
    found = own if call.parent is None else read_arguments(crash.error, crash.module)
    return (len(found[0]), sorted(found[1])) if found is not None else (len(call.inputs), [])


def _pass_to_first(crash: Crash, module: nn.Module) -> Iterator[Edit]:
    """The arguments for the first part of a Sequential, and what it gives for the others."""
    names, method = read_names(crash.error), find_failing_method(crash)
    calls = [c for c in list_calls(crash.error) if read_attribute(c.func, names) is module]
    if method is None or not calls:
        return
    whole = ast.unparse(calls[0].func)
    given = ", ".join(map(ast.unparse, (*calls[0].args, *calls[0].keywords)))
    edit = replace_node(method, calls[0], f"{whole}[1:]({whole}[0]({given}))")
    if edit is not None:
        yield edit


def _unpack_root(crash: Crash, found: Mismatch) -> Iterator[Edit]:
    """The parts of one tuple that was given for all arguments."""
    given = crash.args[0] if len(crash.args) == 1 and not crash.kwargs else None
    if isinstance(given, tuple | list) and len(given) == 1 + len(found.missing):
        parts = tuple(given)
        title = f"pass its {len(parts)} parts one by one: model(*pair)"
        yield ChangeArguments(title=title, code="*", function=lambda *_: (parts, {}))


def _change_root(crash: Crash, found: Mismatch) -> Iterator[Edit]:
    """Other arguments for the model itself."""
    yield from _unpack_root(crash, found) if not found.unknown else ()
    unknown, count = found.unknown, len(crash.args) - found.surplus

    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        to = dict(zip(unknown, found.missing, strict=False))
        left = {to.get(n, n): v for n, v in kwargs.items() if n in to or n not in unknown}
        return args[:count], left

    if len(unknown) == 1 and len(found.missing) == 1:
        title = f"call it with {found.missing[0]}= instead of {unknown[0]}="
    elif found.missing:
        return
    elif unknown:
        title = f"leave out {', '.join(unknown)}"
    else:
        title = f"give it {count} argument{'s' * (count != 1)}"
    yield ChangeArguments(title=title, function=change)


def _change_line(crash: Crash, module: nn.Module, found: Mismatch) -> Iterator[Edit]:
    """Other arguments in the user's line that calls the module."""
    names, method = read_names(crash.error), find_failing_method(crash)
    calls = [c for c in list_calls(crash.error) if read_attribute(c.func, names) is module]
    if method is None or not calls:
        return
    new = copy.deepcopy(calls[0])
    if found.surplus:
        del new.args[-found.surplus :]
    new.keywords = [k for k in new.keywords if k.arg not in found.unknown]
    for name in found.missing:
        value = ast.Name(id=name) if names.get(name) is not None else None
        if value is None and isinstance(module, nn.MultiheadAttention) and new.args:
            new.args.append(new.args[0])  # attention of a sequence to itself
        elif value is None:
            return
        else:
            new.keywords.append(ast.keyword(arg=name, value=value))
    edit = replace_node(method, calls[0], ast.unparse(new))
    if edit is not None:
        yield edit


def _loop_over(crash: Crash, module: nn.Module) -> Iterator[Edit]:
    """A loop over the parts of a Sequential, each of which takes all the arguments."""
    names, method = read_names(crash.error), find_failing_method(crash)
    node = find_assignment(crash.error)
    call = node.value if node is not None else None
    if node is None or method is None or not isinstance(call, ast.Call) or not call.args:
        return
    target, whole = ast.unparse(node.targets[0]), ast.unparse(call.func)
    if read_attribute(call.func, names) is not module or not isinstance(node.targets[0], ast.Name):
        return
    given = ", ".join([target, *map(ast.unparse, (*call.args[1:], *call.keywords))])
    first = ast.unparse(call.args[0])
    lines = [f"{target} = {first}"] if first != target else []
    lines += [f"for layer in {whole}:", f"    {target} = layer({given})"]
    text = f"\n{' ' * node.col_offset}".join(lines)
    title = f"loop over its parts: for layer in {whole}: {target} = layer({given})"
    edit = change_method(method, title, lambda file, _: [file.replace(node, text)], code=text)
    if edit is not None:
        yield edit
