from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import set_argument
from cnnprobe.crash.facts.makers import resize_maker
from cnnprobe.crash.facts.words import count_elements, get_argument, read_argument
from cnnprobe.crash.suspect import POSSIBLE, STRONG, Candidates
from cnnprobe.operations import find, find_signature
from cnnprobe.records.trace import ModuleCall

_POSITIONS = {"unflatten": 2, "split": 1, "split_with_sizes": 1}  # of the sizes

_SPLIT = """
  class VAE(nn.Module):
      def __init__(self):
          super().__init__()
-         self.enc, self.dec = nn.Linear(64, 30), nn.Linear(16, 64)
+         self.enc, self.dec = nn.Linear(64, 32), nn.Linear(16, 64)
      def forward(self, x):
          mu, log_var = torch.split(self.enc(x), [16, 16], dim=1)
          return self.dec(mu + log_var.exp() * torch.randn_like(mu))
  model, args = VAE(), (torch.randn(4, 64),)
"""
SPLIT = Example(_SPLIT, blames="", repair="out_features=32 in 'enc'")
_UNFLATTEN = """
  model = nn.Sequential(
-     nn.Linear(16, 100),
+     nn.Linear(16, 128),
      nn.Unflatten(1, (8, 4, 4)),
      nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1),
  )
  args = (torch.randn(2, 16),)
"""
UNFLATTEN = Example(_UNFLATTEN, blames="1", repair="out_features=128 in '0'")


@cause("CP061", "parts-do-not-fill-dim", (SPLIT, UNFLATTEN), family="shape-mismatch", prior=300)
def parts_do_not_fill_dim(crash: Crash) -> Suspects:
    """The sizes that a dim is taken apart into do not make up its size.

    Why it happens: the sizes of torch.split must add up to the dim, and those of unflatten must
    multiply to it; the layer that makes the dim was built with another number.
    What to do: build that layer with the sum (or the product), or correct the sizes.
    Known exceptions: one size of unflatten may be -1.
    Source: torch.split and torch.nn.Unflatten.
    """
    call, layer = crash.call, crash.leaf
    if call is None or not crash.inputs:
        return
    operation = find(call)
    if isinstance(layer, nn.Unflatten):
        yield from _explain(crash, call, layer.dim, layer.unflattened_size, "unflattened_size")
    elif operation is not None and operation.name in _POSITIONS:
        argument = _name_sizes(call)
        sizes = get_argument(call, _POSITIONS[operation.name], argument)
        yield from _explain(crash, call, read_argument(call, "dim"), sizes, argument)


def _name_sizes(call: ModuleCall) -> str:
    """The argument with the sizes, as it was spelled: Tensor.split calls it split_size."""
    given = {path.partition("[")[0] for path in call.arguments}
    spelled = next((name for name in given if name.startswith("split_size")), "")
    signature = find_signature(call.kind)
    return spelled or (signature.names[2 if "sizes" in signature.names else 1] if signature else "")


def _explain(crash: Crash, call: ModuleCall, dim: Any, sizes: Any, argument: str) -> Suspects:
    x = crash.inputs[0]
    is_plain = isinstance(sizes, tuple | list) and all(isinstance(n, int) for n in sizes)
    if not is_plain or not isinstance(dim, int) or not -len(x.shape) <= dim < len(x.shape):
        return
    sizes, dim = tuple(sizes), dim % len(x.shape)
    multiplies = "split" not in argument
    total, have = count_elements(sizes) if multiplies else sum(sizes), x.shape[dim]
    if -1 in sizes or total == have:
        return
    module = call.fqn if call.fqn is not None else crash.owner
    sign, verb = (" x ", "multiply to") if multiplies else (" + ", "add up to")
    yield blame(
        module,
        f"{crash.describe_call(call)} in {crash.describe_module(crash.owner)}: the sizes "
        f"{sizes} {verb} {total}, but dim {dim} of {x.shape} is {have}",
        *_use_other_dim(crash, call, total, multiplies),
        *resize_maker(crash, x, have, total),
        *_resize_parts(crash, call, sizes, have, argument),
        arithmetic=f"{sign.join(map(str, sizes))} = {total}; {x.shape} from "
        f"{crash.describe_origin(x)}",
    )


def _use_other_dim(crash: Crash, call: ModuleCall, total: int, multiplies: bool) -> Candidates:
    """Another dim has just the size that the parts make up."""
    shape, name = crash.inputs[0].shape, "dim"
    fitting = [dim for dim, size in enumerate(shape) if size == total]
    if len(fitting) == 1 and not multiplies:
        dim = -1 if fitting[0] == len(shape) - 1 else fitting[0]
        yield propose(set_argument(crash, call, name, dim), weight=STRONG)


def _resize_parts(
    crash: Crash, call: ModuleCall, sizes: tuple[int, ...], have: int, argument: str
) -> Candidates:
    """Equal parts of a split, or another first size of an unflatten."""
    changed: list[int] = []
    if "split" in argument and have % len(sizes) == 0:
        changed = [have // len(sizes)] * len(sizes)
    rest = count_elements(sizes[1:])
    if "split" not in argument and len(sizes) > 1 and rest and have % rest == 0:
        changed = [have // rest, *sizes[1:]]
    if changed:
        title = f"split into {changed} at {{place}}" if "split" in argument else ""
        value = changed if "split" in argument else tuple(changed)
        yield propose(set_argument(crash, call, argument, value, title=title), weight=POSSIBLE)
