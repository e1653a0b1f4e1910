import ast
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.calls import ChangeCallArguments
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.contracts import BoundCall, Wanted, list_wanted, read_call
from cnnprobe.crash.suspect import STRONG, Candidate

_GRID = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.flow = nn.Conv2d(3, 2, 3, padding=1)
      def forward(self, x):
          grid = self.flow(x).tanh()
-         return F.grid_sample(x, grid, align_corners=True)
+         return F.grid_sample(x, grid.permute(0, 2, 3, 1), align_corners=True)
  model, args = Net(), (torch.randn(4, 3, 8, 10),)
"""
GRID = Example(_GRID, blames="", repair="pass grid.permute(0, 2, 3, 1) for grid")
_KEYS = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=10, batch_first=True)
      def forward(self, x, places, looks):
-         out, _ = self.attention(x, looks, places)
+         out, _ = self.attention(x, places, looks)
          return out
  model, args = Net(), (torch.randn(2, 5, 8), torch.randn(2, 7, 6), torch.randn(2, 7, 10))
"""
KEYS = Example(_KEYS, blames="", repair="swap key and value")


@cause("CP0D0", "unfit-argument", (GRID, KEYS), stage=("forward", "loss"), prior=1001)
def unfit_argument(crash: Crash) -> Suspects:
    """An argument of a function or layer of torch's does not fit the other arguments.

    Why it happens: each function has its own order of dims and arguments: grid_sample takes
    (N, H, W, 2), an EmbeddingBag where the bags start rather than their lengths, a Transformer
    one batch in source and target, an attention the key before the value. one_hot takes no
    label that is only a mark, such as 255 or -1 for "no class".
    What to do: transpose, expand or swap what is passed; mask marks out before one_hot.
    Known exceptions: none of these; further dims are read by torch's own pages.
    Source: the section "Shape" of each page of torch.nn and torch.nn.functional.
    """
    call = read_call(crash)
    wanted = list_wanted(call) if call is not None else []
    given: dict[str, Any] = (
        {each.name: call.values.get(each.name) for each in wanted} if call is not None else {}
    )
    odd = [w for w in wanted if isinstance(given[w.name], Tensor) and not w.fits(given[w.name])]
    if call is None or not odd:
        return
    for a, b in itertools.combinations(odd, 2):
        if a.fits(given[b.name]) and b.fits(given[a.name]):
            yield _explain(crash, call, [a, b], [_swap(crash, call, a.name, b.name)])
            return
    first, value = odd[0], given[odd[0].name]
    changes = [_change(crash, call, first.name, *each) for each in first.list_changes(value)]
    if changes or first.shape is None:
        yield _explain(crash, call, [first], changes)


def _explain(
    crash: Crash, call: BoundCall, odd: list[Wanted], candidates: list[Candidate]
) -> Suspect:
    parts = [
        f"{w.name} {w.said}, but {ast.unparse(call.nodes[w.name])} {_describe(w, call.values)}"
        for w in odd
    ]
    shapes = [f"{k} {tuple(v.shape)}" for k, v in call.values.items() if isinstance(v, Tensor)]
    return blame(
        _find_blamed(crash, call) if crash.stage == "forward" else None,
        f"{call.shown} expects {'; '.join(parts)}",
        *candidates,
        arithmetic=", ".join(shapes),
        advice=_advise(odd[0], call),
        weight=STRONG + 1,
        raised_in="" if crash.stage == "forward" else call.shown,
    )


def _find_blamed(crash: Crash, call: BoundCall) -> str:
    """Whose forward made the call; the module that was called, where what raised is inside it."""
    names = [fqn for fqn, one in crash.modules.items() if one is call.module]
    return names[0] if names and crash.leaf is not call.module else crash.owner


def _describe(wanted: Wanted, values: Any) -> str:
    value = values[wanted.name]
    if wanted.shape is not None:
        return f"is {tuple(value.shape)}"
    found = value.unique() if wanted.name == "tensor" else value
    shown = ", ".join(map(str, found.flatten()[:8].tolist()))
    return f"holds {shown}" + (", ..." if found.numel() > 8 else "")


def _advise(wanted: Wanted, call: BoundCall) -> tuple[str, ...]:
    """What to do about marks among labels."""
    value, count = call.values[wanted.name], call.values.get("num_classes")
    if wanted.name != "tensor" or not isinstance(count, int):
        return ()
    odd = value[(value < 0) | (value >= count)].unique().tolist()
    name = ast.unparse(call.nodes["tensor"])
    if len(odd) == 1 and odd[0] != count:
        text = f"mask {odd[0]} out, which is the only value beyond the classes, such as a mark for "
        text += (
            f"'no class': valid = {name} != {odd[0]}; one_hot {name} with 0 there, and multiply "
        )
        return (text + "by valid",)
    return (f"pass num_classes={int(value.max()) + 1}, or correct the labels",)


def _change(
    crash: Crash, call: BoundCall, name: str, code: str, function: Callable[[Tensor], Tensor]
) -> Candidate:
    node = call.nodes[name]
    simple = isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    text = code.format(x=ast.unparse(node) if simple else f"({ast.unparse(node)})")
    written = replace_expression(crash.error, node, text)
    title = f"pass {text} for {name}"
    edit = _edit(crash, call, title, lambda given: {name: function(given[name])})
    return propose(replace(edit, code=text, written=written), weight=STRONG)


def _swap(crash: Crash, call: BoundCall, a: str, b: str) -> Candidate:
    texts = {name: ast.unparse(call.nodes[name]) for name in (a, b)}
    one = replace_expression(crash.error, call.nodes[a], texts[b])
    other = replace_expression(crash.error, call.nodes[b], texts[a])
    title = f"swap {a} and {b}: {a} is {texts[b]}, {b} is {texts[a]}"
    edit = _edit(crash, call, title, lambda given: {a: given[b], b: given[a]})
    return propose(replace(edit, written=lambda: [*one(), *other()]), weight=STRONG)


def _edit(crash: Crash, call: BoundCall, title: str, function: Any) -> ChangeCallArguments:
    row, module = crash.call, call.module
    fqn = next((fqn for fqn, one in crash.modules.items() if one is module), None)
    return ChangeCallArguments(
        title=title,
        module=fqn if module is not None else crash.owner,
        names=call.names,
        function=function,
        kind=row.kind if row is not None and module is None else "",
        source=row.source if row is not None else "",
    )
