import itertools
import math

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.features import is_failing_view
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.facts.words import operation, quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Candidates

_MOST_SHOWN = 2  # other numbers that are tried

_PROGRAM = """
  class Attention(nn.Module):
-     def __init__(self, dim=32, heads=5):
+     def __init__(self, dim=32, heads=4):
          super().__init__()
          self.heads = heads
          self.qkv = nn.Linear(dim, 3 * dim)
          self.out = nn.Linear(dim, dim)
      def forward(self, x):
          b, n, c = x.shape
          q, k, v = self.qkv(x).chunk(3, dim=-1)
          q, k, v = (t.reshape(b, n, self.heads, c // self.heads).transpose(1, 2) for t in (q, k, v))
          x = F.scaled_dot_product_attention(q, k, v)
          return self.out(x.transpose(1, 2).reshape(b, n, c))
  model, args = Attention(), (torch.randn(2, 7, 32),)
"""  # noqa: E501
EXAMPLE = Example(_PROGRAM, blames="", repair="set heads=4")


@cause("CP009", "heads-do-not-divide", EXAMPLE, family="shape-mismatch", prior=807)
def heads_do_not_divide(crash: Crash) -> Suspects:
    """A view splits channels into heads or groups that do not divide them.

    Why it happens: each head gets c // heads channels. Where heads does not divide c, some
    channels are left over, and the sizes of the view come to fewer elements.
    What to do: choose a number of heads that divides the channels, or channels that it divides.
    Known exceptions: none.
    Source: docs of torch.nn.MultiheadAttention (embed_dim has to be divisible by num_heads).
    """
    if (call := crash.call) is None or not is_failing_view(call):
        return
    shape, sizes = call.inputs[0].shape, read_sizes(call)
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(shape, sizes, strict=False))
    split = sizes[
        len(list(alike)) :
    ]  # (N, T, 3 * C) to (N, T, 3, heads, C // heads): N and T are kept
    owner = crash.modules.get(crash.owner)
    for name, parts in _list_numbers(owner) if owner is not None and min(sizes) > 0 else ():
        for each in dict.fromkeys(split) if parts in split else ():
            channels, rest = divmod(math.prod(shape) * parts * each, math.prod(sizes))
            if rest or channels // parts != each or not channels % parts:
                continue
            advice = (f"choose {name} so that it divides {channels}: {_list_divisors(channels)}",)
            yield blame(
                crash.owner,
                f"{crash.describe_module(crash.owner)} splits {channels} channels by "
                f"{name}={parts}, which does not divide them",
                *_propose_numbers(crash, owner, name, parts=parts, channels=channels),
                arithmetic=f"{channels} = {parts} x {each} + {channels % parts}; "
                f"{operation(call)}{sizes} of {shape}",
                advice=advice,
            )
            return


def _list_divisors(channels: int) -> str:
    return ", ".join(str(n) for n in range(2, channels) if channels % n == 0) or "none does"


def _list_numbers(module: nn.Module) -> list[tuple[str, int]]:
    """The attributes that are whole numbers, which may be numbers of heads."""
    return [(key, n) for key, n in module.__dict__.items() if type(n) is int and n > 1]


def _propose_numbers(
    crash: Crash, owner: nn.Module | None, name: str, *, parts: int, channels: int
) -> Candidates:
    """First the groups of a layer beside it, then the nearest numbers that divide the channels."""
    if owner is None:
        return
    layers = [m for m in owner.modules() if isinstance(m, nn.modules.conv._ConvNd)]
    fitting = [n for n in range(2, channels) if channels % n == 0]
    best = [n for n in dict.fromkeys(m.groups for m in layers) if n in fitting]
    nearest = sorted((n for n in fitting if n not in best), key=lambda n: (abs(n - parts), -n))
    alike = [
        fqn
        for fqn, m in crash.modules.items()
        if type(m) is type(owner) and m.__dict__.get(name) == parts
    ]
    numbers = _list_numbers(owner)
    kept = [key for key, n in numbers if n == channels // parts and key != name and "dim" in key]
    place = quote(alike[0])
    if len(alike) > 1:
        place = f"the {len(alike)} modules like {quote(crash.owner)}"
    for number in [*best, *nearest][:_MOST_SHOWN]:
        values = {name: number, **dict.fromkeys(kept, channels // number)}
        texts = ", ".join(f"{key}={value}" for key, value in values.items())
        yield Candidate(
            edits=tuple(_set(fqn, key, value) for fqn in alike for key, value in values.items()),
            weight=STRONG if number in best else USUAL,
            summary=f"set {texts} in {place} (now {name}={parts})",
        )


def _set(fqn: str, name: str, value: int) -> Edit:
    title = f"set {name}={value} in {quote(fqn)}"
    code = f"{name}={value}"
    return SetAttribute(title=title, code=code, module=fqn, name=name, value=lambda _module: value)
