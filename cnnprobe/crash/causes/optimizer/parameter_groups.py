import ast
from typing import Any

import torch
from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import parse_function, read_frame
from cnnprobe.crash.facts.saved import name_parameters
from cnnprobe.crash.facts.words import quote
from cnnprobe.records.words import format_counted

_MOST_NAMED = 4
_Filter = tuple[ast.Compare, str, str]  # the test, the text that it looks for, the name's name

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.gate_fc = nn.Linear(4, 4)
          self.fc = nn.Linear(4, 2)
      def forward(self, x):
          return self.fc(self.gate_fc(x))
  model = Net()
  def run(model):
-     head = [p for name, p in model.named_parameters() if "fc" in name]
+     head = [p for name, p in model.named_parameters() if name.startswith("fc.")]
      groups = [{"params": model.gate_fc.parameters()}, {"params": head, "lr": 0.1}]
      torch.optim.SGD(groups, lr=0.01)
"""
EXAMPLE = Example(_PROGRAM, blames="gate_fc", repair='write name.startswith("fc.")')


@cause("CP0F0", "parameter-in-two-groups", EXAMPLE, stage="step", prior=770)
def parameter_groups(crash: Crash) -> Suspects:
    """A parameter stands in two parameter groups of one optimizer.

    Why it happens: the groups are chosen by a part of a name, which other layers have in their
    names too, or one group takes the whole model.
    What to do: take the parameters of the submodule, or compare the start of the name.
    Known exceptions: none; an optimizer steps each parameter once.
    Source: PyTorch, torch.optim, per-parameter options.
    """
    values = read_frame(crash.error, "torch/optim/optimizer.py", "add_param_group") or {}
    optimizer, group = values.get("self"), values.get("param_group")
    if optimizer is None or not isinstance(group, dict):
        return
    added = {id(p) for p in group["params"]}
    taken = [
        i for i, g in enumerate(optimizer.param_groups) if {id(p) for p in g["params"]} & added
    ]
    if not (shared := {id(p) for i in taken for p in optimizer.param_groups[i]["params"]} & added):
        return
    names = name_parameters(crash)
    both = [names[key] for key in map(id, group["params"]) if key in shared and key in names]
    own = [names[key] for key in map(id, group["params"]) if key not in shared and key in names]
    shown = ", ".join(map(quote, both[:_MOST_NAMED])) + (", ..." if len(both) > _MOST_NAMED else "")
    count, last = len(shared), len(optimizer.param_groups)
    verb = "parameter stands" if count == 1 else "parameters stand"
    yield blame(
        _find_common_owner(crash, both),
        f"{count} {verb} in the parameter groups {taken[0]} and {last}"
        + (f": {shown}" if shown else ""),
        propose(_leave_out(crash, optimizer, group, shared, (both, own))),
        arithmetic=f"group {last} has {format_counted(len(added), 'parameter')}, of which {count} "
        f"{'is' if count == 1 else 'are'} in group {taken[0]} already",
        raised_in=type(optimizer).__name__,
    )


def _find_common_owner(crash: Crash, names: list[str]) -> str | None:
    """The innermost module that holds all of these parameters."""
    owners = [name.split(".")[:-1] for name in names]
    common: list[str] = []
    for parts in zip(*owners, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common) if common and ".".join(common) in crash.modules else None


def _leave_out(
    crash: Crash,
    optimizer: Any,
    group: dict[str, Any],
    shared: set[int],
    names: tuple[list[str], list[str]],
) -> Check:
    """The optimizer over others, with each in one group."""
    left = [p for p in group["params"] if id(p) not in shared]

    def check() -> str:
        kept = [*optimizer.param_groups, *([{**group, "params": left}] if left else [])]
        groups = [
            {**g, "params": [nn.Parameter(torch.zeros(1)) for _ in g["params"]]} for g in kept
        ]
        other: Any = type(optimizer)
        other(groups)
        sizes = " and ".join(str(len(g["params"])) for g in groups)
        noun = "parameter" if sizes == "1" else "parameters"
        return f"{other.__name__} takes groups of {sizes} {noun}"

    last, found = len(optimizer.param_groups), _find_filter(crash, *names)
    if found is None:
        title = f"leave {'it' if len(shared) == 1 else 'them'} out of group {last}"
        return Check(title=title, check=check)
    node, text, name = found
    code = f'{name}.startswith("{text}.")'
    title = f"write {code} instead of {ast.unparse(node)}: it is true of the others too"
    written = replace_expression(crash.error, node, code)
    return Check(title=title, code=code, check=check, written=written)


def _find_filter(crash: Crash, both: list[str], own: list[str]) -> _Filter | None:
    """The test `"fc" in name` that took them; the others start with it, and they do not."""
    for node in ast.walk(parse_function(crash.error) or ast.Module([], [])):
        match node:
            case ast.Compare(
                left=ast.Constant(value=str(text)), ops=[ast.In()], comparators=[ast.Name(id=name)]
            ) if text:
                start = text.removesuffix(".")
                is_start = bool(own) and all(one.startswith(f"{start}.") for one in own)
                is_inside = all(text in one and not one.startswith(f"{start}.") for one in both)
                if is_start and is_inside:
                    return node, start, name
    return None
